"""The proteins and labels in files of FLIP and of similar benchmarks, as they are and cleaned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prott5nv.errors import ProtT5nvError
from prott5nv.flip.files import FlipFile, counted_records
from prott5nv.flip.targets import cleaned_targets
from prott5nv.flip.tasks import SETS
from prott5nv.io.cleaning import Cleaning, clean_labelled, is_missing, refuse_missing
from prott5nv.io.delimited import DelimitedTable
from prott5nv.io.record import Record
from prott5nv.io.text import parse_number

# Names of the columns in FLIP's tables, in those of BioNeMo v1, and in those of the CASP test sets of ProtTrans.
_CASP_TARGET, _CASP_MASK = "dssp3", "disorder"  # disorder is 1 where a residue has coordinates
SEQUENCE_COLUMNS = ("sequence", "input")
TARGET_COLUMNS = ("target", "3state", "conservation", "label", _CASP_TARGET)
MASK_COLUMNS = ("mask", "resolved")
_ONE_OF_THE_SETS = f"one of {', '.join(SETS)}"
_TRUE, _FALSE = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")


class LabelledRow(NamedTuple):
    """One protein of a labelled file, unchanged.

    Attributes
    ----------
    id : str
    sequence : str
        Empty if the file holds labels only.
    target : str
        See :func:`prott5nv.flip.targets.target_cells`.
    set : str
        ``train``, ``val`` or ``test``.
    mask : str or None
        One character per residue: ``1`` if its label is scored.
    where : str
        File and line for error messages.
    has_id : bool
        Whether the id is from the file; otherwise it is made from the number of the row.
    """

    id: str
    sequence: str
    target: str
    set: str
    mask: str | None = None
    where: str = ""
    has_id: bool = True


def read_labelled(file: FlipFile) -> Iterator[LabelledRow]:
    """Stream the proteins of a FASTA file with ``TARGET= SET= VALIDATION= MASK=`` in its headers, or of a CSV file.

    If the headers have no ``TARGET``, the lines below them are labels, one letter per residue.

    Parameters
    ----------
    file : FlipFile

    Yields
    ------
    LabelledRow

    Raises
    ------
    ProtT5nvError
        If a record has no valid set; the message names file and line.
    """
    if file.is_table:
        yield from read_table(file)
        return
    for record in file.records():
        values = header_values(record.description)
        if "SET" not in values:
            raise ProtT5nvError(f"{file.name}: line {record.line}: {record.id} has no SET=train or SET=test")
        if values["SET"] not in SETS:
            raise ProtT5nvError(f"{file.name}: line {record.line}: SET={values['SET']}: expected {_ONE_OF_THE_SETS}")
        where = f"{file.name}: line {record.line}"
        part = _part(values["SET"], values.get("VALIDATION"), where)
        if "TARGET" in values:
            yield LabelledRow(record.id, record.sequence, values["TARGET"], part, values.get("MASK"), where)
        else:
            yield LabelledRow(record.id, "", record.sequence, part, where=where)


def read_table(file: FlipFile, part: str | None = None) -> Iterator[LabelledRow]:
    """Stream the proteins of a CSV file.

    Parameters
    ----------
    file : FlipFile
        With the columns ``sequence``, the target and, unless `part` is given, ``set``.
    part : str, optional
        Set of all proteins in the file.

    Yields
    ------
    LabelledRow

    Raises
    ------
    ProtT5nvError
        If a column is missing, in which case the message names the existing ones; or if a set is blank or unknown.
    """
    with file.open() as stream:
        table = DelimitedTable(stream, file.name)
        columns = table.columns
        sequence = next((name for name in SEQUENCE_COLUMNS if name in columns), None)
        target = next((name for name in TARGET_COLUMNS if name in columns), None)
        masks = (*MASK_COLUMNS, _CASP_MASK) if target == _CASP_TARGET else MASK_COLUMNS
        mask = next((name for name in masks if name in columns), None)
        if target is None or sequence is None or (part is None and "set" not in columns):
            expected = f"sequence, {' or '.join(TARGET_COLUMNS)}" + ("" if part else ", set")
            raise ProtT5nvError(f"{file.name}: expected columns {expected}; found {', '.join(columns) or 'none'}")
        rows = list(counted_records(table.dictionaries(), file.name))
        if part is None:
            refuse_missing(((f"{file.name}: line {line}", row["set"]) for line, row in rows), "set")
        for number, (line, row) in enumerate(rows):
            part_of_row = part or _part(row["set"].strip(), row.get("validation"), f"{file.name}: line {line}")
            if part_of_row not in SETS:
                raise ProtT5nvError(f"{file.name}: line {line}: set {row['set']!r}: expected {_ONE_OF_THE_SETS}")
            yield LabelledRow(
                row.get("id") or f"Sequence{number}",
                row[sequence].strip(),
                row[target].strip(),
                part_of_row,
                _mask_digits(row[mask]) if mask else None,
                f"{file.name}: line {line}",
                bool(row.get("id")),
            )


def clean_rows(rows: list[LabelledRow], level: str, label: str, name: str, cleaning: Cleaning) -> list[LabelledRow]:
    """Clean the sequences of rows; see :mod:`prott5nv.io.cleaning`. Targets and masks of residues are cleaned alike.

    Parameters
    ----------
    rows : list of LabelledRow
        Rows with a sequence.
    level, label : str
        As for :class:`prott5nv.flip.tasks.Task`.
    name : str
        Name of the input in messages.
    cleaning : Cleaning
        What to do with gaps and nucleotides.

    Returns
    -------
    list of LabelledRow
        Numbers of residues are separated by spaces.

    Raises
    ------
    ProtT5nvError
        If a sequence or a target is missing, or a sequence cannot be used; the message names file, line and protein.
    """
    refuse_missing(((f"{row.where}: {row.id}", row.target) for row in rows), "target")
    refuse_missing(((f"{row.where}: {row.id}", row.sequence) for row in rows), "sequence")
    cleaned = []
    sequences = clean_labelled([(f"{row.where}: {row.id}", row.sequence) for row in rows], name, cleaning)
    separator = " " if label == "number" else ""
    for row, (sequence, kept) in zip(rows, sequences, strict=True):
        cells, mask = cleaned_targets(row.target, row.mask, kept, len(row.sequence), level, label)
        cleaned.append(row._replace(sequence=sequence, target=separator.join(cells), mask=mask))
    return cleaned


def header_values(description: str) -> dict[str, str]:
    """Return the ``KEY=value`` words of a FASTA header.

    >>> header_values("1es5-A SET=train VALIDATION=False")
    {'SET': 'train', 'VALIDATION': 'False'}
    """
    return dict(word.split("=", 1) for word in description.split()[1:] if "=" in word)


def unique_sequences(records: Iterable[Record], name: str) -> dict[str, str]:
    """Return the sequences by id.

    Parameters
    ----------
    records : iterable of Record
    name : str
        Name of the file for error messages.

    Returns
    -------
    dict of str to str

    Raises
    ------
    ProtT5nvError
        If two records have the same id; the message names file, lines and id.
    """
    sequences: dict[str, str] = {}
    lines: dict[str, int] = {}
    for record in records:
        if record.id in sequences:
            raise ProtT5nvError(
                f"{name}: line {record.line}: {record.id} is also on line {lines[record.id]}; keep one of the two"
            )
        sequences[record.id], lines[record.id] = record.sequence, record.line
    return sequences


def check_unique(rows: Iterable[LabelledRow]) -> None:
    """Raise an error if two rows with an id of their own have the same id: it is in two sets, or has two labels."""
    first: dict[str, str] = {}
    for row in rows:
        if row.has_id and (earlier := first.setdefault(row.id, row.where)) != row.where:
            raise ProtT5nvError(f"{row.where}: {row.id} is also in {earlier}; keep one of the two")


def _mask_digits(cell: str) -> str:
    """Return a mask as digits; some tables write it as ``1.0 0.0`` or ``[1.0, 0.0]``."""
    numbers = [parse_number(word) for word in cell.strip().strip("[]").replace(",", " ").split()]
    if len(numbers) < 2 or not set(numbers) <= {0.0, 1.0}:
        return cell
    return "".join("1" if number else "0" for number in numbers)


def _part(name: str, validation: str | None, where: str) -> str:
    """Return the set of a protein whose ``SET`` and ``VALIDATION`` are given."""
    text = (validation or "").strip().lower()
    if text not in _TRUE + _FALSE and not is_missing(text):
        raise ProtT5nvError(f"{where}: VALIDATION={validation} is neither True nor False")
    return "val" if name == "train" and text in _TRUE else name
