"""The step between the readers and everything else: removes or refuses what is not a residue.

Every command and every function that takes proteins uses it, so all of them treat missing sequences, gaps, stops and
nucleotides alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prott5nv.errors import ProtT5nvError, warn
from prott5nv.io.record import Record
from prott5nv.io.text import counted, shortened

GAP_MODES = ("error", "keep", "remove")
NO_SEQUENCE = "there is no sequence"

# Words that programs write for a missing value, in lower case.
_MISSING_WORDS = frozenset(("", "na", "n/a", "#n/a", "<na>", "nan", "null", "none"))
_LONGEST_MISSING_WORD = max(map(len, _MISSING_WORDS))
_THREE_LETTER_CODE = re.compile(
    "(?:(?:Ala|Arg|Asn|Asp|Asx|Cys|Gln|Glu|Glx|Gly|His|Ile|Leu|Lys|Met|Phe|Pro|Pyl|Sec|Ser|Thr|Trp|Tyr|Val|Xaa)-?){2,}"
)
_IGNORED_LETTERS = str.maketrans("", "", "-.*?")
_NUCLEOTIDES = frozenset("ACGTUN")
_NUCLEOTIDE_LETTERS = "".join(_NUCLEOTIDES) + "".join(_NUCLEOTIDES).lower()
_AMBIGUITY_CODES = frozenset("RYSWKMBDHV")  # IUPAC's letters for several possible nucleotides
# With 100 letters, a chance of less than 1e-50 that a protein of average composition has none of the other letters.
_SURE_NUCLEOTIDES = 100
_LIKELY_NUCLEOTIDES = 20
_SURE_KINDS = 3  # A repeat of one or two residues, such as poly-A, can be a protein.
_MOST_AMBIGUOUS = 0.1  # Fraction of the letters of one sequence. Each ambiguity code is an amino acid, too.
_LONGEST_ID = 64_000  # bytes; HDF5 and zip archives allow little more
_MOST_HELD = 10_000  # Letters, or records, to look at before deciding.


class InputWarning(UserWarning):
    """Sequences of an input were changed, or contain something unusual. The message counts them."""


@dataclass(frozen=True)
class Cleaning:
    """How to treat characters that are not residues.

    Attributes
    ----------
    gaps : {"error", "keep", "remove"}
        What to do with a sequence that has gaps, ``-`` or ``.``. They make it an error, are kept as positions of
        their own, each as ``-``, or are removed.
    allow_nucleotides : bool
        Whether to accept an input that seems to consist of nucleotides.
    gap_hint : str
        First remedy in the error for gaps, for a command in which gaps may be meant as something else.
    """

    gaps: str = "error"
    allow_nucleotides: bool = False
    gap_hint: str = ""

    def __post_init__(self) -> None:
        if self.gaps not in GAP_MODES:
            raise ProtT5nvError(f"gaps={self.gaps}: must be one of {', '.join(GAP_MODES)}")


DEFAULT_CLEANING = Cleaning()


def is_missing(text: str | None) -> bool:
    """Return whether a cell has no value: it is empty, or a word such as ``NA``, ``NaN``, ``null`` or ``None``.

    Examples
    --------
    >>> is_missing(""), is_missing("nan"), is_missing("N/A"), is_missing("MKV")
    (True, True, True, False)
    """
    if text is None:
        return True
    text = text.strip()
    return len(text) <= _LONGEST_MISSING_WORD and text.lower() in _MISSING_WORDS


def clean_records(
    records: Iterable[Record], name: str, cleaning: Cleaning = DEFAULT_CLEANING
) -> Iterator[tuple[Record, str | None]]:
    """Clean the sequences of records, and find those that cannot be used.

    A ``*`` at the end of a sequence, which stands for a stop codon, is removed. A sequence is at fault if it is missing
    (see :func:`is_missing`), if it consists of gaps only, if it is in the three-letter code, or if it has gaps and
    ``cleaning.gaps`` is ``"error"``. So is an id of more than 64,000 bytes.

    Parameters
    ----------
    records : iterable of Record
        Records as a parser gives them.
    name : str
        Name of the input in messages.
    cleaning : Cleaning
        What to remove and what to accept.

    Yields
    ------
    record : Record
        The record with a clean sequence, or unchanged if it is at fault.
    fault : str or None
        Why the record cannot be used; None if it can.

    Raises
    ------
    ProtT5nvError
        If all letters of the input are A, C, G, T, U or N, apart from a few ambiguity codes such as R and Y, and there
        are enough of them to be sure that these are nucleotides.

    Warns
    -----
    InputWarning
        After the last record, once for stops that were removed, once for stops within sequences, once for gaps, and
        once for nucleotides among proteins. If 20 to 99 letters are all the input and may be nucleotides.

    Examples
    --------
    >>> records = [Record("P1", "MK-V", "P1", 1), Record("P2", "NaN", "P2", 3)]
    >>> for record, fault in clean_records(records, "proteins.fasta", Cleaning(gaps="remove")):
    ...     print(record.sequence, fault)
    MKV None
    NaN there is no sequence ('NaN' means a missing value)
    """
    with_stop = with_inner_stop = with_gaps = 0
    of_nucleotides, first_of_nucleotides = 0, ""
    for record in records if cleaning.allow_nucleotides else _refuse_nucleotides(records, name):
        sequence = record.sequence
        if fault := _id_fault(record.id):
            yield record, fault
            continue
        # True of nearly every protein. The three-letter code begins like Me.
        if sequence.isalpha() and len(sequence) > _LONGEST_MISSING_WORD and not sequence[:2].istitle():
            if not cleaning.allow_nucleotides and _are_nucleotides(sequence):
                of_nucleotides += 1
                first_of_nucleotides = first_of_nucleotides or record.id
            yield record, None
            continue
        if fault := sequence_fault(sequence, cleaning):
            yield record, fault
            continue
        kept = kept_positions(sequence, cleaning.gaps)
        with_stop += "*" in sequence[kept[-1] + 1 :]
        with_inner_stop += "*" in sequence[: kept[-1]]
        with_gaps += count_gaps(sequence) > 0
        yield record._replace(sequence="".join(sequence[index] for index in kept).replace(".", "-")), None
    _warn_of_changes(name, with_stop, with_inner_stop, with_gaps, cleaning.gaps)
    if of_nucleotides:
        warn(
            f"{name}: {counted(of_nucleotides, 'sequence')} of A, C, G, T, U and N alone, first "
            f"{shortened(first_of_nucleotides)}; if these are nucleotides, translate them",
            InputWarning,
        )


def _id_fault(record_id: str) -> str | None:
    if 4 * len(record_id) > _LONGEST_ID and (size := len(record_id.encode())) > _LONGEST_ID:
        return f"its id has {size:,} bytes, and at most {_LONGEST_ID:,} can be stored; shorten it"
    return None


def sequence_fault(sequence: str, cleaning: Cleaning = DEFAULT_CLEANING) -> str | None:
    """Return why a sequence cannot be used; None if it can, after the positions to remove are removed.

    Parameters
    ----------
    sequence : str
        The sequence as in the file.
    cleaning : Cleaning
        What to do with gaps.

    Returns
    -------
    str or None
        A clause for an error message.
    """
    if is_missing(sequence):
        return f"{NO_SEQUENCE} ({sequence!r} means a missing value)" if sequence else NO_SEQUENCE
    if not sequence.strip("*"):
        return f"{NO_SEQUENCE}, only '*'"
    if not sequence.strip("-.*"):
        return "the sequence consists of gaps only"
    if _THREE_LETTER_CODE.fullmatch(sequence):
        return f"the sequence is in the three-letter code ({sequence[:9]}...); write one letter for each residue"
    if cleaning.gaps == "error" and (count := count_gaps(sequence)):
        return (
            f"{counted(count, 'gap')} ('-' or '.'), as in an alignment: {cleaning.gap_hint}remove them with --gaps "
            "remove, or keep each as a position with --gaps keep "
            '(Cleaning(gaps="remove") in Python, "gaps": "remove" over HTTP)'
        )
    return None


def count_gaps(sequence: str) -> int:
    """Return the number of gaps in a sequence."""
    return sequence.count("-") + sequence.count(".")


def kept_positions(sequence: str, gaps: str) -> list[int]:
    """Return the indices of the characters that cleaning keeps: all but ``*`` at the end and, by choice, gaps.

    Parameters
    ----------
    sequence : str
        The sequence as in the file.
    gaps : {"error", "keep", "remove"}
        As for :class:`Cleaning`.

    Returns
    -------
    list of int

    Examples
    --------
    >>> kept_positions("M-K*", "remove"), kept_positions("M-K*", "keep")
    ([0, 2], [0, 1, 2])
    """
    kept = [index for index, letter in enumerate(sequence) if gaps != "remove" or letter not in "-."]
    while kept and sequence[kept[-1]] == "*":
        kept.pop()
    return kept


def _warn_of_changes(name: str, with_stop: int, with_inner_stop: int, with_gaps: int, gaps: str) -> None:
    """Warn of the stops that were removed from an input, of those within its sequences, and of its gaps."""
    messages = []
    if with_stop:
        messages.append(f"removed '*' from the end of {counted(with_stop, 'sequence')}")
    if with_inner_stop:
        messages.append(f"{counted(with_inner_stop, 'sequence')} with '*' before the end, read as an unknown residue")
    if with_gaps:
        done = "removed" if gaps == "remove" else "kept as positions"
        messages.append(f"{done} the gaps of {counted(with_gaps, 'sequence')}")
    for message in messages:
        warn(f"{name}: {message}", InputWarning)


def refuse_missing(cells: Iterable[tuple[str, str | None]], what: str, remedy: str = "") -> None:
    """Raise an error if values of a column are missing; see :func:`is_missing`.

    Parameters
    ----------
    cells : iterable of tuple of (str, str or None)
        For each cell its file and line, for error messages, and its text.
    what : str
        Content of the column, such as ``target``.
    remedy : str, default ""
        End of the message: what to do.

    Raises
    ------
    ProtT5nvError
        If a value is missing. The message counts them and names the first.
    """
    missing = [(where, cell) for where, cell in cells if is_missing(cell)]
    if missing:
        where, cell = missing[0]
        value = f" ({cell!r} means a missing value)" if cell else ""
        more = len(missing) - 1
        others = f", as in {counted(more, 'more row')}" if more else ""
        raise ProtT5nvError(f"{where}: the {what} is missing{value}{others}{remedy and '; '}{remedy}")


def clean_labelled(
    sequences: Sequence[tuple[str, str]], name: str, cleaning: Cleaning = DEFAULT_CLEANING
) -> Iterator[tuple[str, list[int] | None]]:
    """Clean the sequences of proteins that have labels.

    Parameters
    ----------
    sequences : sequence of tuple of (str, str)
        For each protein its file, line and id, for error messages, and its sequence.
    name : str
        Name of the input in messages.
    cleaning : Cleaning
        What to remove and what to accept.

    Yields
    ------
    sequence : str
        The clean sequence.
    kept : list of int or None
        Indices of the residues that were kept, for :func:`select`; None if all were.

    Raises
    ------
    ProtT5nvError
        If a sequence cannot be used, or all are nucleotides.
    """
    records = (Record(where, sequence, where, 0) for where, sequence in sequences)
    for (where, sequence), (record, fault) in zip(sequences, clean_records(records, name, cleaning), strict=True):
        if fault:
            raise ProtT5nvError(f"{where}: {fault}")
        all_kept = len(record.sequence) == len(sequence)
        yield record.sequence, None if all_kept else kept_positions(sequence, cleaning.gaps)


def select(labels: Sequence[str], kept: list[int], length: int) -> Sequence[str]:
    """Return the labels of the residues that were kept.

    Parameters
    ----------
    labels : sequence of str
        Labels of a protein, one per residue.
    kept : list of int
        Indices of the kept residues.
    length : int
        Length of the sequence before it was cleaned. If there are more or fewer labels, they are returned unchanged:
        they may have been made for the clean sequence.
    """
    return [labels[index] for index in kept] if len(labels) == length else labels


def _refuse_nucleotides(records: Iterable[Record], name: str) -> Iterator[Record]:
    """Yield the records. Raise an error if they are nucleotides."""
    remaining = iter(records)
    held: list[Record] = []
    letters: Counter[str] = Counter()
    for record in remaining:
        held.append(record)
        if is_missing(record.sequence):
            continue
        of_record = Counter(record.sequence[:_MOST_HELD].upper().translate(_IGNORED_LETTERS))
        if not _may_be_nucleotides(of_record):
            break
        letters.update(of_record)
        if max(letters.total(), len(held)) >= _MOST_HELD:
            _check_nucleotides(name, letters)
            break
    else:
        _check_nucleotides(name, letters)
    yield from held
    held.clear()
    yield from remaining


def _may_be_nucleotides(letters: Counter[str]) -> bool:
    """Return whether the letters of a sequence are those of nucleotides, apart from a few ambiguity codes."""
    others = letters.keys() - _NUCLEOTIDES
    return others <= _AMBIGUITY_CODES and sum(letters[code] for code in others) <= _MOST_AMBIGUOUS * letters.total()


def _are_nucleotides(sequence: str) -> bool:
    """Return whether a sequence consists of nucleotides alone, and is long and varied enough to be sure of it."""
    if sequence.strip(_NUCLEOTIDE_LETTERS):  # the quickest test, and true of nearly every protein
        return False
    return len(sequence) >= _SURE_NUCLEOTIDES and _kinds(sequence.upper()) >= _SURE_KINDS


def _kinds(letters: Iterable[str]) -> int:
    """Return the number of different nucleotides among letters. T and U are one, and N is none."""
    return len({"T" if letter == "U" else letter for letter in set(letters) & _NUCLEOTIDES - {"N"}})


def _check_nucleotides(name: str, letters: Counter[str]) -> None:
    """Raise an error if the letters are surely those of nucleotides, and warn if they may be."""
    codes = sorted(letters.keys() & _AMBIGUITY_CODES)
    if letters.total() < _LIKELY_NUCLEOTIDES or _kinds(letters) < _SURE_KINDS + bool(codes):
        return
    or_codes = f", or ambiguity codes of nucleotides ({', '.join(codes)})" if codes else ""
    found = f"{letters.total():,} letters are all A, C, G, T, U or N{or_codes}"
    if letters.total() < _SURE_NUCLEOTIDES:
        message = f"{name}: its {found}; if these are nucleotides, translate them"
        warn(message, InputWarning)
        return
    raise ProtT5nvError(
        f"{name}: the first {found}, so these are nucleotides and not proteins; translate them, or insist with "
        '--allow-nucleotides (Cleaning(allow_nucleotides=True) in Python, "allow_nucleotides": true over HTTP)'
    )
