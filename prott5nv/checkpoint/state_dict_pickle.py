"""Safe interpreter of the pickle in a ``torch.save`` file.

``torch.load(weights_only=True)`` prevents a pickle from calling arbitrary functions, but it still builds every object
that the pickle describes. A hundred bytes can describe nested tuples that take forever to hash, or a buffer of any
size. A state dict needs none of this. This module interprets only the operations that ``torch.save`` writes for
tensors, numbers, texts, lists and dictionaries, and refuses all others. It imports, calls and allocates nothing. Its
result describes the tensors; :mod:`prott5nv.checkpoint.weights` checks the description and reads the bytes.
"""

from __future__ import annotations

import pickletools
from typing import Any, NamedTuple

from prott5nv.errors import ProtT5nvError

# PyTorch's storage classes with the dtype and the size of a number in bytes.
STORAGES = {
    "torch FloatStorage": ("float32", 4),
    "torch HalfStorage": ("float16", 2),
    "torch BFloat16Storage": ("bfloat16", 2),
    "torch DoubleStorage": ("float64", 8),
    "torch ByteStorage": ("uint8", 1),
    "torch LongStorage": ("int64", 8),
    "torch IntStorage": ("int32", 4),
    "torch BoolStorage": ("bool", 1),
}
_ORDERED_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_ALLOWED = {*STORAGES, _ORDERED_DICT, _TENSOR, _PARAMETER}

_MARK = object()


class Storage(NamedTuple):
    """A block of `length` numbers in the file, stored as ``data/<key>``."""

    key: str
    dtype: str
    itemsize: int
    length: int


class StoredTensor(NamedTuple):
    """Description of a tensor: a view of a storage. `offset` and `stride` count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """Name of the dtype in PyTorch, such as ``float32``."""
        return self.storage.dtype


class _Name(NamedTuple):
    """Placeholder for a function or class that the pickle names. It is never imported."""

    text: str


class _Damaged(Exception):
    """The pickle is damaged or does not describe a state dict."""


def read_state_dict(pickle: bytes, where: str) -> dict[Any, Any]:
    """Interpret the pickle of a state dict, or of a dictionary that contains some.

    Parameters
    ----------
    pickle : bytes
        Content of ``data.pkl`` in a file that ``torch.save`` wrote.
    where : str
        File and member for error messages.

    Returns
    -------
    dict
        Descriptions of tensors, and plain data, by texts or integers. A list or dictionary may contain itself, because
        a pickle can describe that.

    Raises
    ------
    ProtT5nvError
        If the pickle describes anything other than tensors and plain data. No code of the pickle was run.
    """
    try:
        return _interpret(pickle, where)
    except (_Damaged, ValueError, IndexError, KeyError, TypeError) as error:
        if isinstance(error, ProtT5nvError):
            raise
        raise ProtT5nvError(f"{where}: not a state dict that torch.save wrote; expected tensors by name") from None


def _interpret(pickle: bytes, where: str) -> dict[Any, Any]:
    """Run the pickle's stack machine with the allowed operations."""
    stack: list[Any] = []
    argument: Any
    memo: dict[int, Any] = {}

    def pop_to_mark() -> list[Any]:
        for index in range(len(stack) - 1, -1, -1):
            if stack[index] is _MARK:
                items = stack[index + 1 :]
                del stack[index:]
                return items
        raise _Damaged

    for opcode, argument, _ in pickletools.genops(pickle):
        match opcode.name:
            case "PROTO":
                pass
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if opcode.name == "APPEND" else pop_to_mark()
                if type(stack[-1]) is not list:
                    raise _Damaged
                stack[-1].extend(items)
            case "MARK":
                stack.append(_MARK)
            case "TUPLE":
                stack.append(tuple(pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                if len(stack) < count:
                    raise _Damaged
                stack[-count:] = [tuple(stack[-count:])]
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                if argument not in _ALLOWED:
                    name = argument.replace(" ", ".")[:100]
                    raise ProtT5nvError(f"{where}: contains {name!r}; expected only tensors, so nothing in it was run")
                stack.append(_Name(argument))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_rebuilt(function, arguments))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "SETITEMS":
                items = pop_to_mark()
                _set_items(stack[-1], items)
            case "BUILD":  # it attaches the version of each module, which is ignored here
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise _Damaged
            case "STOP":
                if len(stack) != 1 or not isinstance(stack[0], dict):
                    raise _Damaged
                return stack[0]
            case _:
                raise ProtT5nvError(f"{where}: contains the pickle operation {opcode.name}; expected only tensors")
    raise _Damaged


def _set_items(target: Any, items: list[Any]) -> None:
    """Add alternating keys and values to a dict."""
    if not isinstance(target, dict) or len(items) % 2:
        raise _Damaged
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, int) or key in target:
            raise _Damaged
        target[key] = value


def _storage(persistent_id: Any) -> Storage:
    """Convert PyTorch's persistent id of a storage."""
    kind, name, key, _device, length = persistent_id
    if kind != "storage" or not isinstance(name, _Name) or not isinstance(key, str) or not _is_count(length):
        raise _Damaged
    return Storage(key, *STORAGES[name.text], length)


def _rebuilt(function: Any, arguments: Any) -> Any:
    """Return what a call of one of the allowed functions would build."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise _Damaged
    if function.text == _ORDERED_DICT and arguments == ():
        return {}
    if function.text == _PARAMETER and isinstance(arguments[0], StoredTensor):
        return arguments[0]
    if function.text == _TENSOR:
        storage, offset, shape, stride = arguments[:4]
        counts = _is_count(offset) and _are_counts(shape) and _are_counts(stride)
        if isinstance(storage, Storage) and counts and len(shape) == len(stride):
            return StoredTensor(storage, offset, shape, stride)
    raise _Damaged


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _are_counts(values: Any) -> bool:
    return type(values) is tuple and all(map(_is_count, values))
