"""The proteins of an input file, checked one by one, and what one pass over them finds before any is embedded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from prott5nv.embedding.batching import LongProteins
from prott5nv.embedding.journal import InputDigest
from prott5nv.embedding.keys import Holder, KeyRegister
from prott5nv.errors import ProtT5nvError
from prott5nv.io.reader import read_records
from prott5nv.io.record import Record, accession
from prott5nv.io.source import source_name
from prott5nv.model.tokenizer import ProteinTokenizer


class CheckedRecord(NamedTuple):
    """A record, the key of its dataset, and the error that keeps it from being embedded, if any."""

    record: Record
    key: str
    error: ProtT5nvError | None


@dataclass
class Survey:
    """Counts from one pass over the input.

    Attributes
    ----------
    proteins, residues : int
        Number of proteins, and of residues, that will be embedded.
    long : LongProteins
        Proteins longer than the model's limit.
    skipped : int
        Records that cannot be embedded.
    extent : int
        Total sequence length plus one per record, so that empty records also occupy a position when the input is
        sharded.
    digest : InputDigest
        Checksum of all ids and sequences.
    """

    proteins: int = 0
    residues: int = 0
    long: LongProteins = field(default_factory=LongProteins)
    skipped: int = 0
    extent: int = 0
    digest: InputDigest = field(default_factory=InputDigest)


@dataclass(frozen=True)
class CheckedProteins:
    """The records of an input file, read and checked anew at every iteration.

    Iterating raises the first error of a record, unless errors are skipped; then it yields the record with its error.

    Parameters
    ----------
    source : str or PathLike
        The input; ``-`` for standard input, which can be iterated only once.
    limit : int
        Residues that the model sees at once.
    long : str
        What to do with longer proteins; see :meth:`prott5nv.Embedder.embed`.
    skip_errors : bool
        Whether to yield records that cannot be embedded instead of raising their error.
    id_column, sequence_column : str, optional
        Columns of a table; see :func:`prott5nv.io.reader.read_records`.
    stretch : tuple of int, optional
        Only records that begin in this half-open range of the input's extent; see :meth:`shard`.
    """

    source: str | os.PathLike[str]
    limit: int
    long: str = "truncate"
    skip_errors: bool = False
    id_column: str | None = None
    sequence_column: str | None = None
    stretch: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Name of the input in messages."""
        return source_name(self.source)

    def __iter__(self) -> Iterator[CheckedRecord]:
        start = 0
        for checked in self._all():
            if self.stretch is None or self.stretch[0] <= start < self.stretch[1]:
                yield checked
            start += _extent(checked.record)

    def _all(self) -> Iterator[CheckedRecord]:
        # Errors of a record are found by `check`, where they can be skipped.
        records = read_records(
            self.source,
            id_column=self.id_column,
            sequence_column=self.sequence_column,
            allow_empty=True,
            allow_non_ascii=True,
        )
        for checked in check(records, self.name, self.limit if self.long in ("error", "skip") else None):
            left_out_on_request = self.long == "skip" and len(checked.record.sequence) > self.limit
            if checked.error and not self.skip_errors and not left_out_on_request:
                raise checked.error
            yield checked

    def residues(self, record: Record) -> int:
        """Number of residues of a record that are embedded."""
        length = len(record.sequence)
        return length if self.long == "window" else min(length, self.limit)

    def survey(self) -> Survey:
        """Read the input once and count.

        Returns
        -------
        Survey

        Raises
        ------
        ProtT5nvError
            At the first record that cannot be embedded, unless errors are skipped.
        """
        found = Survey()
        for record, _, error in self:
            found.digest.add(record)
            found.extent += _extent(record)
            if error:
                found.skipped += 1
                continue
            found.proteins += 1
            found.residues += self.residues(record)
            if len(record.sequence) > self.limit:
                found.long.add(record.id, len(record.sequence))
        return found

    def shard(self, index: int, count: int, extent: int) -> CheckedProteins:
        """The records that begin in one of `count` equal parts of the input.

        Parameters
        ----------
        index : int
            Number of the part, from 1; parts follow one another in input order.
        count : int
            Number of parts.
        extent : int
            Extent of the whole input, from :meth:`survey`.

        Returns
        -------
        CheckedProteins
        """
        return replace(self, stretch=(extent * (index - 1) // count, extent * index // count))


def check(records: Iterator[Record], source: str, limit: int | None = None) -> Iterator[CheckedRecord]:
    """Find the key of each record, and the error that keeps it from being embedded.

    Parameters
    ----------
    records : iterator of Record
    source : str
        Name of the input in messages.
    limit : int, optional
        Length above which a record is an error.

    Yields
    ------
    CheckedRecord
        In order. The error names file, line and id, and is set for: an id that HDF5 cannot use as a name, an id or
        accession that occurred before, an empty sequence, characters that are not residues, too many residues.
    """
    tokenizer = ProteinTokenizer()
    register = KeyRegister()
    for record in records:
        key = accession(record.id)
        reason = _fault(record, key, limit, tokenizer) or _conflict(record, key, register)
        error = ProtT5nvError(f"{source}: line {record.line}: {record.id}: {reason}") if reason else None
        yield CheckedRecord(record, key, error)


def _fault(record: Record, key: str, limit: int | None, tokenizer: ProteinTokenizer) -> str | None:
    """What is wrong with a record by itself."""
    if "/" in key or key == ".":
        return "HDF5 cannot take this id as a name; rename it, with '_' in place of '/'"
    if not record.sequence:
        return "there is no sequence"
    if limit and len(record.sequence) > limit:
        return f"{len(record.sequence)} residues, and the model sees at most {limit}; choose --long window or truncate"
    try:
        tokenizer.encode_batch([record.sequence], [""])
    except ProtT5nvError as error:
        return str(error).partition(", ")[2]
    return None


def _conflict(record: Record, key: str, register: KeyRegister) -> str | None:
    """The earlier record with the same key; if there is none, the key is registered for this one."""
    first = register.claim(key, Holder(record.id, record.line))
    if first is None:
        return None
    if first.id == record.id:
        return f"this id stands on line {first.line} already; give each protein an id of its own"
    return f"its accession {key} is also that of {first.id} on line {first.line}; give one of them another id"


def _extent(record: Record) -> int:
    return len(record.sequence) + 1
