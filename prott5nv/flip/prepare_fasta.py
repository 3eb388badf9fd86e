"""Preparation of labelled FASTA files, such as those of biotrainer and of the Protein Benchmark Collection."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from prott5nv.errors import ProtT5nvError
from prott5nv.flip.config import LABELS, LEVELS
from prott5nv.flip.description import description_file
from prott5nv.flip.files import FlipFile
from prott5nv.flip.labelled_rows import LabelledRow, read_labelled, read_table
from prott5nv.flip.prepared import (
    Prepared,
    add_sequences,
    check_number,
    checked_rows,
    note_difference,
    scored_cells,
    write_prepared,
)
from prott5nv.flip.targets import scored_targets, target_cells
from prott5nv.flip.tasks import shared_with_training
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.io.output import check_outputs
from prott5nv.io.text import counted, parse_number
from prott5nv.io.work_folders import reserved

_CLASSES_SHOWN = 10


def prepare_fasta(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    level: str,
    label: str,
    labels: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    missing: str | None = None,
    cleaning: Cleaning = DEFAULT_CLEANING,
    overwrite: bool = False,
) -> Prepared:
    """Write the table of a task and a JSON description beside it.

    Parameters
    ----------
    source : str or PathLike
        FASTA file, gzipped or not, with ``SET=`` and ``TARGET=`` in its headers, and by choice ``VALIDATION=`` and
        ``MASK=``. If `labels` is given, only its sequences are used.
    output : str or PathLike
        Name of the table; it ends in ``.csv``. The name without suffix becomes the name of the task.
    level : {"residue", "protein"}
        Whether there is a target for every residue or for every protein.
    label : {"class", "number"}
        Whether the targets are classes or numbers. The targets of residues are one letter per residue, or
        numbers separated by semicolons.
    labels : str or PathLike, optional
        FASTA file whose records are the labels of the residues, one letter per residue, with ``SET=`` in the headers.
    masks : str or PathLike, optional
        FASTA file whose records are 1 for each residue that is scored, and 0 for the others; it is used with `labels`.
    test : str or PathLike, optional
        File whose proteins replace the test set: all proteins of a CSV file, or the test proteins of a FASTA file.
    missing : str, optional
        Value of a target that is not known, such as ``999``. Such residues are not scored, and such proteins are left
        out. Numbers are compared as numbers.
    cleaning : Cleaning
        What to do with gaps and nucleotides; see :mod:`prott5nv.io.cleaning`.
    overwrite : bool, default False
        Whether to replace an existing table.

    Returns
    -------
    Prepared

    Raises
    ------
    ProtT5nvError
        If a file or a value is malformed, a protein has another number of targets than of residues, or the table exists
        or is also an input.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source = Path(folder) / "disorder.fasta"
    ...     _ = source.write_text(">P1 SET=train TARGET=0.5;999.0;-1\\nMKV\\n>P2 SET=test TARGET=2;1\\nMK\\n")
    ...     print(prepare_fasta(source, source.with_suffix(".csv"), level="residue", label="number", missing="999"))
    disorder, own: 1 / 0 / 1 train / val / test, 0 longer than 512
      1 of 5 targets is not scored
      scored targets: -1 to 2
    """
    path = Path(output)
    if path.suffix != ".csv":
        raise ProtT5nvError(f"{path}: the name of the table must end in .csv")
    if level not in LEVELS or label not in LABELS:
        raise ProtT5nvError(f"level={level}, label={label}: expected {' or '.join(LEVELS)}, and {' or '.join(LABELS)}")
    if masks and not labels:
        raise ProtT5nvError(f"{masks}: a file of masks is used with a file of labels; otherwise write MASK= in headers")
    if labels and (level, label) != ("residue", "class"):
        raise ProtT5nvError(f"{labels}: a file of labels has classes of residues; other targets are TARGET= in headers")
    inputs = [Path(file) for file in (source, labels, masks, test) if file is not None]
    prepared = Prepared(path.stem, "own", level, label, [], "", str(labels or source))
    with reserved(path):
        check_outputs([path, description_file(path)], inputs, overwrite=overwrite)
        if labels:
            rows = _labels_with_sequences(Path(labels), Path(source), Path(masks) if masks else None, prepared)
        else:
            rows = _rows_with_sequences(FlipFile(Path(source)))
        if test:
            rows = [row for row in rows if row.set != "test"] + _test_rows(FlipFile(Path(test)))
            prepared.note = f"test set {Path(test).name.split('.')[0]}"
        rows = _apply_missing(rows, missing, prepared, cleaning)
        _note_targets(rows, prepared)
        return write_prepared(rows, prepared, path)


def _rows_with_sequences(file: FlipFile) -> list[LabelledRow]:
    rows = list(read_labelled(file))
    for row in rows:
        if not row.sequence and not file.is_table:
            raise ProtT5nvError(f"{row.where}: {row.id} has no TARGET=; --labels takes a file whose records are labels")
    return rows


def _labels_with_sequences(labels: Path, source: Path, masks: Path | None, prepared: Prepared) -> list[LabelledRow]:
    rows = list(read_labelled(FlipFile(labels)))
    for row in rows:
        if row.sequence:
            raise ProtT5nvError(
                f"{row.where}: {row.id} has a sequence; a file with sequences and labels is given alone"
            )
    complete = add_sequences(rows, FlipFile(source), FlipFile(masks) if masks else None, prepared)
    if len(complete) < len(rows):
        raise ProtT5nvError(f"{labels}: {source} lacks sequences: {prepared.differences[-1]}")
    return complete


def _test_rows(file: FlipFile) -> list[LabelledRow]:
    if file.is_table:
        return list(read_table(file, "test"))
    rows = [row for row in _rows_with_sequences(file) if row.set == "test"]
    if not rows:
        raise ProtT5nvError(f"{file.name}: no protein has SET=test")
    return rows


def _apply_missing(
    rows: list[LabelledRow], missing: str | None, prepared: Prepared, cleaning: Cleaning
) -> list[LabelledRow]:
    """Clean and check the rows; leave out the proteins, and mask the residues, whose target is missing."""
    if prepared.level == "protein":
        for row in rows:
            if row.mask:
                raise ProtT5nvError(f"{row.where}: {row.id} has a mask, and masks are for the targets of residues")
        known = [row for row in rows if missing is None or not _is_same(row.target, missing)]
        if left_out := len(rows) - len(known):
            prepared.differences.append(f"left out {counted(left_out, 'protein')} without a target")
        return checked_rows(known, prepared, cleaning)
    masked = []
    for row in checked_rows(rows, prepared, cleaning):
        cells = target_cells(row.target, prepared.level, prepared.label)
        scored = scored_targets(cells, row.mask, len(row.sequence), f"{row.where}: {row.id}").tolist()
        if missing is not None:
            scored = [is_scored and not _is_same(cell, missing) for cell, is_scored in zip(cells, scored, strict=True)]
        row = row._replace(mask=None if all(scored) else "".join("01"[is_scored] for is_scored in scored))
        for cell in scored_cells(row, prepared) if prepared.label == "number" else ():
            check_number(row, cell)
        masked.append(row)
    return masked


def _is_same(target: str, missing: str) -> bool:
    """Return whether a target is the text, or the number, that stands for a missing value."""
    number = parse_number(missing)
    return target == missing or (number is not None and parse_number(target) == number)


def _note_targets(rows: list[LabelledRow], prepared: Prepared) -> None:
    """Add the test proteins that are trained on, and the number and the values of the scored targets."""
    shared = shared_with_training([row.sequence for row in rows], [row.set for row in rows], "test")
    note_difference(
        prepared,
        "in the test set, with the sequence of a training or validation protein",
        [rows[i].id for i in shared],
    )
    scored = [scored_cells(row, prepared) for row in rows]
    note_difference(
        prepared,
        "without a scored target",
        [row.id for row, cells in zip(rows, scored, strict=True) if not cells],
    )
    values = [cell for cells in scored for cell in cells]
    total = sum(len(row.sequence) for row in rows) if prepared.level == "residue" else len(rows)
    if ignored := total - len(values):
        prepared.differences.append(
            f"{ignored:,} of {counted(total, 'target')} {'is' if ignored == 1 else 'are'} not scored"
        )
    if not values:
        raise ProtT5nvError(f"{prepared.source}: no target is scored")
    if prepared.label == "number":
        numbers = [float(value) for value in values]
        prepared.differences.append(f"scored targets: {min(numbers):g} to {max(numbers):g}")
    else:
        counts = sorted(Counter(values).most_common(_CLASSES_SHOWN))
        more = len(set(values)) - len(counts)
        shown = ", ".join(f"{name} ({count:,})" for name, count in counts)
        prepared.differences.append(f"scored targets: {shown}" + (f" and {more} more" if more else ""))
