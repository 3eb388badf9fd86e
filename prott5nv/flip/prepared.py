"""A prepared table with its description, and the checks that every preparation of labelled proteins makes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from prott5nv.errors import ProtT5nvError
from prott5nv.flip.description import description_file, file_sha256
from prott5nv.flip.files import FlipFile
from prott5nv.flip.labelled_rows import LabelledRow, check_unique, clean_rows, unique_sequences
from prott5nv.flip.targets import target_cells
from prott5nv.flip.tasks import LONG, SETS
from prott5nv.io.atomic import whole_files, write_text
from prott5nv.io.cleaning import Cleaning
from prott5nv.io.table import write_table
from prott5nv.io.text import parse_number

_IDS_SHOWN = 5


@dataclass
class Prepared:
    """A prepared split; the description beside its table has the same keys.

    Attributes
    ----------
    task, split, level, label : str
    classes : list of str
    note : str
        How the split differs from the official one, or another test set, in a few words; empty if there is none.
    source : str
        The file that the split was read from.
    counts : dict of str to int
        Number of proteins in each set.
    longer_than_512 : int
        Number of proteins that are longer than 512 residues. They are kept, and embedded by windows.
    differences : list of str
        All differences from the model card or from the source, such as proteins that were left out.
    table_sha256 : str
        SHA-256 hash of the table, without which the description is not used.
    """

    task: str
    split: str
    level: str
    label: str
    classes: list[str]
    note: str
    source: str
    counts: dict[str, int] = field(default_factory=dict)
    longer_than_512: int = 0
    differences: list[str] = field(default_factory=list)
    table_sha256: str = ""

    def __str__(self) -> str:
        counts = " / ".join(f"{self.counts.get(part, 0):,}" for part in SETS)
        line = f"{self.task}, {self.split}: {counts} train / val / test, {self.longer_than_512:,} longer than {LONG}"
        return "\n  ".join([line, *self.differences])


def add_sequences(
    labels: list[LabelledRow], sequence_file: FlipFile, mask_file: FlipFile | None, prepared: Prepared
) -> list[LabelledRow]:
    """Add the sequences, and the masks if there are any, to the labels with the same id.

    Parameters
    ----------
    labels : list of LabelledRow
        Rows without a sequence.
    sequence_file : FlipFile
        FASTA file of the sequences.
    mask_file : FlipFile or None
        FASTA file whose sequences consist of 0 and 1.
    prepared : Prepared
        Ids that only one of the files has are added to its differences.

    Returns
    -------
    list of LabelledRow
        The rows that have a sequence.

    Raises
    ------
    ProtT5nvError
        If a file has two records with the same id.
    """
    sequences = unique_sequences(sequence_file.records(), sequence_file.name)
    # A mask consists of digits, which the FASTA reader returns unchanged.
    masks = unique_sequences(mask_file.records(), mask_file.name) if mask_file else {}
    note_difference(prepared, "sequences without labels", sequences.keys() - {row.id for row in labels})
    note_difference(prepared, "labels without a sequence", {row.id for row in labels} - sequences.keys())
    if masks:
        without_mask = sequences.keys() - masks.keys()
        note_difference(prepared, "proteins without a mask, all of whose residues are scored", without_mask)
    return [row._replace(sequence=sequences[row.id], mask=masks.get(row.id)) for row in labels if row.id in sequences]


def checked_rows(rows: list[LabelledRow], prepared: Prepared, cleaning: Cleaning) -> list[LabelledRow]:
    """Return the rows with clean sequences, after checks of their ids and targets.

    Parameters
    ----------
    rows : list of LabelledRow
        Rows with a sequence.
    prepared : Prepared
        The level and the kind of the targets, and the name of the source.
    cleaning : Cleaning
        What to do with gaps and nucleotides.

    Returns
    -------
    list of LabelledRow

    Raises
    ------
    ProtT5nvError
        If an id occurs twice, a sequence or a target is missing, or a number of a protein is not finite.
    """
    check_unique(rows)
    rows = clean_rows(rows, prepared.level, prepared.label, prepared.source, cleaning)
    if (prepared.level, prepared.label) == ("protein", "number"):
        for row in rows:
            check_number(row, row.target)
    return rows


def check_number(row: LabelledRow, target: str) -> None:
    """Raise an error if a target of a row is not a finite number."""
    number = parse_number(target)
    if number is None or not math.isfinite(number):
        raise ProtT5nvError(
            f"{row.where}: {row.id}: the target {target!r} is not a finite number; write numbers such as 12, -0.5 "
            "or 2e-3"
        )


def scored_cells(row: LabelledRow, prepared: Prepared) -> list[str]:
    """Return the targets of a protein, as text, without those of residues whose mask is 0."""
    cells = target_cells(row.target, prepared.level, prepared.label)
    if prepared.level == "protein" or not row.mask:
        return cells
    return [cell for cell, digit in zip(cells, row.mask, strict=True) if digit == "1"]


def note_difference(prepared: Prepared, what: str, ids: Iterable[str]) -> None:
    """Add a line with the number of some proteins and the first ids to the differences, if there are any."""
    ids = sorted(ids)
    if ids:
        more = f" and {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else ""
        prepared.differences.append(f"{len(ids)} {what}: {', '.join(ids[:_IDS_SHOWN])}{more}")


def write_prepared(rows: list[LabelledRow], prepared: Prepared, path: Path) -> Prepared:
    """Write a table and its description.

    Parameters
    ----------
    rows : list of LabelledRow
    prepared : Prepared
        Its counts, its hash and, if they are not known, its classes are set.
    path : Path
        The table.

    Returns
    -------
    Prepared
        `prepared` itself.
    """
    prepared.counts = dict(Counter(row.set for row in rows))
    prepared.longer_than_512 = sum(len(row.sequence) > LONG for row in rows)
    if prepared.label == "class" and not prepared.classes:
        prepared.classes = sorted({cell for row in rows for cell in scored_cells(row, prepared)})
    cells = ((row.id, row.sequence, row.target, row.set, row.mask or "") for row in rows)
    with whole_files(path.parent) as temporary:
        table = temporary / path.name
        write_table(table, ["id", "sequence", "target", "set", "mask"], cells)
        prepared.table_sha256 = file_sha256(table)
        write_text(description_file(table), json.dumps(asdict(prepared), indent=1) + "\n")
    return prepared
