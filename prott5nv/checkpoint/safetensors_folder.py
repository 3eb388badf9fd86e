"""Writer of safetensors files, and reader of the weights in a Hugging Face folder.

A folder has its weights in one safetensors file, or in several with an index.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open

from prott5nv.errors import ProtT5nvError
from prott5nv.io.text import valid_text

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TORCH_FILE = "pytorch_model.bin"
TORCH_INDEX_FILE = "pytorch_model.bin.index.json"

# Limits in bytes, except for the last. The header of a predictor with the whole encoder of ProtT5-XL has 21,000 bytes,
# and the classes of a predictor can need up to 2 MiB. Parsing 4 MiB takes a third of a second.
_MAX_JSON = 1 << 22
_MAX_HEADER = 1 << 22
_MAX_SHARDS = 256

_VALUES = 1 << 20  # that are checked at once

#: Data types of weights by their names in safetensors.
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class StoredTensor(NamedTuple):
    """Description of a tensor in a file.

    Attributes
    ----------
    file : str
        Name of the file in the folder.
    dtype : str
        Data type by safetensors' name, such as ``F32``.
    shape : tuple of int
        Its shape.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]


class SafetensorsFolder:
    """Read the weights of a folder that transformers or this package wrote.

    Parameters
    ----------
    folder : Path
        Folder with ``model.safetensors``, or with ``model.safetensors.index.json`` and the files named in it.

    Attributes
    ----------
    tensors : dict of str to StoredTensor
        Descriptions of all tensors by name. No values are read yet.

    Raises
    ------
    ProtT5nvError
        If a file is missing or damaged, or the index does not match the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.tensors: dict[str, StoredTensor] = {}
        sharded = not (folder / WEIGHTS_FILE).exists() and (folder / INDEX_FILE).exists()
        index = read_index(folder / INDEX_FILE, ".safetensors") if sharded else None
        for file in sorted(set(index.values())) if index is not None else [WEIGHTS_FILE]:
            self._open(file)
        if index is not None and index != {name: tensor.file for name, tensor in self.tensors.items()}:
            raise ProtT5nvError(f"{folder / INDEX_FILE}: the files contain other tensors than this index lists")

    def check(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """Check that a tensor exists and has a floating-point type and the expected shape.

        Parameters
        ----------
        name : str
            Name of the tensor.
        shape : tuple of int
            Expected shape.

        Returns
        -------
        StoredTensor
            Its description.

        Raises
        ------
        ProtT5nvError
            If the tensor is missing or differs.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ProtT5nvError(f"{self._folder}: {name!r} is missing; expected every parameter of the model")
        check_form(f"{self._folder / tensor.file}: {name!r}", tensor, DTYPES, shape)
        return tensor

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor.

        Parameters
        ----------
        name : str
            Name of the tensor, which must exist.

        Returns
        -------
        Tensor
            Its values in the data type of the file.

        Raises
        ------
        ProtT5nvError
            If a value is NaN or infinite, or the file has changed since it was checked.
        """
        file, dtype, shape = self.tensors[name]
        # The pages of a file stay in memory while it is open, so it is opened again for each tensor.
        try:
            with safe_open(self._folder / file, framework="pt") as opened:
                tensor: torch.Tensor = opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ProtT5nvError(f"{self._folder / file}: changed while it was read ({str(error)[:200]})") from None
        if (str(tensor.dtype), tuple(tensor.shape)) != (f"torch.{DTYPES[dtype]}", shape):
            raise ProtT5nvError(f"{self._folder / file}: changed while it was read")
        if not is_finite(tensor):
            raise ProtT5nvError(f"{self._folder / file}: {name!r} contains NaN or infinity; expected finite weights")
        return tensor

    def _open(self, name: str) -> None:
        """Open a file and describe its tensors."""
        path = self._folder / name
        if not path.is_file():
            raise ProtT5nvError(f"{path}: no such file; expected weights as safetensors")
        try:
            with open_safetensors(path) as file:
                for tensor in file.keys():  # noqa: SIM118 (the object is not iterable)
                    if tensor in self.tensors:
                        raise ProtT5nvError(f"{path}: {tensor[:200]!r} is also in {self.tensors[tensor].file}")
                    part = file.get_slice(tensor)
                    self.tensors[tensor] = StoredTensor(name, part.get_dtype(), tuple(part.get_shape()))
        except (OSError, SafetensorError) as error:
            raise ProtT5nvError(f"{path}: not a sound safetensors file ({str(error)[:200]})") from None


@contextmanager
def open_safetensors(path: Path) -> Iterator[safe_open]:
    """Open a safetensors file whose header is not larger than that of a model.

    Parameters
    ----------
    path : Path
        File to open.

    Yields
    ------
    safe_open

    Raises
    ------
    ProtT5nvError
        If the path is not UTF-8, or the header is too large: parsing one with a million tensors takes seconds and
        gigabytes.
    OSError, SafetensorError
        If the file cannot be read.
    """
    with path.open("rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
    if header > _MAX_HEADER:
        raise ProtT5nvError(f"{path}: a header of {header:,} bytes; at most {_MAX_HEADER:,} are read")
    if str(path) != valid_text(str(path)):
        raise ProtT5nvError(f"{path}: the path is not UTF-8, as it must be for safetensors; rename the file or folder")
    with safe_open(path, framework="pt") as file:
        yield file


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether no value of a tensor is NaN or infinite; in parts, so that the check takes little memory."""
    return all(bool(part.isfinite().all()) for part in tensor.flatten().split(_VALUES))


