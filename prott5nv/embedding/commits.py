"""The journal file of an embedding run: one line with its settings, and one line for each commit.

Each line is a JSON object with a checksum of itself. A commit also has a checksum of its rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from prott5nv.embedding.partial import JOURNAL, check_same_settings, open_locked
from prott5nv.errors import ProtT5nvError
from prott5nv.io.hdf5_in_place import FIRST_VALUE
from prott5nv.io.record import Record
from prott5nv.io.source import MOST_SMALL
from prott5nv.io.table import tsv_line

Commit = dict[str, Any]

_BUFFER = 1 << 20


class Skipped(NamedTuple):
    """A protein that was skipped, and the reason."""

    line: int
    id: str
    reason: str


def write_skipped(file: TextIO, skipped: Iterable[Iterable[object]]) -> None:
    """Write a list of skipped proteins: a header line, and line, id and reason of each.

    Parameters
    ----------
    file : file
        Open for writing text.
    skipped : iterable of Skipped
    """
    file.write(tsv_line(Skipped._fields))
    file.writelines(map(tsv_line, skipped))


class InputDigest:
    """A running checksum of the ids and sequences of records, in order."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, record: Record) -> None:
        """Add the next record."""
        self._sha256.update(f"{record.id}\0{record.sequence}\n".encode())

    def hex(self) -> str:
        """Return the checksum of the records added so far."""
        return self._sha256.hexdigest()


NOTHING_COMMITTED: Commit = {"records": 0, "residues": 0, "bytes": 0, "digest": InputDigest().hex()}


class SoundPart(NamedTuple):
    """The part of an unfinished run that is not damaged.

    Attributes
    ----------
    last : dict
        The last sound commit.
    proteins, skipped : int
        Numbers of proteins in all sound commits.
    damaged : Path or None
        The file that is damaged after them.
    """

    last: Commit
    proteins: int
    skipped: int
    damaged: Path | None


class CommitFile:
    """The journal file, open and locked.

    Parameters
    ----------
    folder : Path
        The partial folder, which is created if it does not exist. The rows are in its file ``rows.bin``.
    hidden_size : int
        Number of columns of every row.
    dtype : dtype
        Data type of the rows.

    Raises
    ------
    ProtT5nvError
        If another run has locked the file.
    """

    def __init__(self, folder: Path, hidden_size: int, dtype: np.dtype) -> None:
        self._path = folder / JOURNAL
        self._rows = folder / "rows.bin"
        self._hidden_size = hidden_size
        self._dtype = dtype
        self._file = open_locked(self._path)

    def resume(self, settings: dict[str, str]) -> SoundPart:
        """Find the part of the file that is sound, and remove what follows. A new file gets its first line.

        Parameters
        ----------
        settings : dict
            Settings that the unfinished run must have.

        Returns
        -------
        SoundPart

        Raises
        ------
        ProtT5nvError
            If the settings differ, or the line with the settings is damaged.
        """
        self._file.seek(0)
        line = self._file.readline(MOST_SMALL)
        if not line.endswith(b"\n"):  # The file is new, or the run was killed while it wrote the first line.
            self._file.truncate(0)
            self.append({"settings": settings, "hidden_size": self._hidden_size})
            return SoundPart(NOTHING_COMMITTED, 0, 0, None)
        header = _parse(line)
        if header is None or not isinstance(header.get("settings"), dict):
            raise ProtT5nvError(
                f"{self._path}: line 1 is damaged, so the unfinished run cannot continue: delete "
                f"{self._path.parent} to start again"
            )
        check_same_settings(self._path.parent, header["settings"], settings)
        part = SoundPart(NOTHING_COMMITTED, 0, 0, None)
        sound = len(line)
        while line := self._file.readline(MOST_SMALL):
            if not line.endswith(b"\n"):  # The run was killed while it wrote this line.
                break
            commit, last = _parse(line), part.last
            if commit is None or not self._follows(last, commit):
                part = part._replace(damaged=self._path)
                break
            size = commit["bytes"] - last["bytes"]
            if crc32_of_rows(self._rows, last["bytes"], size) != commit["rows_crc32"]:
                part = part._replace(damaged=self._rows)
                break
            proteins, skipped = len(commit["proteins"]), len(commit["skipped"])
            part = SoundPart(commit, part.proteins + proteins, part.skipped + skipped, None)
            sound += len(line)
        self._file.truncate(sound)
        self._file.seek(sound)
        return part

    def append(self, entry: dict[str, Any]) -> None:
        """Write a line to the disk."""
        self._file.write(json.dumps({**entry, "crc32": _crc32_of(entry)}).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def commits(self, records: int) -> Iterator[Commit]:
        """Read all commits.

        Parameters
        ----------
        records : int
            Number of records that they must have.

        Yields
        ------
        dict

        Raises
        ------
        ProtT5nvError
            If the file was damaged since it was opened.
        """
        self._file.seek(0)
        self._file.readline(MOST_SMALL)  # The first line holds the settings.
        last = NOTHING_COMMITTED
        while line := self._file.readline(MOST_SMALL):
            commit = _parse(line)
            if commit is None or not self._follows(last, commit):
                raise damaged_during_the_run(self._path)
            yield commit
            last = commit
        if last["records"] != records:
            raise damaged_during_the_run(self._path)

    def is_empty(self) -> bool:
        """Return whether the file has no line, because this run has created it."""
        return not os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file, which releases the lock."""
        self._file.close()

    def _follows(self, last: Commit, commit: Commit) -> bool:
        """Return whether a line of the file is a valid commit that follows the commit `last`."""
        try:
            rows = [_number_of_rows(*protein) for protein in commit["proteins"]]
            size = sum(rows) * self._hidden_size * self._dtype.itemsize
            records = len(rows) + len([Skipped(*skipped) for skipped in commit["skipped"]])
            return (
                commit["bytes"] == last["bytes"] + size
                and commit["records"] == last["records"] + records
                and commit["residues"] >= last["residues"]
                and isinstance(commit["digest"], str)
                and isinstance(commit["rows_crc32"], int)
            )
        except (KeyError, TypeError, ValueError):
            return False


def crc32_of_rows(path: Path, position: int, size: int) -> int | None:
    """Return the checksum of a part of a file of rows; None if it cannot be read.

    Parameters
    ----------
    path : Path
        The file.
    position, size : int
        Position of the first byte, counted from the first row, and number of bytes.

    Returns
    -------
    int or None
    """
    crc32 = 0
    buffer = memoryview(bytearray(min(size, _BUFFER)))
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(FIRST_VALUE + position)
            while size:
                count = file.readinto(buffer[:size])
                if not count:
                    return None
                crc32 = zlib.crc32(buffer[:count], crc32)
                size -= count
    except OSError:
        return None
    return crc32


def damaged_during_the_run(path: Path) -> ProtT5nvError:
    """Return the error for a file that was damaged while this run used it."""
    return ProtT5nvError(
        f"{path} was damaged while the run went on: give the same command again, which keeps what is sound"
    )


def _number_of_rows(key: str, original_id: str, truncated_from: int | None, length: int = 1) -> int:
    """Check the entry of a protein and return the number of its rows; a pooled vector has no length."""
    if not isinstance(key, str) or not isinstance(original_id, str):
        raise TypeError
    if any(type(number) is not int or number < 0 for number in (truncated_from or 0, length)):
        raise TypeError
    return length


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a line without its checksum; None if the line is damaged."""
    try:
        entry = json.loads(line)
        checksum = entry.pop("crc32")
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
        return None
    return entry if checksum == _crc32_of(entry) else None


def _crc32_of(entry: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(entry).encode())
