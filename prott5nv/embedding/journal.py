"""Progress of an embedding run that survives a kill: finished rows, and a journal of the rows that are on the disk.

The folder ``OUT.h5.partial/`` holds ``rows.bin`` and ``journal.jsonl``. A commit flushes the rows to the disk and then
appends one line to the journal. Each line has a checksum of itself and one of the rows of its commit. A resumed run
checks both and truncates the files after the last commit that is sound. Plain bytes were chosen over HDF5, because they
stay readable if a kill truncates them at any point.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import warnings
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from prott5nv.embedding.formats import skipped_listing, write_output
from prott5nv.embedding.partial import open_locked, partial_folder
from prott5nv.embedding.store import StoredProtein
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import publish
from prott5nv.io.record import Record
from prott5nv.io.table import tsv_line
from prott5nv.io.text import counted

# A kill loses at most this much work, in addition to the batches being computed.
_SECONDS_BETWEEN_COMMITS = 0.25

_BLOCK = 1 << 20


class Skipped(NamedTuple):
    """A protein that was skipped, and the reason."""

    line: int
    id: str
    reason: str


class Journal:
    """Collects the embeddings of a run and writes the output file at the end.

    Parameters
    ----------
    output : Path
        Output file. It appears, complete, when :meth:`finish` returns.
    settings : dict
        All settings that determine the embeddings. The input is not one of them. The settings become attributes of the
        output, and an unfinished run with other settings is not resumed.
    hidden_size : int
        Number of columns of every row.
    overwrite : bool, default False
        Whether to replace an existing output.

    Attributes
    ----------
    folder : Path
        The partial folder.
    records, proteins, residues, skipped : int
        Numbers of records read, of proteins and residues embedded, and of records skipped. They include the interrupted
        run. :meth:`finish` lists the skipped records in ``OUT.h5.skipped.tsv``.

    Raises
    ------
    ProtT5nvError
        If another run writes to the same output or has finished it, or an unfinished run has other settings or a
        damaged first line.

    Warns
    -----
    UserWarning
        If files of the unfinished run are damaged, so that proteins after the damage are embedded again.
    """

    def __init__(self, output: Path, settings: dict[str, str], hidden_size: int, *, overwrite: bool = False) -> None:
        self.output = output
        self.overwrite = overwrite
        self.settings = settings
        self.dtype = np.dtype(settings["dtype"])
        self.folder = partial_folder(output)
        self._hidden_size = hidden_size
        self._digest = InputDigest()
        self._uncommitted: list[tuple] = []
        self._uncommitted_skips: list[Skipped] = []
        self.records = self.proteins = self.residues = self.skipped = 0
        self._journal = open_locked(self.folder / "journal.jsonl")
        try:
            self._check_output()
            self._last = self._read()
            self._rows = open(self.folder / "rows.bin", "ab")  # noqa: SIM115 (closed by `close`)
        except BaseException:
            if not os.fstat(self._journal.fileno()).st_size:  # This run created the folder.
                shutil.rmtree(self.folder, ignore_errors=True)
            self._journal.close()  # This also releases the lock.
            raise
        self._bytes: int = self._last["bytes"]
        self._rows.truncate(self._bytes)
        self._crc32 = 0  # of the rows that are not committed
        self._committed_at = monotonic()

    @property
    def digest(self) -> str:
        """Checksum of all records read so far."""
        return self._digest.hex()

    def resume(self, records: Iterator[Record]) -> None:
        """Skip the records that the interrupted run has committed, and check that they are the same.

        Parameters
        ----------
        records : iterator of Record
            The input from its start. Afterwards it continues with the first record to embed.

        Raises
        ------
        ProtT5nvError
            If the records differ from those of the interrupted run.
        """
        count = 0
        for record in islice(records, self.records):
            self._digest.add(record)
            count += 1
        if count < self.records or self.digest != self._last["digest"]:
            raise ProtT5nvError(
                f"{self.folder} holds an unfinished run over another input: finish it with its own input, or delete "
                "that folder to start again"
            )

    def add(self, record: Record, key: str, rows: np.ndarray, residues: int) -> None:
        """Add the embedding of the next record.

        Parameters
        ----------
        record : Record
        key : str
            Name under which the embedding is stored.
        rows : ndarray, shape=(L, D) or (D,)
        residues : int
            Number of residues that were embedded, counted from the first.

        Raises
        ------
        OSError
            If the disk is full.
        """
        values = np.ascontiguousarray(rows, dtype=self.dtype)
        self._rows.write(values.data)
        self._bytes += values.nbytes
        self._crc32 = zlib.crc32(values.data, self._crc32)
        length = len(record.sequence)
        self._uncommitted.append((key, record.id, length if residues < length else None, *rows.shape[:-1]))
        self.proteins += 1
        self.residues += residues
        self._next(record)

    def skip(self, record: Record, reason: str) -> None:
        """Note that the next record is skipped, with the reason."""
        self._uncommitted_skips.append(Skipped(record.line, record.id, reason))
        self.skipped += 1
        self._next(record)

    def commit(self) -> None:
        """Write everything added so far to the disk, so that it survives a kill and a power failure."""
        self._rows.flush()
        os.fsync(self._rows.fileno())
        self._append(
            {
                "records": self.records,
                "residues": self.residues,
                "bytes": self._bytes,
                "rows_crc32": self._crc32,
                "digest": self.digest,
                "proteins": self._uncommitted,
                "skipped": self._uncommitted_skips,
            }
        )
        self._uncommitted, self._uncommitted_skips = [], []
        self._crc32 = 0
        self._committed_at = monotonic()

    def finish(self, fingerprint: str | None = None, **attributes: str) -> None:
        """Write the output file and remove the partial folder.

        Parameters
        ----------
        fingerprint : str, optional
            Fingerprint of the whole input, if this run embeds one shard of it. By default it is computed from the
            records of this run.
        **attributes
            Further attributes of the output.

        Raises
        ------
        ProtT5nvError
            If the committed rows were damaged during the run.
        OSError
            If the disk is full.
        """
        self.commit()
        self._rows.close()
        assembled = self.folder / f"assembled{self.output.suffix}"
        fingerprint = fingerprint or fingerprint_of(self.settings, self.digest)
        write_output(assembled, self._stored(), {**self.settings, "fingerprint": fingerprint, **attributes})
        self._list_skipped()
        self._check_output()
        publish(assembled, self.output)
        if sys.platform == "win32":  # It cannot remove an open file.
            self._journal.close()
        shutil.rmtree(self.folder)
        self._journal.close()  # This releases the lock.

    def close(self) -> None:
        """Close the files without finishing. Everything that was committed stays in the partial folder."""
        try:
            self._rows.close()  # On a full disk, flushing the rest raises an error here.
        finally:
            self._journal.close()

    def _check_output(self) -> None:
        """Refuse to replace an output that another run has finished since this run began, unless it is requested."""
        if not self.overwrite and self.output.exists():
            raise ProtT5nvError(
                f"{self.output}: another run has written this file in the meantime; choose another name, or replace it "
                "with --overwrite"
            )

    def _next(self, record: Record) -> None:
        self.records += 1
        self._digest.add(record)
        if monotonic() - self._committed_at > _SECONDS_BETWEEN_COMMITS:
            self.commit()

    def _append(self, entry: dict[str, Any]) -> None:
        self._journal.write(json.dumps({**entry, "crc32": _crc32_of(entry)}).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def _read(self) -> dict[str, Any]:
        """Return the last sound commit and remove everything after it. A new journal gets its first line."""
        last = _NOTHING_COMMITTED
        self._journal.seek(0)
        line = self._journal.readline()
        if not line.endswith(b"\n"):  # The journal is new, or the run was killed while it wrote the first line.
            self._journal.truncate(0)
            self._append({"settings": self.settings, "hidden_size": self._hidden_size})
            return last
        header = _parse(line)
        if header is None or not isinstance(header.get("settings"), dict):
            raise ProtT5nvError(
                f"{self.folder / 'journal.jsonl'}: line 1 is damaged, so the unfinished run cannot continue: delete "
                f"{self.folder} to start again"
            )
        self._check_settings(header)
        sound, damaged = len(line), None
        (self.folder / "rows.bin").touch()
        with open(self.folder / "rows.bin", "rb") as rows:
            for line in self._journal:
                if not line.endswith(b"\n"):  # The run was killed while it wrote this line.
                    break
                entry = _parse(line)
                if entry is None or not self._is_commit_after(last, entry):
                    damaged = "journal.jsonl"
                elif _crc32_of_next(rows, entry["bytes"] - last["bytes"]) != entry["rows_crc32"]:
                    damaged = "rows.bin"
                if damaged:
                    break
                assert entry is not None
                last = entry
                sound += len(line)
                self.proteins += len(entry["proteins"])
                self.skipped += len(entry["skipped"])
        self._journal.truncate(sound)
        self._journal.seek(sound)
        self.records, self.residues = last["records"], last["residues"]
        if damaged:
            warnings.warn(
                f"{self.folder / damaged} of the unfinished run is damaged: the run continues after the first "
                f"{counted(self.records, 'record')}",
                stacklevel=3,
            )
        return last

    def _is_commit_after(self, last: dict[str, Any], entry: dict[str, Any]) -> bool:
        """Return whether a line of the journal is a valid commit that follows the commit `last`."""
        try:
            shapes = [(*length, self._hidden_size) for _, _, _, *length in entry["proteins"]]
            size = sum(map(math.prod, shapes)) * self.dtype.itemsize
            records = len(shapes) + len([Skipped(*skipped) for skipped in entry["skipped"]])
            return (
                entry["bytes"] == last["bytes"] + size
                and entry["records"] == last["records"] + records
                and entry["residues"] >= last["residues"]
                and isinstance(entry["digest"], str)
                and isinstance(entry["rows_crc32"], int)
            )
        except (KeyError, TypeError, ValueError):
            return False

    def _check_settings(self, header: dict[str, Any]) -> None:
        for name, value in self.settings.items():
            if (before := header["settings"].get(name)) != value:
                raise ProtT5nvError(
                    f"{self.folder} holds an unfinished run with {name}={before}, not {value}: finish it with the "
                    "same options and model, or delete that folder to start again"
                )

    def _commits(self) -> Iterator[dict[str, Any]]:
        self._journal.seek(0)
        next(self._journal)  # The first line holds the settings.
        last = _NOTHING_COMMITTED
        for line in self._journal:
            entry = _parse(line)
            if entry is None or not self._is_commit_after(last, entry):
                raise self._damaged_during_the_run("journal.jsonl")
            yield entry
            last = entry
        if last["records"] != self.records:
            raise self._damaged_during_the_run("journal.jsonl")

    def _stored(self) -> Iterator[StoredProtein]:
        try:
            rows = open(self.folder / "rows.bin", "rb")  # noqa: SIM115 (closed by the next block)
        except FileNotFoundError:
            raise self._damaged_during_the_run("rows.bin") from None
        with rows:
            for commit in self._commits():
                crc32 = 0
                for key, original_id, truncated_from, *length in commit["proteins"]:
                    shape = (*length, self._hidden_size)
                    size = math.prod(shape) * self.dtype.itemsize
                    content = rows.read(size)
                    if len(content) < size:
                        raise self._damaged_during_the_run("rows.bin")
                    crc32 = zlib.crc32(content, crc32)
                    values = np.frombuffer(content, dtype=self.dtype)
                    yield StoredProtein(key, original_id, truncated_from, values.reshape(shape))
                if crc32 != commit["rows_crc32"]:
                    raise self._damaged_during_the_run("rows.bin")

    def _damaged_during_the_run(self, name: str) -> ProtT5nvError:
        return ProtT5nvError(
            f"{self.folder / name} was damaged while the run went on: give the same command again, which keeps what is "
            "sound"
        )

    def _list_skipped(self) -> None:
        listing = skipped_listing(self.output)
        if not self.skipped:
            listing.unlink(missing_ok=True)  # It could belong to an earlier output of the same name.
            return
        unfinished = self.folder / listing.name
        with open(unfinished, "w", newline="", encoding="utf-8") as file:
            file.write(tsv_line(Skipped._fields))
            for commit in self._commits():
                file.writelines(map(tsv_line, commit["skipped"]))
        publish(unfinished, listing)


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


def fingerprint_of(settings: dict[str, str], digest: str) -> str:
    """Return one checksum of everything that an output depends on: its settings and the digest of its input."""
    return hashlib.sha256(json.dumps([sorted(settings.items()), digest]).encode()).hexdigest()


_NOTHING_COMMITTED: dict[str, Any] = {"records": 0, "residues": 0, "bytes": 0, "digest": InputDigest().hex()}


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a line of the journal without its checksum; None if the line is damaged."""
    try:
        entry = json.loads(line)
        checksum = entry.pop("crc32")
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
        return None
    return entry if checksum == _crc32_of(entry) else None


def _crc32_of(entry: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(entry).encode())


def _crc32_of_next(file: BinaryIO, size: int) -> int | None:
    """Return the checksum of the next `size` bytes of a file; None if the file is shorter."""
    crc32 = 0
    while size:
        block = file.read(min(size, _BLOCK))
        if not block:
            return None
        crc32 = zlib.crc32(block, crc32)
        size -= len(block)
    return crc32
