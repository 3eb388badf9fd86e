"""Reader of files in the format of ``torch.save``, such as the weights in a ``.nemo`` file.

Names, shapes, sizes and dtypes are checked before any weights are read. Each storage is then read once, directly into
the memory of its tensor, so loading needs no more memory than the weights themselves. All checksums are verified.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prott5nv.checkpoint.state_dict_pickle import Storage, StoredTensor, read_state_dict
from prott5nv.errors import ProtT5nvError

if TYPE_CHECKING:
    import torch

# Limits in bytes.
MAX_DIRECTORY = 1 << 20  # of the zip file's table of contents
MAX_PICKLE = 1 << 21
_LOCAL_HEADER = struct.Struct("<26xHH")  # its last two fields are the lengths of the name and of the padding


class TorchArchive:
    """A ``torch.save`` file, which is a zip file.

    Parameters
    ----------
    file : BufferedReader
        The open zip file.
    where : str
        File and member for error messages.
    comment : int, default 0
        Length of the comment at the end of the zip file in bytes.

    Attributes
    ----------
    content : dict
        What was saved, with a :class:`~prott5nv.checkpoint.state_dict_pickle.StoredTensor` for each tensor. The numbers
        are not read yet.

    Raises
    ------
    ProtT5nvError
        If the file differs from what ``torch.save`` writes for tensors and plain data.
    """

    def __init__(self, file: io.BufferedReader[Any], where: str, comment: int = 0) -> None:
        self._where = where
        self._file = file
        size = self._checked_size(file, comment)
        try:
            self._zip = zipfile.ZipFile(file)
            self._entries = self._checked_entries(size)
            pickle = self._zip.read(self._entry("data.pkl", MAX_PICKLE))
            if "byteorder" in self._entries and self._zip.read(self._entry("byteorder", 16)) != b"little":
                raise ProtT5nvError(f"{where}: saved on a big-endian machine; save it again on a little-endian one")
        except ProtT5nvError:
            raise
        except _ZIP_ERRORS as error:
            raise self._damage(error) from None
        self.content = read_state_dict(pickle, where)

    def read_tensors(self, tensors: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Read tensors in the dtype of the file.

        Parameters
        ----------
        tensors : mapping of str to StoredTensor
            Descriptions of the tensors by names for error messages.

        Returns
        -------
        dict of str to Tensor
            The tensors by name. Tensors with the same storage share memory.

        Raises
        ------
        ProtT5nvError
            If a description does not fit the file, or a checksum does not match.
        """
        tensors = {name: self._checked(name, tensor) for name, tensor in tensors.items()}
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        in_file_order = sorted(storages, key=lambda key: self._entries[f"data/{key}"].header_offset)
        try:
            values = {key: self._read_storage(storages[key]) for key in in_file_order}
        except _ZIP_ERRORS as error:
            raise self._damage(error) from None
        state = {}
        for name, tensor in tensors.items():
            flat = values[tensor.storage.key][tensor.offset : tensor.offset + math.prod(tensor.shape)]
            state[name] = flat.view(tensor.shape)
        return state

    def _read_storage(self, storage: Storage) -> torch.Tensor:
        """Read one storage into a new tensor and verify its checksum."""
        import torch

        flat = torch.empty(storage.length, dtype=getattr(torch, storage.dtype))
        content = flat.view(torch.uint8).numpy().data
        entry = self._entries[f"data/{storage.key}"]
        self._file.seek(entry.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if header[:4] != b"PK\3\4":
            raise zipfile.BadZipFile(f"{entry.filename!r} has no header")
        self._file.seek(sum(_LOCAL_HEADER.unpack(header)), 1)  # skip the name and the padding
        if self._file.readinto(content) != len(content) or zlib.crc32(content) != entry.CRC:
            raise zipfile.BadZipFile(f"the checksum of {entry.filename!r} does not match")
        return flat

    def _checked_size(self, file: io.BufferedReader[Any], comment: int) -> int:
        """Return the size in bytes; refuse files that are not zip files, and a huge table of contents."""
        size = file.seek(0, 2) - comment
        file.seek(max(0, size - 98))
        tail = file.read(98)
        if tail[-22:-18] != b"PK\5\6":
            raise ProtT5nvError(f"{self._where}: not in torch.save's zip format (PyTorch 1.6 or newer), or truncated")
        length = struct.unpack("<L", tail[-10:-6])[0]
        if tail[-42:-38] == b"PK\6\7" and tail[-98:-94] == b"PK\6\6":  # zip64
            length = struct.unpack("<Q", tail[-58:-50])[0]
        if length > MAX_DIRECTORY:
            raise ProtT5nvError(f"{self._where}: a table of contents of {length:,} bytes; expected {MAX_DIRECTORY:,}")
        return size

    def _checked_entries(self, size: int) -> dict[str, zipfile.ZipInfo]:
        """Return the entries of the zip file by name, without the name of the folder that contains all entries."""
        entries = {}
        for entry in self._zip.infolist():
            shown = repr(entry.filename[:200])
            name = entry.filename.partition("/")[2]
            if name in entries:
                raise ProtT5nvError(f"{self._where}: {shown} is stored twice; expected each entry once")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise ProtT5nvError(f"{self._where}: {shown} is compressed; torch.save never does that")
            entries[name] = entry
        if sum(entry.file_size for entry in entries.values()) > size:
            raise ProtT5nvError(f"{self._where}: entries overlap; expected separate entries")
        return entries

    def _entry(self, name: str, limit: int) -> zipfile.ZipInfo:
        """Return an entry of at most `limit` bytes."""
        entry = self._entries.get(name)
        if entry is None or entry.file_size > limit:
            raise ProtT5nvError(f"{self._where}: {name!r} is missing or too large; expected torch.save's layout")
        return entry

    def _checked(self, name: str, tensor: Any) -> StoredTensor:
        """Check that a tensor fits into its storage, and the storage into its entry."""
        if not isinstance(tensor, StoredTensor):
            raise ProtT5nvError(f"{self._where}: {name[:200]!r} is not a tensor; expected tensors by name")
        storage = tensor.storage
        count = math.prod(tensor.shape)
        entry = self._entries.get(f"data/{storage.key}")
        if entry is None or entry.file_size != storage.length * storage.itemsize:
            raise ProtT5nvError(f"{self._where}: the data of {name[:200]!r} are missing or of another length")
        if tensor.offset + count > storage.length or not _is_contiguous(tensor):
            raise ProtT5nvError(f"{self._where}: {name[:200]!r} is not contiguous in its storage")
        return tensor

    def _damage(self, error: Exception) -> ProtT5nvError:
        return ProtT5nvError(f"{self._where}: damaged ({str(error)[:200]}); copy the file again")


class Weights(TorchArchive):
    """The tensors of a ``torch.save`` file that holds a flat state dict.

    Parameters
    ----------
    file : BufferedReader
        The open zip file.
    where : str
        File and member for error messages.

    Attributes
    ----------
    tensors : dict of str to StoredTensor
        Descriptions of the tensors, without entries of ``_extra_state``. The weights are not read yet.

    Raises
    ------
    ProtT5nvError
        If the file differs from what ``torch.save`` writes for a flat state dict.
    """

    def __init__(self, file: io.BufferedReader[Any], where: str) -> None:
        super().__init__(file, where)
        self.tensors = {}
        for key, value in self.content.items():
            name = str(key)
            if not name.endswith("_extra_state"):
                self.tensors[name] = self._checked(name, value)

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Read tensors in the dtype of the file.

        Parameters
        ----------
        names : iterable of str
            Names of the tensors to read.

        Returns
        -------
        dict of str to Tensor
            The tensors by name. Tensors with the same storage share memory.

        Raises
        ------
        ProtT5nvError
            If a checksum does not match, or a tensor contains NaN or infinity.
        """
        import torch

        state = self.read_tensors({name: self.tensors[name] for name in names})
        for name, tensor in state.items():
            if not math.isfinite(tensor.sum(dtype=torch.float32)):  # ten times faster than torch.isfinite
                raise ProtT5nvError(f"{self._where}: {name!r} contains NaN or infinity; expected finite weights")
        return state


_ZIP_ERRORS = (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError, RuntimeError, ValueError, struct.error)


def _is_contiguous(tensor: StoredTensor) -> bool:
    expected = 1
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True
