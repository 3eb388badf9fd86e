"""Conversion of what users pass as proteins: strings, and the sequence objects of other packages.

Sequences are cleaned by the rules of the commands; see :mod:`prott5nv.io.cleaning`.

Biopython and pandas are not needed. Their objects are recognized by their attributes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning, clean_records
from prott5nv.io.record import Record

#: A sequence (``str`` or ``Bio.Seq``), or an object with an id and a sequence, such as ``Bio.SeqRecord``.
Protein = TypeVar("Protein")

#: The same, where the result does not depend on the type. ``Any``, because Biopython is not a dependency.
ProteinLike: TypeAlias = Any

_NO_IDS = ("", "<unknown id>")  # Biopython's default for a record without an id


class NamedSequence(NamedTuple, Generic[Protein]):
    """A protein as the user passed it, with its name in error messages and its clean sequence.

    Attributes
    ----------
    protein : Protein
        The object that the user passed.
    name : str
        The id of the protein, or ``sequence N`` if it has none.
    sequence : str
        The sequence after cleaning, or unchanged if it is at fault.
    fault : str or None
        Why the protein cannot be used; None if cleaning found no reason.
    """

    protein: Protein
    name: str
    sequence: str
    fault: str | None = None


def named_sequences(
    proteins: Iterable[Protein], cleaning: Cleaning | None = DEFAULT_CLEANING
) -> Iterator[NamedSequence[Protein]]:
    """Convert a collection of proteins one by one, and clean their sequences.

    Parameters
    ----------
    proteins : iterable
        A list, a pandas Series, a generator or another iterable of proteins. A protein is a ``str``, a ``Bio.Seq``, or
        an object with ``id`` and ``sequence`` or ``seq``, such as ``Bio.SeqRecord``.
    cleaning : Cleaning or None
        What to do with gaps and nucleotides; see :mod:`prott5nv.io.cleaning`. None leaves all sequences as they are,
        which is right for sequences that are clean already.

    Yields
    ------
    NamedSequence
        The proteins in order.

    Raises
    ------
    ProtT5nvError
        If `proteins` is a single sequence, a mapping, a data frame or bytes, if one of its items is not a protein, or
        if all of them are nucleotides.

    Warns
    -----
    InputWarning
        If sequences were changed; see :func:`prott5nv.io.cleaning.clean_records`.

    Examples
    --------
    >>> [(protein.name, protein.sequence) for protein in named_sequences(["MSLKR", "MS"])]
    [('sequence 1', 'MSLKR'), ('sequence 2', 'MS')]
    """
    _check_collection(proteins)
    originals: deque[Protein] = deque()
    for record, fault in _cleaned(_records(proteins, originals), "sequences", cleaning):
        yield NamedSequence(originals.popleft(), record.id, record.sequence, fault)


def sequences_of(proteins: Iterable[ProteinLike], cleaning: Cleaning | None = DEFAULT_CLEANING) -> list[str]:
    """Return the clean sequences of a collection of proteins.

    Parameters
    ----------
    proteins, cleaning
        As for :func:`named_sequences`.

    Returns
    -------
    list of str

    Raises
    ------
    ProtT5nvError
        As for :func:`named_sequences`, or if a sequence is missing or has gaps that are not allowed.
    """
    converted = list(named_sequences(proteins, cleaning))
    for protein in converted:
        if protein.fault:
            raise ProtT5nvError(f"{protein.name}: {protein.fault}")
    return [protein.sequence for protein in converted]


def sequence_of(protein: ProteinLike, name: str, cleaning: Cleaning | None = DEFAULT_CLEANING) -> str:
    """Return the clean sequence of one protein.

    Parameters
    ----------
    protein : str, Bio.Seq, Bio.SeqRecord or any object with ``sequence`` or ``seq``
    name : str
        Name of the protein in error messages.
    cleaning : Cleaning or None
        As for :func:`named_sequences`.

    Returns
    -------
    str

    Raises
    ------
    ProtT5nvError
        If `protein` is something else, such as a list, its sequence is not defined, or cleaning refuses the sequence.

    Examples
    --------
    >>> sequence_of("MSLKR", "the protein")
    'MSLKR'
    """
    record = Record(name, _letters(protein, name), name, 1)
    [(record, fault)] = _cleaned([record], name, cleaning)
    if fault:
        raise ProtT5nvError(f"{name}: {fault}")
    return record.sequence


def name_of(protein: object, number: int) -> str:
    """Return the id of a protein, or ``sequence N`` if it has none.

    Parameters
    ----------
    protein : object
        A protein as in :func:`named_sequences`.
    number : int
        Number of the protein in its collection, counted from 1.
    """
    name = getattr(protein, "id", None)
    has_name = isinstance(name, str) and name not in _NO_IDS and not isinstance(protein, str)
    return str(name) if has_name else f"sequence {number}"


def _records(proteins: Iterable[Protein], originals: deque[Protein]) -> Iterator[Record]:
    """Yield a record for each protein, and add the protein itself to `originals`."""
    for number, protein in enumerate(proteins, 1):
        name = name_of(protein, number)
        record = Record(name, _letters(protein, name), name, number)
        originals.append(protein)
        yield record


def _cleaned(records: Iterable[Record], name: str, cleaning: Cleaning | None) -> Iterable[tuple[Record, str | None]]:
    if cleaning is None:
        return ((record, None) for record in records)
    return clean_records(records, name, cleaning)


def _letters(protein: object, name: str) -> str:
    """Return the sequence of a protein as the user passed it."""
    sequence = protein if _is_sequence(protein) else _attribute(protein)
    if isinstance(sequence, str):
        return sequence
    if not _is_sequence(sequence):
        kind = type(sequence if sequence is not None else protein).__name__
        raise ProtT5nvError(
            f"{name} is a {kind}: sequences must be strings of residues, Bio.Seq objects, or objects with id and "
            "sequence or seq"
        )
    try:
        return str(sequence)
    except ValueError:  # Biopython has sequences of which only the length is known.
        raise ProtT5nvError(f"{name} has a sequence whose content is not defined") from None


def _check_collection(proteins: object) -> None:
    """Raise an error if iterating would not give proteins, but letters, keys or column names."""
    kind = type(proteins).__name__
    if isinstance(proteins, str):
        raise ProtT5nvError("sequences is a single string: pass a list of proteins, such as [sequence]")
    if isinstance(proteins, bytes | bytearray | memoryview):
        raise ProtT5nvError(f"sequences is a {kind} object: pass a list of strings")
    if isinstance(proteins, Mapping):
        raise ProtT5nvError(f"sequences is a {kind}: pass a list of its proteins, such as list(sequences.values())")
    if hasattr(proteins, "columns") or hasattr(proteins, "column_names"):
        raise ProtT5nvError(f"sequences is a {kind}: pass the column that holds the proteins")
    if _is_sequence(proteins) or _attribute(proteins) is not None:
        raise ProtT5nvError(f"sequences is a single {kind}: pass a list of proteins, such as [sequence]")
    try:
        iter(proteins)  # type: ignore[call-overload]  # an array without dimensions is an Iterable, too
    except TypeError:
        raise ProtT5nvError(f"sequences is a {kind}: pass a list of proteins") from None


def _is_sequence(value: object) -> bool:
    """Return whether a value is a string or a sequence object of Biopython."""
    if isinstance(value, str):
        return True
    return hasattr(value, "reverse_complement") and hasattr(value, "translate") and not hasattr(value, "seq")


def _attribute(protein: object) -> object:
    """Return the sequence of an object with ``sequence`` or ``seq``; None if it has neither."""
    if isinstance(protein, Mapping | type):
        return None
    sequence = getattr(protein, "sequence", None)
    return getattr(protein, "seq", None) if sequence is None else sequence
