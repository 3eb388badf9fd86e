"""Strict reader of the tar archive that a ``.nemo`` file is, with or without gzip compression.

The archive may come from an untrusted source. Python's ``tarfile`` follows links, obeys headers that rename or resize
the next member, and silently uses the last of two members with the same name. A checkpoint needs none of this.
Therefore this reader walks through the 512-byte headers itself, records the position of each regular member, and
refuses everything else with an error that names it. It never unpacks a member to a path.
"""

from __future__ import annotations

import gzip
import io
import posixpath
import re
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prott5nv.checkpoint.unsuited import instead_of_folder, unsuited_file
from prott5nv.errors import ProtT5nvError
from prott5nv.io.checksum import file_checksum

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK = 512
MAX_HEADERS = 1000
# Limits in bytes.
MAX_HEADER = 1 << 16  # of an extended header, which contains only time stamps
MAX_OTHER = 1 << 26  # of a member that is neither the weights nor a small text
MAX_TAIL = 1 << 20  # of the padding after the last member

_CHUNK = 1 << 20
# Weights barely compress, so a high expansion ratio indicates a gzip bomb.
_MAX_EXPANSION = 10
_SHARDED = re.compile(r"(?:mp|tp)_rank_\d+")


class Member(NamedTuple):
    """Position of a member's bytes in the decompressed archive."""

    offset: int
    size: int


class Archive:
    """The regular members of a tar archive.

    Parameters
    ----------
    path : str or Path
        A ``.nemo`` file.

    Attributes
    ----------
    path : Path
        The given path.
    members : dict of str to Member
        Members by name, without a leading ``./``.

    Raises
    ------
    ProtT5nvError
        If the file is not a tar archive, is damaged or truncated, or contains a link, a device, a folder, an absolute
        name, a name with ``..``, or the same name twice. The message names the file and the member.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise ProtT5nvError(f"{self.path}: no such file")
        if not self.path.is_file():  # opening a named pipe would block
            remedy = instead_of_folder(self.path) or "expected a .nemo checkpoint"
            raise ProtT5nvError(f"{self.path}: not a regular file; {remedy}")
        try:
            self._raw = self.path.open("rb")
        except OSError as error:
            raise ProtT5nvError(f"{self.path}: {error.strerror}") from None
        self._tar: io.BufferedReader[Any] | io.BufferedRandom = self._raw
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

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and the temporary decompressed copy, if there is one."""
        self._tar.close()
        self._raw.close()

    def read(self, name: str, limit: int) -> bytes:
        """Read a small member.

        Parameters
        ----------
        name : str
            Name of the member.
        limit : int
            Maximum size in bytes.

        Returns
        -------
        bytes
            The content of the member.

        Raises
        ------
        ProtT5nvError
            If there is no such member, or it is larger than the limit.
        """
        return self.open(name, limit).read()

    def open(self, name: str, limit: int) -> io.BufferedReader[Any]:
        """Open a member as a seekable binary file.

        Parameters
        ----------
        name : str
            Name of the member.
        limit : int
            Maximum size in bytes.

        Returns
        -------
        BufferedReader
            The member, which can be read until the archive is closed.

        Raises
        ------
        ProtT5nvError
            If there is no such member, or it is larger than the limit.
        """
        if name not in self.members:
            raise ProtT5nvError(f"{self.path}: {name} is missing; expected a .nemo checkpoint")
        member = self.members[name]
        if member.size > limit:
            raise self._refusal(name, f"has {member.size:,} bytes; expected at most {limit:,}")
        return io.BufferedReader(_MemberFile(self._tar, member))

    def sha256(self) -> str:
        """Compute the SHA-256 hash of the file on disk."""
        self._raw.seek(0)
        return file_checksum(self._raw)

    def _refusal(self, name: str, problem: str) -> ProtT5nvError:
        return ProtT5nvError(f"{self.path}: {name[:200]!r} {problem}")

    def _decompressed(self) -> io.BufferedRandom:
        """Decompress the archive to an anonymous temporary file, because the weights are read out of order."""
        limit = _MAX_EXPANSION * self.path.stat().st_size + MAX_OTHER
        copy = tempfile.TemporaryFile()  # noqa: SIM115  close() closes it
        self._raw.seek(0)
        try:
            with gzip.GzipFile(fileobj=self._raw) as stream:
                while chunk := stream.read(_CHUNK):
                    copy.write(chunk)
                    if copy.tell() > limit:
                        raise ProtT5nvError(f"{self.path}: unpacks to over {limit:,} bytes; weights barely compress")
        except (OSError, EOFError, zlib.error) as error:
            copy.close()
            raise ProtT5nvError(f"{self.path}: damaged gzip file ({error}); copy it again") from None
        except ProtT5nvError:
            copy.close()
            raise
        return copy

    def _scan(self) -> dict[str, Member]:
        """Walk through all headers and return the regular members by name."""
        members: dict[str, Member] = {}
        self._tar.seek(0)
        for _ in range(MAX_HEADERS):
            header = self._header()
            if header is None:
                break
            offset = self._tar.tell()
            end = offset + -(-header.size // BLOCK) * BLOCK
            if header.size < 0 or end > self._size:
                raise self._refusal(header.name, f"is truncated: expected {header.size:,} bytes; copy the file again")
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
            raise ProtT5nvError(f"{self.path}: has data after the end of the tar; expected a .nemo checkpoint")
        return members

    def _header(self) -> tarfile.TarInfo | None:
        """Read the next header; None at the end. A tar ends with two empty blocks, but this reader accepts one."""
        first = self._tar.tell() == 0
        block = self._tar.read(BLOCK)
        if block == bytes(BLOCK) and not first:
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except tarfile.HeaderError:
            if not first:
                raise ProtT5nvError(f"{self.path}: the tar is damaged or truncated; copy the file again") from None
        raise unsuited_file(self.path)

    def _checked_name(self, header: tarfile.TarInfo) -> str | None:
        """Return the member's name without ``./``, or None for the entry of the folder that contains all members."""
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
        """Accept time stamps, but refuse records that rename or resize the next member.

        Other readers would obey such records and read another file than this one.
        """
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


class _MemberFile(io.RawIOBase):
    """A member of an open archive as a read-only file."""

    def __init__(self, file: io.BufferedReader[Any] | io.BufferedRandom, member: Member) -> None:
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

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        size = max(0, min(len(view), self._member.size - self._position))
        self._file.seek(self._member.offset + self._position)
        count = self._file.readinto(view[:size])
        self._position += count
        return count
