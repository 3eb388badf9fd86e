"""Weights of a ``.nemo`` file: the zip that ``torch.save`` writes, read tensor by tensor.

No tensor's bytes are touched before names, shapes, sizes and dtypes have been checked, each storage is read once and
straight into its tensor, so that loading needs the memory of the weights and no more, and the checksums are compared.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, BinaryIO

from prott5nv.checkpoint.state_dict_pickle import Storage, StoredTensor, read_state
from prott5nv.errors import ProtT5nvError

if TYPE_CHECKING:
    import torch

MAX_DIRECTORY = 1 << 20
MAX_PICKLE = 1 << 21
_LOCAL_HEADER = struct.Struct("<26xHH")


class Weights:
    """The tensors of a ``torch.save`` file.

    Parameters
    ----------
    file : binary file
        Seekable.
    where : str
        File and member, for messages.

    Attributes
    ----------
    tensors : dict of str to StoredTensor
        What the file describes; nothing is read yet. ``_extra_state`` entries are left out.

    Raises
    ------
    ProtT5nvError
        If the file is not what ``torch.save`` writes for a flat state dict.
    """

    def __init__(self, file: BinaryIO, where: str):
        self._where = where
        self._file = file
        size = self._checked_size(file)
        try:
            self._zip = zipfile.ZipFile(file)
            self._entries = self._checked_entries(size)
            pickle = self._zip.read(self._entry("data.pkl", MAX_PICKLE))
            if "byteorder" in self._entries and self._zip.read(self._entry("byteorder", 16)) != b"little":
                raise ProtT5nvError(f"{where}: saved on a big-endian machine; save it again on a usual one")
        except ProtT5nvError:
            raise
        except _ZIP_ERRORS as error:
            raise self._damage(error) from None
        self.tensors = {}
        for name, value in read_state(pickle, where).items():
            if not name.endswith("_extra_state"):
                self.tensors[name] = self._checked(name, value)

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Tensors by name, in the dtype of the file; names that share a storage share memory.

        Raises
        ------
        ProtT5nvError
            If the bytes do not match their checksum, or hold NaN or infinity.
        """
        import torch

        tensors = {name: self.tensors[name] for name in names}
        storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        in_file_order = sorted(storages, key=lambda key: self._entries[f"data/{key}"].header_offset)
        try:
            numbers = {key: self._read_storage(storages[key]) for key in in_file_order}
        except _ZIP_ERRORS as error:
            raise self._damage(error) from None
        state = {}
        for name, tensor in tensors.items():
            flat = numbers[tensor.storage.key][tensor.offset : tensor.offset + math.prod(tensor.shape)]
            if not math.isfinite(flat.sum(dtype=torch.float32)):  # ten times faster than torch.isfinite
                raise ProtT5nvError(f"{self._where}: {name!r} holds NaN or infinity; expected finite weights")
            state[name] = flat.view(tensor.shape)
        return state

    def _read_storage(self, storage: Storage) -> torch.Tensor:
        import torch

        flat = torch.empty(storage.length, dtype=getattr(torch, storage.dtype))
        content = memoryview(flat.view(torch.uint8).numpy())
        entry = self._entries[f"data/{storage.key}"]
        self._file.seek(entry.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if header[:4] != b"PK\3\4":
            raise zipfile.BadZipFile(f"no header of {entry.filename!r}")
        self._file.seek(sum(_LOCAL_HEADER.unpack(header)), 1)  # the name again, and padding
        if self._file.readinto(content) != len(content) or zlib.crc32(content) != entry.CRC:
            raise zipfile.BadZipFile(f"checksum of {entry.filename!r} differs")
        return flat

    def _checked_size(self, file: BinaryIO) -> int:
        """Size in bytes; refuse what is no zip, and a table of contents that would fill the memory."""
        size = file.seek(0, 2)
        file.seek(max(0, size - 98))
        tail = file.read(98)
        if tail[-22:-18] != b"PK\5\6":
            raise ProtT5nvError(f"{self._where}: not in torch.save's zip format (PyTorch 1.6 or newer), or cut short")
        length = struct.unpack("<L", tail[-10:-6])[0]
        if tail[-42:-38] == b"PK\6\7" and tail[-98:-94] == b"PK\6\6":  # zip64
            length = struct.unpack("<Q", tail[-58:-50])[0]
        if length > MAX_DIRECTORY:
            raise ProtT5nvError(f"{self._where}: contents listed in {length:,} bytes; expected {MAX_DIRECTORY:,}")
        return size

    def _checked_entries(self, size: int) -> dict[str, zipfile.ZipInfo]:
        """Entries by name below the zip's one folder."""
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
            raise ProtT5nvError(f"{self._where}: entries lie on top of each other; expected each in its own place")
        return entries

    def _entry(self, name: str, limit: int) -> zipfile.ZipInfo:
        entry = self._entries.get(name)
        if entry is None or entry.file_size > limit:
            raise ProtT5nvError(f"{self._where}: {name!r} is missing or too large; expected torch.save's layout")
        return entry

    def _checked(self, name: str, tensor: Any) -> StoredTensor:
        if not isinstance(tensor, StoredTensor):
            raise ProtT5nvError(f"{self._where}: {name[:200]!r} is not a tensor; expected tensors by name")
        storage = tensor.storage
        count = math.prod(tensor.shape)
        entry = self._entries.get(f"data/{storage.key}")
        if entry is None or entry.file_size != storage.length * storage.itemsize:
            raise ProtT5nvError(f"{self._where}: the numbers of {name[:200]!r} are missing or of another length")
        if tensor.offset + count > storage.length or not _is_contiguous(tensor):
            raise ProtT5nvError(f"{self._where}: {name[:200]!r} does not lie in one piece in its storage")
        return tensor

    def _damage(self, error: Exception) -> ProtT5nvError:
        return ProtT5nvError(f"{self._where}: damaged ({str(error)[:200]}); copy the file again")


_ZIP_ERRORS = (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError, RuntimeError, ValueError, struct.error)


def _is_contiguous(tensor: StoredTensor) -> bool:
    expected = 1
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True
