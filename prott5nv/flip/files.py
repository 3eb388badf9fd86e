"""FLIP's own files, in a folder, in the ``splits.zip`` archives of a checkout, or at a web address."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast
from urllib.request import urlopen

from prott5nv.errors import ProtT5nvError
from prott5nv.io.fasta import parse_fasta
from prott5nv.io.record import Record
from prott5nv.io.source import open_source
from prott5nv.io.text import shortened

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")

_ARCHIVE = "splits.zip"
_ENCRYPTED = 1  # a bit of a zip member's flags
MAX_SIZE = 1 << 26  # bytes of a file after unpacking; the largest ones of FLIP have about 1 << 24
MAX_RECORDS = 200_000  # proteins in a file; the largest ones of FLIP have about 30,000


class FlipFile(NamedTuple):
    """A file, or a member of a zip archive.

    Attributes
    ----------
    path : Path
    member : str or None
        Name within the archive.
    """

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """Name for error messages."""
        return f"{self.path}: {self.member}" if self.member else str(self.path)

    @property
    def is_table(self) -> bool:
        """Whether it is a CSV table; otherwise it is FASTA."""
        return ".csv" in Path(self.member or self.path).suffixes

    @contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """Open the file, uncompressed, for reading bytes."""
        if self.member is None:
            with open_source(self.path) as stream:
                yield io.BufferedReader(_Bounded(stream, self.name))
            return
        try:
            with zipfile.ZipFile(self.path) as archive:
                if archive.getinfo(self.member).flag_bits & _ENCRYPTED:
                    raise ProtT5nvError(f"{self.name}: encrypted; unpack the archive and give the folder")
                with archive.open(self.member) as member:
                    yield io.BufferedReader(_Bounded(cast(io.BufferedReader, member), self.name))
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
            # A RuntimeError is NotImplementedError, for a method of compression that is unknown.
            if isinstance(error, ProtT5nvError):
                raise
            raise _unreadable(self.path, error) from None

    def records(self) -> Iterator[Record]:
        """Stream the FASTA records."""
        with self.open() as stream:
            yield from counted_records(parse_fasta(stream, self.name), self.name)

    def git_hash(self) -> str:
        """Return the hash that git computes for the file on disk, which identifies FLIP's own archives."""
        content = self.path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def counted_records(records: Iterable[T], name: str) -> Iterator[T]:
    """Stream records, and raise an error if there are far more of them than in FLIP's files."""
    for number, record in enumerate(records, 1):
        if number > MAX_RECORDS:
            raise ProtT5nvError(
                f"{name}: more than {MAX_RECORDS:,} proteins; for `prott5nv finetune`, write them as a table"
            )
        yield record


class _Bounded(io.RawIOBase):
    """A stream that ends with an error if it is far longer than FLIP's files, as the content of a bomb is."""

    def __init__(self, stream: io.BufferedReader, name: str) -> None:
        self._stream = stream
        self._name = name
        self._length = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = self._stream.readinto(buffer)
        self._length += count
        if self._length > MAX_SIZE:
            raise ProtT5nvError(
                f"{self._name}: larger than {MAX_SIZE:,} bytes; for `prott5nv finetune`, write it as a table"
            )
        return count


