"""The pickle of a ``torch.save`` file, read as data.

``torch.load(weights_only=True)`` keeps a pickle from calling arbitrary functions, but it still builds whatever the
pickle describes: a hundred bytes can ask for tuples that never finish hashing, or for a buffer of any length. A state
dict needs none of that. This module interprets the two dozen operations that ``torch.save`` writes for one and refuses
all others, so that nothing is imported, called or allocated; what comes out is a description of the tensors, enough to
say what a file is. :mod:`prott5nv.checkpoint.weights` checks it and reads the bytes.
"""

from __future__ import annotations

import pickletools
from typing import Any, NamedTuple

from prott5nv.errors import ProtT5nvError

# torch's storage classes, by the dtype and item size in bytes.
STORAGES = {
    "torch FloatStorage": ("float32", 4),
    "torch HalfStorage": ("float16", 2),
    "torch BFloat16Storage": ("bfloat16", 2),
    "torch DoubleStorage": ("float64", 8),
    "torch ByteStorage": ("uint8", 1),
}
_ORDERED_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_ALLOWED = {*STORAGES, _ORDERED_DICT, _TENSOR, _PARAMETER}

_MARK = object()


class Storage(NamedTuple):
    """A block of numbers in the file: ``data/<key>``, ``length`` items."""

    key: str
    dtype: str
    itemsize: int
    length: int


class StoredTensor(NamedTuple):
    """A tensor as the file describes it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """Name of the dtype, as in ``torch.float32``."""
        return self.storage.dtype


class _Name(NamedTuple):
    """Stands for a function or class that the pickle mentions; never resolved."""

    text: str


class _Damaged(Exception):
    """The pickle does not describe a state dict."""


def read_state(pickle: bytes, where: str) -> dict[str, Any]:
    """Interpret the pickle of a flat state dict.

    Parameters
    ----------
    pickle : bytes
        ``data.pkl`` of a file that ``torch.save`` wrote.
    where : str
        File and member, for messages.

    Returns
    -------
    dict of str to StoredTensor
        Values that are not tensors (as in ``_extra_state``) come through as plain data.

    Raises
    ------
    ProtT5nvError
        If the pickle holds anything but tensors by name. Nothing in it has been run.
    """
    try:
        return _interpret(pickle, where)
    except (_Damaged, ValueError, IndexError, KeyError, TypeError) as error:
        if isinstance(error, ProtT5nvError):
            raise
        raise ProtT5nvError(f"{where}: not a state dict that torch.save wrote; expected tensors by name") from None


def _interpret(pickle: bytes, where: str) -> dict[str, Any]:
    stack: list[Any] = []
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
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
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
                    raise ProtT5nvError(f"{where}: asks for {name!r}; expected tensors only, so nothing in it was run")
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
            case "BUILD":  # the version record of each module, which nothing here needs
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise _Damaged
            case "STOP":
                if len(stack) != 1 or not isinstance(stack[0], dict):
                    raise _Damaged
                return stack[0]
            case _:
                raise ProtT5nvError(f"{where}: holds the pickle operation {opcode.name}; expected tensors only")
    raise _Damaged


def _set_items(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict) or len(items) % 2:
        raise _Damaged
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str) or key in target:
            raise _Damaged
        target[key] = value


def _storage(identity: Any) -> Storage:
    kind, name, key, _device, length = identity
    if kind != "storage" or not isinstance(name, _Name) or not isinstance(key, str) or not _is_count(length):
        raise _Damaged
    return Storage(key, *STORAGES[name.text], length)


def _rebuilt(function: Any, arguments: Any) -> Any:
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
