"""The proteins of an input file: checked one by one, and counted in a first pass before any of them is embedded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from prott5nv.embedding.batching import LongProteins
from prott5nv.embedding.commits import InputDigest
from prott5nv.embedding.keys import KEYS, KeyRegister, Owner
from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.io.inputs import Input, input_name
from prott5nv.io.reader import SKIPPING, read_records_and_faults, with_others_counted
from prott5nv.io.record import Record, first_word_hint, location
from prott5nv.io.text import shortened
from prott5nv.model.tokenizer import ProteinTokenizer, ResidueTokenizer

_TOKENIZER = ProteinTokenizer()


class CheckedRecord(NamedTuple):
    """A record, the key under which it is stored, and the error that prevents embedding it, if any."""

    record: Record
    key: str
    error: ProtT5nvError | None


@dataclass
class Survey:
    """Counts from one pass over the input.

    Attributes
    ----------
    proteins : int
        Number of proteins that will be embedded.
    residues : int
        Number of residues that will be embedded.
    long : LongProteins
        Proteins that are longer than the model accepts at once.
    skipped : int
        Number of records that cannot be embedded.
    extent : int
        Total sequence length plus one per record, so that empty records also occupy a position when the input is
        sharded.
    digest : str
        Checksum of all ids and sequences. It is empty if the counts of several surveys were added.
    """

    proteins: int = 0
    residues: int = 0
    long: LongProteins = field(default_factory=LongProteins)
    skipped: int = 0
    extent: int = 0
    digest: str = ""

    def add(self, other: Survey) -> None:
        """Add the counts of another part of the same input."""
        self.proteins += other.proteins
        self.residues += other.residues
        self.long.extend(other.long)
        self.skipped += other.skipped
        self.extent += other.extent
        self.digest = ""


@dataclass(frozen=True)
class CheckedProteins:  # numpydoc ignore=PR02
    """The records of an input file. Each iteration reads and checks the file again.

    If a record cannot be embedded, iterating raises its error. If errors are skipped, iterating yields the record
    together with its error.

    Parameters
    ----------
    source : str, PathLike or InputFiles
        Input file, ``-`` for standard input, which can be iterated only once, or several of these.
    limit : int or None
        Largest number of residues that are computed at once; None if there is no limit.
    long : str
        What to do with longer proteins; see :meth:`prott5nv.Embedder.embed`.
    skip_errors : bool
        Whether to yield records that cannot be embedded instead of raising their error.
    id_column, sequence_column, cleaning
        See :func:`prott5nv.io.reader.read_records`.
    extent_range : tuple of int, optional
        Yield only the records whose start, counted as in ``Survey.extent``, is in this half-open range; see
        :meth:`shard`.
    tokenizer : ResidueTokenizer
        Tokenizer of the model.
    key : str
        A name in :data:`prott5nv.embedding.keys.KEYS`.
    allow_slash : bool
        Whether the format of the output allows ``/`` in keys.
    """

    source: Input
    limit: int | None
    long: str = "truncate"
    skip_errors: bool = False
    id_column: str | None = None
    sequence_column: str | None = None
    cleaning: Cleaning = DEFAULT_CLEANING
    extent_range: tuple[int, int] | None = None
    tokenizer: ResidueTokenizer = _TOKENIZER
    key: str = "accession"
    allow_slash: bool = False

    @property
    def name(self) -> str:
        """Name of the input in messages."""
        return input_name(self.source)

    def __iter__(self) -> Iterator[CheckedRecord]:
        start = 0
        for checked in self._all():
            if self.extent_range is None or self.extent_range[0] <= start < self.extent_range[1]:
                yield checked
            start += _extent(checked.record)

    def _all(self) -> Iterator[CheckedRecord]:
        # The reader accepts faulty records, because `check` finds their errors and they can be skipped.
        records = read_records_and_faults(
            self.source, id_column=self.id_column, sequence_column=self.sequence_column, cleaning=self.cleaning
        )
        limit = self.limit if self.long in ("error", "skip") else None
        all_checked = check(records, self.name, limit, self.tokenizer, self.key, self.allow_slash)
        for checked in all_checked:
            if error := self._refusal(checked):
                others = (other.record.line if self._refusal(other) else None for other in all_checked)
                raise with_others_counted(error, others, SKIPPING)
            yield checked

    def _refusal(self, checked: CheckedRecord) -> ProtT5nvError | None:
        """Return the error of a record if it ends the work."""
        skipped_on_request = self.long == "skip" and self.is_long(checked.record)
        return None if self.skip_errors or skipped_on_request else checked.error

    def residues(self, record: Record) -> int:
        """Return the number of residues of a record that are embedded."""
        length = len(record.sequence)
        return self.limit if self.limit is not None and self.long != "window" and length > self.limit else length

    def is_long(self, record: Record) -> bool:
        """Return whether a record has more residues than are computed at once."""
        return self.limit is not None and len(record.sequence) > self.limit

    def survey(self) -> Survey:
        """Read the input once and count its proteins and residues.

        Returns
        -------
        Survey

        Raises
        ------
        ProtT5nvError
            At the first record that cannot be embedded, unless errors are skipped.
        """
        survey = Survey()
        digest = InputDigest()
        for checked in self.counted(survey):
            digest.add(checked.record)
        survey.digest = digest.hex()
        return survey

    def counted(self, survey: Survey) -> Iterator[CheckedRecord]:
        """Yield all records and count each in a survey, whose digest stays empty."""
        for checked in self:
            record = checked.record
            survey.extent += _extent(record)
            if checked.error:
                survey.skipped += 1
            else:
                survey.proteins += 1
                survey.residues += self.residues(record)
                if self.is_long(record):
                    survey.long.add(record.id, len(record.sequence))
            yield checked

    def shard(self, index: int, count: int, extent: int) -> CheckedProteins:
        """Return the records of one of `count` shards with about the same number of residues.

        Parameters
        ----------
        index : int
            Number of the shard, counted from 1 in input order.
        count : int
            Number of shards.
        extent : int
            Extent of the whole input, from :meth:`survey`.

        Returns
        -------
        CheckedProteins
        """
        return replace(self, extent_range=(extent * (index - 1) // count, extent * index // count))


def check(
    records: Iterable[tuple[Record, str | None]],
    source: str,
    limit: int | None = None,
    tokenizer: ResidueTokenizer = _TOKENIZER,
    key: str = "accession",
    allow_slash: bool = False,
) -> Iterator[CheckedRecord]:
    """Determine the key of each record, and the error that prevents embedding it.

    A record has an error if cleaning found a fault, if its id cannot be stored, if its id or key occurred before, if
    its sequence is too long, or if it contains a character that is not a residue.

    Parameters
    ----------
    records : iterable of tuple of (Record, str or None)
        Records and their faults, from :func:`prott5nv.io.reader.read_records_and_faults`.
    source : str
        Name of the input in messages.
    limit : int, optional
        Largest allowed number of residues. By default there is no limit.
    tokenizer : ResidueTokenizer
        Tokenizer of the model.
    key : str
        A name in :data:`prott5nv.embedding.keys.KEYS`.
    allow_slash : bool
        Whether the format of the output allows ``/`` in keys.

    Yields
    ------
    CheckedRecord
        The records in order. Errors name file, line and id.
    """
    tokenizer = tokenizer.fresh()
    register = KeyRegister()
    make_key = KEYS[key]
    for record, fault in records:
        stored_key = make_key(record)
        reason = (
            fault
            or _key_fault(stored_key, allow_slash)
            or _fault(record, limit, tokenizer)
            or _conflict(record, stored_key, register, key)
        )
        where = location(record, source)
        error = ProtT5nvError(f"{where}: {shortened(record.id)}: {reason}") if reason else None
        yield CheckedRecord(record, stored_key, error)


def _key_fault(key: str, allow_slash: bool) -> str | None:
    """Return why a protein cannot be stored under its id; None if it can."""
    if not allow_slash and ("/" in key or key == "."):
        remedy = "write '_' in place of '/' with --key safe, or " if "/" in key else ""
        return f"HDF5 cannot use this id as a name; {remedy}rename the protein"
    return None


def _fault(record: Record, limit: int | None, tokenizer: ResidueTokenizer) -> str | None:
    """Return why a record cannot be embedded, regardless of other records; None if it can."""
    if limit and len(record.sequence) > limit:
        return (
            f"{len(record.sequence)} residues, but the model accepts at most {limit} at once; choose --long window or "
            "truncate"
        )
    return residue_fault(record.sequence, tokenizer)


def residue_fault(sequence: str, tokenizer: ResidueTokenizer = _TOKENIZER) -> str | None:
    """Return which character of a sequence is not a residue; None if all are.

    >>> residue_fault("MK1")
    "position 3: '1' is not a residue; residues are letters"
    """
    if sequence.isascii() and sequence.isalpha() and sequence.isupper():  # Every tokenizer accepts all letters.
        return None
    try:
        tokenizer.encode_batch([sequence], [""])
    except ProtT5nvError as error:
        return str(error).partition(", ")[2]
    return None


def _conflict(record: Record, key: str, register: KeyRegister, rule: str) -> str | None:
    """Register the key of a record; return an error message if an earlier record has the same key."""
    first = register.claim(key, Owner(record.id, record.line, record.source))
    if first is None:
        return None
    where = f"on line {first.line}" + (f" of {first.source}" if first.source != record.source else "")
    if first.id == record.id:
        return f"this id is already used {where}; give each protein its own id{first_word_hint(record)}"
    if rule == "biotrainer":
        return f"its sequence, and so its key, is also that of {first.id} {where}; keep one of them"
    return f"its accession {key} is also that of {first.id} {where}; give one of them another id"


def _extent(record: Record) -> int:
    """Return how far a record extends the input; an empty record also occupies one position."""
    return len(record.sequence) + 1
