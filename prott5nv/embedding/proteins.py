"""Conversion of what users pass as proteins: strings, and the sequence objects of other packages.

Biopython and pandas are not needed. Their objects are recognized by their attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from prott5nv.errors import ProtT5nvError

#: A sequence (``str`` or ``Bio.Seq``), or an object with an id and a sequence, such as ``Bio.SeqRecord``.
Protein = TypeVar("Protein")

#: The same, where the result does not depend on the type. ``Any``, because Biopython is not a dependency.
ProteinLike: TypeAlias = Any

_NO_IDS = ("", "<unknown id>")  # Biopython's default for a record without an id


class NamedSequence(NamedTuple, Generic[Protein]):
    """A protein as the user passed it, with its name in error messages and its sequence."""

    protein: Protein
    name: str
    sequence: str


def named_sequences(proteins: Iterable[Protein]) -> Iterator[NamedSequence[Protein]]:
    """Convert a collection of proteins one by one.

    Parameters
    ----------
    proteins : iterable
        A list, a pandas Series, a generator or another iterable of proteins. A protein is a ``str``, a ``Bio.Seq``, or
        an object with ``id`` and ``sequence`` or ``seq``, such as ``Bio.SeqRecord``.

    Yields
    ------
    NamedSequence
        The proteins in order. The name is the id of the protein, or ``sequence N`` if it has none.

    Raises
    ------
    ProtT5nvError
        If `proteins` is a single sequence, a mapping, a data frame or bytes, or if one of its items is not a protein.

    Examples
    --------
    >>> [(protein.name, protein.sequence) for protein in named_sequences(["MSLKR", "MS"])]
    [('sequence 1', 'MSLKR'), ('sequence 2', 'MS')]
    """
    _check_collection(proteins)
    for number, protein in enumerate(proteins, 1):
        name = getattr(protein, "id", None)
        if not isinstance(name, str) or name in _NO_IDS or isinstance(protein, str):
            name = f"sequence {number}"
        yield NamedSequence(protein, name, sequence_of(protein, name))


def sequences_of(proteins: Iterable[ProteinLike]) -> list[str]:
    """Return the sequences of a collection of proteins; see :func:`named_sequences`."""
    return [protein.sequence for protein in named_sequences(proteins)]


def sequence_of(protein: ProteinLike, name: str) -> str:
    """Return the sequence of one protein.

    Parameters
    ----------
    protein : str, Bio.Seq, Bio.SeqRecord or any object with ``sequence`` or ``seq``
    name : str
        Name of the protein in error messages.

    Returns
    -------
    str

    Raises
    ------
    ProtT5nvError
        If `protein` is something else, such as a list, or its sequence is not defined.

    Examples
    --------
    >>> sequence_of("MSLKR", "the protein")
    'MSLKR'
    """
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
    if not isinstance(proteins, Iterable):
        raise ProtT5nvError(f"sequences is a {kind}: pass a list of proteins")


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
