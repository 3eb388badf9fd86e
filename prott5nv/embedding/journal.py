"""A run that can be killed: rows appended to one file, and a journal of how much of it is safe.

``OUT.h5.partial/`` holds ``rows.bin`` and ``journal.jsonl``. A commit flushes the rows to the disk and then appends one
line to the journal; whatever stands beyond the last whole line is cut off when the run is resumed. A single appended
file needs no bookkeeping of parts, and plain bytes, unlike an HDF5 file, survive at any length.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import numpy as np

from prott5nv.embedding.formats import skipped_listing, write_output
from prott5nv.embedding.store import StoredProtein
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import publish
from prott5nv.io.record import Record

# Work that a kill can cost, beside the batches in flight.
_SECONDS_BETWEEN_COMMITS = 0.25


class Skipped(NamedTuple):
    """A protein that was left out, and why."""

    line: int
    id: str
    reason: str


class Journal:
    """Embeddings on their way to a file.

    Parameters
    ----------
    output : Path
        The final file; it appears when :meth:`finish` is done, whole.
    settings : dict
        What the embeddings depend on beside the input; a run with other settings is refused. They become attributes of
        the file.
    hidden_size : int
        Columns of every row.

    Attributes
    ----------
    records, proteins, residues : int
        Read, embedded, and the residues of these, those of the interrupted run included.
    skipped : int
        Records left out; which, and why, :meth:`finish` writes to ``OUT.skipped.tsv``.

    Raises
    ------
    ProtT5nvError
        If another run writes to the same file, or the journal is of other settings.
    """

    def __init__(self, output: Path, settings: dict[str, str], hidden_size: int):
        self.output = output
        self.settings = settings
        self.dtype = np.dtype(settings["dtype"])
        self.folder = partial_folder(output)
        self.folder.mkdir(exist_ok=True)
        self._hidden_size = hidden_size
        self._digest = InputDigest()
        self._uncommitted: list[tuple] = []
        self._uncommitted_skips: list[Skipped] = []
        self.records = self.proteins = self.residues = self.skipped = 0
        self._journal = open(self.folder / "journal.jsonl", "a+b")  # noqa: SIM115
        try:
            _lock(self._journal, self.folder)
            self._last = self._read()
        except ProtT5nvError:
            self._journal.close()  # and with it the lock, which a second try in this process would meet
            raise
        self._rows = open(self.folder / "rows.bin", "ab")  # noqa: SIM115
        self._rows.truncate(self._last["bytes"])
        self._committed_at = monotonic()

    @property
    def digest(self) -> str:
        """Checksum of the records passed and taken."""
        return self._digest.hex()

    def resume(self, records: Iterator[Record]) -> None:
        """Pass over the records that are safe already.

        Raises
        ------
        ProtT5nvError
            If they are not those of the interrupted run.
        """
        done = self.records
        found = 0
        for record in islice(records, done):
            self._digest.add(record)
            found += 1
        if found < done or self.digest != self._last["digest"]:
            raise ProtT5nvError(
                f"{self.folder} holds an unfinished run over another input; finish it with the input it began with, "
                "or delete that folder to start anew"
            )

    def add(self, record: Record, key: str, rows: np.ndarray, residues: int) -> None:
        """Take the embedding of the next record: ndarray, shape=(L, D) or (D,), of its first `residues` residues."""
        self._rows.write(np.ascontiguousarray(rows, dtype=self.dtype).data)
        length = len(record.sequence)
        self._uncommitted.append((key, record.id, length if residues < length else None, *rows.shape[:-1]))
        self.proteins += 1
        self.residues += residues
        self._next(record)

    def skip(self, record: Record, reason: str) -> None:
        """Note that the next record is left out."""
        self._uncommitted_skips.append(Skipped(record.line, record.id, reason))
        self.skipped += 1
        self._next(record)

    def commit(self) -> None:
        """Make everything taken so far survive a kill and a power failure."""
        self._rows.flush()
        os.fsync(self._rows.fileno())
        entry = {
            "records": self.records,
            "residues": self.residues,
            "bytes": self._rows.tell(),
            "digest": self.digest,
            "proteins": self._uncommitted,
            "skipped": self._uncommitted_skips,
        }
        self._append(entry)
        self._uncommitted, self._uncommitted_skips = [], []
        self._committed_at = monotonic()

    def finish(self, fingerprint: str | None = None, **attributes: str) -> None:
        """Write the output and give it its name; the partial folder goes.

        Parameters
        ----------
        fingerprint : str, optional
            Of a whole of which this is a shard; by default that of the records passed.
        **attributes
            Further attributes of the file.
        """
        self.commit()
        self._rows.close()
        assembled = self.folder / f"assembled{self.output.suffix}"
        fingerprint = fingerprint or fingerprint_of(self.settings, self._digest)
        write_output(assembled, self._stored(), {**self.settings, "fingerprint": fingerprint, **attributes})
        self._list_skipped()
        publish(assembled, self.output)
        self._journal.close()
        shutil.rmtree(self.folder)

    def close(self) -> None:
        """Let go of the files without finishing; what was committed stays."""
        try:
            self._rows.close()  # fails again where the disk was full
        finally:
            self._journal.close()

    def _next(self, record: Record) -> None:
        self.records += 1
        self._digest.add(record)
        if monotonic() - self._committed_at > _SECONDS_BETWEEN_COMMITS:
            self.commit()

    def _append(self, entry: dict) -> None:
        self._journal.write(json.dumps(entry).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def _read(self) -> dict:
        """The last commit; a line that a kill broke off is removed."""
        last = {"records": 0, "residues": 0, "bytes": 0, "digest": InputDigest().hex()}
        self._journal.seek(0)
        whole = 0
        for line in self._journal:
            if not line.endswith(b"\n"):
                break
            entry = json.loads(line)
            if whole == 0:
                self._check_settings(entry)
            else:
                last = entry
                self.proteins += len(entry["proteins"])
                self.skipped += len(entry["skipped"])
            whole += len(line)
        self._journal.truncate(whole)
        self._journal.seek(whole)
        if whole == 0:
            self._append({"settings": self.settings, "hidden_size": self._hidden_size})
        self.records, self.residues = last["records"], last["residues"]
        return last

    def _check_settings(self, header: dict) -> None:
        for name, value in self.settings.items():
            if (before := header["settings"].get(name)) != value:
                raise ProtT5nvError(
                    f"{self.folder} holds an unfinished run with {name}={before}, not {value}: finish it with the "
                    "same options and model, or delete that folder to start anew"
                )

    def _commits(self) -> Iterator[dict]:
        self._journal.seek(0)
        next(self._journal)  # the settings
        yield from map(json.loads, self._journal)

    def _stored(self) -> Iterator[StoredProtein]:
        with open(self.folder / "rows.bin", "rb") as rows:
            for commit in self._commits():
                for key, original_id, truncated_from, *length in commit["proteins"]:
                    shape = (*length, self._hidden_size)
                    values = np.frombuffer(rows.read(int(np.prod(shape)) * self.dtype.itemsize), dtype=self.dtype)
                    yield StoredProtein(key, original_id, truncated_from, values.reshape(shape))

    def _list_skipped(self) -> None:
        listing = skipped_listing(self.output)
        if not self.skipped:
            listing.unlink(missing_ok=True)  # of an earlier output of this name
            return
        unfinished = self.folder / listing.name
        with open(unfinished, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, delimiter="\t", lineterminator="\n")
            table.writerow(Skipped._fields)
            for commit in self._commits():
                table.writerows(commit["skipped"])
        publish(unfinished, listing)


class InputDigest:
    """A running checksum of records: their ids and sequences, in order."""

    def __init__(self):
        self._sha256 = hashlib.sha256()

    def add(self, record: Record) -> None:
        """Go on by one record."""
        self._sha256.update(f"{record.id}\0{record.sequence}\n".encode())

    def hex(self) -> str:
        """The checksum of what was added so far."""
        return self._sha256.hexdigest()


def fingerprint_of(settings: dict[str, str], digest: InputDigest) -> str:
    """What an output depends on, in one checksum: settings and input."""
    return hashlib.sha256(json.dumps([sorted(settings.items()), digest.hex()]).encode()).hexdigest()


def partial_folder(output: Path) -> Path:
    """Where an unfinished run keeps its work."""
    return output.with_name(output.name + ".partial")


def _lock(file, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: no two runs are kept apart there
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ProtT5nvError(f"{folder}: another run is writing there; wait for it or choose another output") from None
