"""Progress of an embedding run that survives a kill: finished rows, and a journal of the rows that are on the disk.

The folder ``OUT.h5.partial/`` holds ``rows.bin`` and ``journal.jsonl``. A commit flushes the rows to the disk and then
appends one line to the journal. Each line has a checksum of itself and one of the rows of its commit. A resumed run
checks both and truncates the files after the last commit that is sound.

At the end, the file of rows becomes an HDF5 output without another copy of the rows:
:func:`prott5nv.io.hdf5_in_place.add_structure` adds the structure, and the file is renamed. HDF5 does not write to the
rows, so that a kill in this moment loses nothing. Other formats are for pooled vectors, and are written from the rows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from time import monotonic

import numpy as np

from prott5nv.embedding.commits import CommitFile, InputDigest, Skipped, damaged_during_the_run, write_skipped
from prott5nv.embedding.formats import is_hdf5, skipped_listing, write_output
from prott5nv.embedding.partial import other_input, partial_folder, remove
from prott5nv.embedding.rows import RowsFile
from prott5nv.embedding.store import StoredProtein, protein_attributes
from prott5nv.errors import ProtT5nvError, warn
from prott5nv.io.atomic import publish
from prott5nv.io.exclusive import open_own
from prott5nv.io.hdf5_in_place import FIRST_VALUE, Described, add_structure
from prott5nv.io.hdf5_writing import LayoutError
from prott5nv.io.output import check_no_link
from prott5nv.io.record import Record
from prott5nv.io.text import counted

logger = logging.getLogger(__name__)

# A kill loses at most this much work, in addition to the batches being computed and what the disk has not yet taken.
_SECONDS_BETWEEN_COMMITS = 0.25


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
    seconds : float
        Time spent in the methods, most of it waiting for the disk.

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
        self.seconds = 0.0
        self._hidden_size = hidden_size
        self._digest = InputDigest()
        self._uncommitted: list[tuple] = []
        self._uncommitted_skips: list[Skipped] = []
        self._journal = CommitFile(self.folder, hidden_size, self.dtype)
        try:
            self._check_outputs()
            part = self._journal.resume(settings)
            self._rows = RowsFile(self.folder / "rows.bin", part.last["bytes"], self._journal.append)
        except BaseException:
            if self._journal.is_empty():  # This run created the folder.
                remove(self.folder)
            self._journal.close()  # This also releases the lock.
            raise
        self._resumed = part.last
        self.records, self.residues = part.last["records"], part.last["residues"]
        self.proteins, self.skipped = part.proteins, part.skipped
        self._committed_at = monotonic()
        if part.damaged:
            warn(
                f"{part.damaged} of the unfinished run is damaged: the run continues after the first "
                f"{counted(self.records, 'record')}"
            )

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
        if count < self.records or self.digest != self._resumed["digest"]:
            raise other_input(self.folder)

    def add(self, record: Record, key: str, rows: np.ndarray, residues: int) -> None:
        """Add the embedding of the next record.

        Parameters
        ----------
        record : Record
        key : str
            Name under which the embedding is stored.
        rows : ndarray, shape=(L, D) or (D,)
            It must not change afterwards, because it is written later.
        residues : int
            Number of residues that were embedded, counted from the first.

        Raises
        ------
        OSError
            If the disk is full.
        """
        values = np.ascontiguousarray(rows, dtype=self.dtype)
        with self._timed():
            self._rows.add(values)
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
        with self._timed():
            self._start_commit()
            self._rows.wait()

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
        with self._timed():
            self._rows.finish()
            fingerprint = fingerprint or fingerprint_of(self.settings, self.digest)
            finished = self._complete({**self.settings, "fingerprint": fingerprint, **attributes})
            self._check_output(self.output)
            if self.skipped:
                self._list_skipped()
            publish(finished, self.output)
            if not self.skipped:  # A list could belong to an earlier output of the same name.
                skipped_listing(self.output).unlink(missing_ok=True)
            if sys.platform == "win32":  # It cannot remove an open file.
                self.close()
            remove(self.folder)
            self.close()  # This releases the lock.

    def close(self) -> None:
        """Close the files without finishing. Everything that was committed stays in the partial folder."""
        try:
            self._rows.close()
        finally:
            self._journal.close()

    def _check_outputs(self) -> None:
        """Refuse to replace the output, or a list of skipped proteins that is not of this run."""
        self._check_output(self.output)
        if self._journal.is_empty():
            self._check_output(skipped_listing(self.output))

    def _check_output(self, path: Path) -> None:
        """Refuse to replace a file that exists already, unless it is requested."""
        if not self.overwrite and path.exists():
            raise ProtT5nvError(f"{path}: exists already; choose another name, or replace it with --overwrite")

    def _next(self, record: Record) -> None:
        self.records += 1
        self._digest.add(record)
        if monotonic() - self._committed_at > _SECONDS_BETWEEN_COMMITS:
            with self._timed():
                self._start_commit()

    def _start_commit(self) -> None:
        """Begin to commit everything added so far. This goes on in the background."""
        self._rows.commit(
            {
                "records": self.records,
                "residues": self.residues,
                "digest": self.digest,
                "proteins": self._uncommitted,
                "skipped": self._uncommitted_skips,
            }
        )
        self._uncommitted, self._uncommitted_skips = [], []
        self._committed_at = monotonic()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = monotonic()
        yield
        self.seconds += monotonic() - began

    def _complete(self, attributes: dict[str, str]) -> Path:
        """Write the output into the partial folder and return its path."""
        if is_hdf5(self.output):
            try:
                add_structure(self._rows.path, self.dtype, self._rows.size, self._datasets(), attributes)
                return self._rows.path
            except LayoutError as error:  # Another version of the HDF5 library may place datasets elsewhere.
                logger.info("the rows are copied, because %s", error)
        assembled = self.folder / f"assembled{self.output.suffix}"
        write_output(assembled, self._stored(), attributes)
        return assembled

    def _entries(self) -> Iterator[tuple[str, str, int | None, tuple[int, ...]]]:
        """Yield the key, the original id, the length of a truncated protein, and the shape of the rows."""
        for commit in self._journal.commits(self.records):
            for key, original_id, truncated_from, *length in commit["proteins"]:
                yield key, original_id, truncated_from, (*length, self._hidden_size)

    def _datasets(self) -> Iterator[Described]:
        for key, original_id, truncated_from, shape in self._entries():
            yield Described(key, shape, protein_attributes(original_id, truncated_from))

    def _stored(self) -> Iterator[StoredProtein]:
        with open(self._rows.path, "rb") as file:
            file.seek(FIRST_VALUE)
            for key, original_id, truncated_from, shape in self._entries():
                rows = np.fromfile(file, self.dtype, math.prod(shape))
                if len(rows) < math.prod(shape):
                    raise damaged_during_the_run(self._rows.path)
                yield StoredProtein(key, original_id, truncated_from, rows.reshape(shape))

    def _list_skipped(self) -> None:
        listing = skipped_listing(self.output)
        check_no_link(listing)
        unfinished = self.folder / listing.name
        with open(unfinished, "w", newline="", encoding="utf-8", opener=open_own) as file:
            commits = self._journal.commits(self.records)
            write_skipped(file, chain.from_iterable(commit["skipped"] for commit in commits))
        publish(unfinished, listing)


def fingerprint_of(settings: dict[str, str], digest: str) -> str:
    """Return one checksum of everything that an output depends on: its settings and the digest of its input."""
    return hashlib.sha256(json.dumps([sorted(settings.items()), digest]).encode()).hexdigest()