class FlipSource:
    """The place of FLIP's files; use it as a context manager.

    Parameters
    ----------
    location : str or PathLike
        A folder with one folder for each task, the folder of a single task, a checkout of FLIP, or the web address of
        such a folder. Files from the web are downloaded to a temporary folder, which is removed at the end.

    Raises
    ------
    ProtT5nvError
        If there is no such folder.
    """

    def __init__(self, location: str | os.PathLike[str]):
        self.location = str(location)
        is_web = self.location.startswith(("http://", "https://"))
        self._downloads = tempfile.TemporaryDirectory() if is_web else None
        if not is_web and not Path(location).is_dir():
            raise ProtT5nvError(f"{location}: no such folder; --from takes a folder of FLIP's files or its web address")

    def __enter__(self) -> FlipSource:
        return self

    def __exit__(self, *_: object) -> None:
        if self._downloads is not None:
            self._downloads.cleanup()

    def find(self, task: str, stem: str, suffixes: tuple[str, ...] = (".fasta", ".csv")) -> FlipFile | None:
        """Find a file of a task, gzipped or not, or a member of its archive.

        Parameters
        ----------
        task : str
        stem : str
            Name of the file without suffix.
        suffixes : tuple of str
            Suffixes to look for, in this order.

        Returns
        -------
        FlipFile or None
            None if there is no such file.

        Raises
        ------
        ProtT5nvError
            If the file is there both gzipped and not, an archive is damaged or contains it more than once, or a
            download fails.
        """
        if self._downloads is not None:
            return self._download(Path(self._downloads.name), task, stem, suffixes)
        root = Path(self.location)
        folders = [folder for folder in (root / task, root / "splits" / task, root) if folder.is_dir()]
        for folder in folders:
            for suffix in suffixes:
                paths = [folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.gz"]
                match [path for path in paths if path.is_file()]:
                    case [path]:
                        return FlipFile(path)
                    case [path, compressed]:
                        raise ProtT5nvError(f"{path}: {compressed.name} is beside it; remove one of them")
            if (folder / _ARCHIVE).is_file():
                member = _find_member(folder / _ARCHIVE, stem, suffixes)
                if member:
                    return member
        return None

    def tables(self, task: str) -> dict[str, list[FlipFile]]:
        """Find the CSV tables of a task in the layout of BioNeMo v1: folders ``train``, ``val`` and ``test``.

        Parameters
        ----------
        task : str

        Returns
        -------
        dict of str to list of FlipFile
            The tables of each set; empty if there is no such layout.
        """
        if self._downloads is not None:
            return {}
        for folder in (Path(self.location) / task, Path(self.location)):
            paths_by_set = {
                name: sorted(path for path in (folder / name).glob("*.csv*") if path.is_file())
                for name in ("train", "val", "test")
            }
            if all(paths_by_set.values()):
                return {name: [FlipFile(path) for path in paths] for name, paths in paths_by_set.items()}
        return {}

    def _download(self, folder: Path, task: str, stem: str, suffixes: tuple[str, ...]) -> FlipFile | None:
        for suffix in suffixes:
            address = f"{self.location.rstrip('/')}/{task}/{stem}{suffix}"
            path = folder / f"{task}-{stem}{suffix}"
            try:
                with urlopen(address, timeout=60) as response:
                    content = response.read(MAX_SIZE + 1)
                    if len(content) > MAX_SIZE:
                        raise ProtT5nvError(f"{address}: larger than {MAX_SIZE:,} bytes; no file of FLIP is so large")
                    if response.length:  # bytes of the declared length that did not come
                        raise ProtT5nvError(f"{address}: the connection was lost; give the command again")
                path.write_bytes(content)
                return FlipFile(path)
            except (OSError, HTTPException) as error:
                if getattr(error, "code", None) != 404:
                    raise ProtT5nvError(f"{address}: {error}; is the address right?") from None
        return None


def _unreadable(archive: Path, error: Exception) -> ProtT5nvError:
    # The error can quote the bytes that should be a name.
    return ProtT5nvError(f"{archive}: not a readable zip archive ({str(error)[:80]}); copy or download it again")


def _find_member(archive: Path, stem: str, suffixes: tuple[str, ...]) -> FlipFile | None:
    try:
        with zipfile.ZipFile(archive) as file:
            members = [name for name in file.namelist() if "__MACOSX" not in name]
    except (OSError, NotImplementedError, zipfile.BadZipFile) as error:
        raise _unreadable(archive, error) from None
    for suffix in suffixes:
        matching = [member for member in members if Path(member).name == f"{stem}{suffix}"]
        if len(matching) > 1:
            names = " and ".join(repr(shortened(member)) for member in matching[:2])
            raise ProtT5nvError(f"{archive}: contains {stem}{suffix} more than once: {names}; remove all but one")
        if matching:
            return FlipFile(archive, matching[0])
    return None