def check_form(where: str, tensor: Any, dtypes: Collection[str], shape: tuple[int, ...]) -> None:
    """Refuse a tensor that has another data type or shape.

    Parameters
    ----------
    where : str
        File and name of the tensor, for the message.
    tensor : StoredTensor
        Description of the tensor, with `dtype` and `shape`.
    dtypes : collection of str
        How the file calls the data types in :data:`DTYPES`.
    shape : tuple of int
        The expected shape.

    Raises
    ------
    ProtT5nvError
        If it differs.
    """
    if tensor.dtype not in dtypes:
        raise ProtT5nvError(f"{where} is {tensor.dtype}; expected one of {', '.join(DTYPES.values())}")
    if tensor.shape != shape:
        raise ProtT5nvError(f"{where} has shape {tensor.shape}; expected {shape}")


def read_index(path: Path, suffix: str) -> dict[str, str]:
    """Read the index of a folder whose weights are in several files.

    Parameters
    ----------
    path : Path
        The index, a JSON file.
    suffix : str
        Suffix that all files have.

    Returns
    -------
    dict of str to str
        Name of the file of each tensor.

    Raises
    ------
    ProtT5nvError
        If the index is missing or has other content, or names too many files or one outside the folder.
    """
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ProtT5nvError(f"{path}: 'weight_map' is missing; expected the file of each tensor")
    for file in index.values():
        if not isinstance(file, str) or not file.endswith(suffix) or Path(file).name != file:
            raise ProtT5nvError(f"{path}: {str(file)[:200]!r} is not the name of a {suffix[1:]} file in the folder")
    if len(set(index.values())) > _MAX_SHARDS:
        raise ProtT5nvError(f"{path}: names {len(set(index.values())):,} files; at most {_MAX_SHARDS} are read")
    return index


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Parameters
    ----------
    path : Path
        File to read.

    Returns
    -------
    dict
        Its content.

    Raises
    ------
    ProtT5nvError
        If the file is missing, too large, or has other content.
    """
    if not path.is_file():
        raise ProtT5nvError(f"{path}: no such file; expected a Hugging Face folder")
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ProtT5nvError(f"{path}: larger than {_MAX_JSON:,} bytes, which no such file needs")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProtT5nvError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise ProtT5nvError(f"{path}: not JSON in UTF-8") from None
    if not isinstance(values, dict):
        raise ProtT5nvError(f"{path}: not a JSON object")
    return values


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file with the permissions of an ordinary new file.

    Parameters
    ----------
    path : Path
        File to write.
    tensors : dict of str to Tensor
        Contiguous tensors by name. Their data must not overlap.
    metadata : dict of str to str
        Texts for the header of the file.

    Raises
    ------
    OSError
        If the file cannot be written, for example because the disk is full.
    """
    from safetensors.torch import save_file

    # safetensors itself creates files that only their owner can read.
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"cannot be written ({' '.join(str(error).split())})") from None
    path.chmod(mode)
