"""The outer layer of a ``.nemo`` file: a tar, plain or gzip-compressed, from anyone.

Python's ``tarfile`` follows links, honours headers that rename or resize the next member, and keeps the last of two
members with one name. None of that belongs in a checkpoint, so this reader walks the 512-byte headers itself, notes
where each regular member lies, and refuses everything else by name. Nothing is ever unpacked to a path.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import posixpath
import re
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from prott5nv.errors import ProtT5nvError

BLOCK = 512
MAX_HEADERS = 1000
MAX_HEADER = 1 << 16  # extended headers hold time stamps
MAX_OTHER = 1 << 26  # members that are neither weights nor small text
MAX_TAIL = 1 << 20  # zero padding after the last member

_CHUNK = 1 << 20
_SHARDED = re.compile(r"(?:mp|tp)_rank_\d+")


class Member(NamedTuple):
    """Where a member's bytes lie in the (decompressed) tar."""

    offset: int
    size: int


class Archive:
    """The regular members of a tar file, checked.

    Parameters
    ----------
    path : path-like
        A ``.nemo`` file.

    Attributes
    ----------
    members : dict of str to Member
        By name, without a leading ``./``.

    Raises
    ------
    ProtT5nvError
        If the file is no tar, is cut short or damaged, or holds a link, a device, a folder, an absolute or ``..`` name,
        or a name twice. The message names the file and the member.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.exists():
            raise ProtT5nvError(f"{self.path}: no such file")
        if not self.path.is_file():  # a named pipe would block for ever
            raise ProtT5nvError(f"{self.path}: not a regular file; expected a .nemo checkpoint")
        try:
            self._raw = self.path.open("rb")
        except OSError as error:
            raise ProtT5nvError(f"{self.path}: {error.strerror}") from None
        self._tar = self._raw
        try:
            if self._raw.read(2) == b"\x1f\x8b":
                self._tar = self._decompressed()
            self._size = self._tar.seek(0, io.SEEK_END)
            self.members = self._scan()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and with it the temporary copy of a compressed one."""
        self._tar.close()
        self._raw.close()

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a small member.

        Raises
        ------
        ProtT5nvError
            If there is no such member or it is larger than ``limit`` bytes.
        """
        return self.open(name, limit).read()

    def open(self, name: str, limit: int) -> Slice:
        """A member as a seekable binary file, refused if it is missing or larger than ``limit`` bytes."""
        if name not in self.members:
            raise ProtT5nvError(f"{self.path}: {name} is missing; expected a .nemo checkpoint")
        member = self.members[name]
        if member.size > limit:
            raise self._refusal(name, f"holds {member.size:,} bytes; expected at most {limit:,}")
        return Slice(self._tar, member)

    def sha256(self) -> str:
        """Hash of the file as it lies on disk."""
        digest = hashlib.sha256()
        self._raw.seek(0)
        while chunk := self._raw.read(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest()

    def _refusal(self, name: str, problem: str) -> ProtT5nvError:
        return ProtT5nvError(f"{self.path}: {name[:200]!r} {problem}")

    def _decompressed(self) -> BinaryIO:
        """An anonymous temporary copy, because weights are read out of order. Weights hardly shrink; a bomb does."""
        limit = 10 * self.path.stat().st_size + MAX_OTHER
        copy = tempfile.TemporaryFile()  # noqa: SIM115  closed with the archive
        self._raw.seek(0)
        try:
            with gzip.GzipFile(fileobj=self._raw) as stream:
                while chunk := stream.read(_CHUNK):
                    copy.write(chunk)
                    if copy.tell() > limit:
                        raise ProtT5nvError(f"{self.path}: unpacks to over {limit:,} bytes; weights shrink less")
        except (OSError, EOFError, zlib.error) as error:
            copy.close()
            raise ProtT5nvError(f"{self.path}: damaged gzip file ({error}); copy it again") from None
        except ProtT5nvError:
            copy.close()
            raise
        return copy

    def _scan(self) -> dict[str, Member]:
        members: dict[str, Member] = {}
        self._tar.seek(0)
        for _ in range(MAX_HEADERS):
            header = self._header()
            if header is None:
                break
            offset = self._tar.tell()
            end = offset + -(-header.size // BLOCK) * BLOCK
            if header.size < 0 or end > self._size:
                raise self._refusal(header.name, f"is cut short: expected {header.size:,} bytes; copy the file again")
            if header.type == tarfile.XHDTYPE:
                self._check_extended_header(header)
            elif name := self._checked_name(header):
                if name in members:
                    raise self._refusal(name, "is stored twice; expected each member once")
                members[name] = Member(offset, header.size)
            self._tar.seek(end)
        else:
            raise ProtT5nvError(f"{self.path}: more than {MAX_HEADERS} members; expected a .nemo checkpoint")
        if self._size - self._tar.tell() > MAX_TAIL:
            raise ProtT5nvError(f"{self.path}: goes on after the end of the tar; expected a .nemo checkpoint")
        return members

    def _header(self) -> tarfile.TarInfo | None:
        """The next member's header; None at the two empty blocks (one is enough) that end a tar."""
        first = self._tar.tell() == 0
        block = self._tar.read(BLOCK)
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except tarfile.EOFHeaderError:
            if not first:
                return None
        except tarfile.HeaderError:
            if not first:
                raise ProtT5nvError(f"{self.path}: the tar is damaged or cut short; copy the file again") from None
        raise ProtT5nvError(f"{self.path}: not a tar file; expected a .nemo checkpoint")

    def _checked_name(self, header: tarfile.TarInfo) -> str | None:
        """The member's plain name, or None for the entry of the folder itself."""
        name = posixpath.normpath(header.name)
        if _SHARDED.match(name):
            raise self._refusal(name, "is one shard of split weights; merge the shards into one .nemo with NeMo first")
        if name.startswith("/") or ".." in header.name.split("/"):
            raise self._refusal(header.name, "leads out of the archive; expected a plain file name")
        if header.type == tarfile.DIRTYPE and name == ".":
            return None
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            kind = _KINDS.get(header.type, "of an unknown type")
            raise self._refusal(header.name, f"is {kind}; expected regular files only")
        return name

    def _check_extended_header(self, header: tarfile.TarInfo) -> None:
        """Time stamps are harmless; what renames or resizes the next member would let two readers see two files."""
        if header.size > MAX_HEADER:
            raise self._refusal(header.name, "is an oversized header; expected time stamps")
        records = self._tar.read(header.size)
        keys = re.findall(rb"(?:^|\n)\d+ ([^=\n]*)=", records)
        for key in keys:
            if key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse"):
                raise self._refusal(header.name, f"changes the next member's {key.decode('ascii', 'replace')}")


_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.DIRTYPE: "a folder",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class Slice(io.RawIOBase):
    """Part of an open file, as a read-only file of its own."""

    def __init__(self, file: BinaryIO, member: Member):
        self._file = file
        self._member = member
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._member.size}[whence]
        if start + offset < 0:
            raise ValueError("negative seek position")
        self._position = start + offset
        return self._position

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._member.size - self._position))
        self._file.seek(self._member.offset + self._position)
        count = self._file.readinto(view[:wanted])
        self._position += count
        return count
