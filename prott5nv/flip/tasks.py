"""A task: proteins with their targets, split into a training, a validation and a test set.

A protein has one target per residue or a single one. A target is a class or a number.

Shapes: P proteins, L residues of a protein, R targets of a protein (L or 1).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prott5nv.errors import ProtT5nvError, warn
from prott5nv.flip.config import LABELS, LEVELS
from prott5nv.flip.description import read_description
from prott5nv.flip.targets import IGNORED, cleaned_targets, parse_target, scored_targets
from prott5nv.io.cleaning import (
    DEFAULT_CLEANING,
    Cleaning,
    InputWarning,
    clean_labelled,
    is_missing,
    refuse_missing,
)
from prott5nv.io.delimited import ID_COLUMNS, DelimitedTable, first_usual_column
from prott5nv.io.source import open_source
from prott5nv.io.text import counted, parse_number

SETS = ("train", "val", "test")
LONG = 512  # length of the position table of the published model
#: A test set with fewer proteins than this is worth a warning.
FEW_TEST_PROTEINS = 10

_DRAWN_FRACTION = 0.1  # proteins to draw for a set that the table does not define
_MIN_PROTEINS = 2  # per set
_SKIPPING = "--skip-missing leaves out such proteins"
_MANY_CLASSES = 10  # no warning for as many, even in a small table


@dataclass(frozen=True)
class OutputSpec:
    """What the outputs of a head mean.

    Attributes
    ----------
    task, split : str
        Names of the task and of the split that the head was trained on.
    level : str
        ``residue`` or ``protein``.
    label : str
        ``class`` or ``number``.
    classes : tuple of str
        Names of the classes, in the order of the outputs; empty for numbers.
    """

    task: str
    split: str
    level: str
    label: str
    classes: tuple[str, ...]

    @property
    def num_outputs(self) -> int:
        """Number of columns of the head's output."""
        return len(self.classes) if self.label == "class" else 1


@dataclass(frozen=True)
class Task:
    """Proteins and their targets.

    Attributes
    ----------
    name, split : str
        Names of the task and of its split.
    level : str
        ``residue`` if every residue has a target, ``protein`` if every protein has one.
    label : str
        ``class`` or ``number``.
    classes : tuple of str
        Names of the classes; empty for numbers.
    ids, sequences : list of str
    targets : list of ndarray, shape=(R,), dtype=int64 or float32
        Class indices, or numbers. Targets that are not scored are `IGNORED` or NaN.
    sets : ndarray, shape=(P,), dtype=str
        ``train``, ``val`` or ``test``.
    note : str
        How the split differs from the official one; empty if it does not.
    """

    name: str
    split: str
    level: str
    label: str
    classes: tuple[str, ...]
    ids: list[str]
    sequences: list[str]
    targets: list[np.ndarray]
    sets: np.ndarray
    note: str = ""

    @property
    def metric(self) -> str:
        """The main metric: ``accuracy`` for classes, ``mse`` (mean squared error) for numbers."""
        return "accuracy" if self.label == "class" else "mse"

    @property
    def output_spec(self) -> OutputSpec:
        """What the outputs of a head for this task mean."""
        return OutputSpec(self.name, self.split, self.level, self.label, self.classes)

    @property
    def num_outputs(self) -> int:
        """Number of columns of a head's output."""
        return self.output_spec.num_outputs

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of residues of each protein: ndarray, shape=(P,), dtype=int64."""
        return np.array([len(sequence) for sequence in self.sequences])

    def indices(self, part: str) -> np.ndarray:
        """Return the indices of the proteins in ``train``, ``val`` or ``test``: ndarray, dtype=int64."""
        return np.flatnonzero(self.sets == part)

    def scored(self, index: int) -> np.ndarray:
        """Return which targets of a protein are scored: ndarray, shape=(R,), dtype=bool."""
        targets_R = self.targets[index]
        scored_R: np.ndarray = ~np.isnan(targets_R) if self.label == "number" else targets_R != IGNORED
        return scored_R

    def subset(self, per_set: int) -> Task:
        """Return a smaller task for a trial, with at most `per_set` proteins of each set, drawn at random."""
        rng = np.random.default_rng(0)
        kept = np.sort(np.concatenate([rng.permutation(self.indices(part))[:per_set] for part in SETS]))
        return replace(
            self,
            ids=[self.ids[i] for i in kept],
            sequences=[self.sequences[i] for i in kept],
            targets=[self.targets[i] for i in kept],
            sets=self.sets[kept],
            note="; ".join(filter(None, [self.note, f"{per_set} proteins of each set"])),
        )


def shared_with_training(sequences: Sequence[str], sets: Sequence[str], part: str) -> list[int]:
    """Find the proteins of a set whose sequence also belongs to a protein that training uses.

    Parameters
    ----------
    sequences, sets : sequence of str
        Sequence and set of each protein.
    part : {"val", "test"}
        Set of the proteins to find. Training uses the training set, and for the test set also the validation set, which
        decides when it stops.

    Returns
    -------
    list of int
        Indices of the proteins.

    Examples
    --------
    >>> shared_with_training(["MKV", "MSL", "MKV"], ["train", "val", "test"], "test")
    [2]
    """
    used_sets = SETS[: SETS.index(part)]
    used = {sequence for sequence, each in zip(sequences, sets, strict=True) if each in used_sets}
    return [
        i for i, (sequence, each) in enumerate(zip(sequences, sets, strict=True)) if each == part and sequence in used
    ]


def load_task(
    path: str | Path,
    *,
    name: str,
    level: str | None = None,
    label: str | None = None,
    sequence_column: str = "sequence",
    target_column: str = "target",
    id_column: str | None = None,
    set_column: str = "set",
    mask_column: str = "mask",
    cleaning: Cleaning = DEFAULT_CLEANING,
    skip_missing: bool = False,
) -> Task:
    """Read a table of labelled proteins: one that ``prott5nv prepare flip`` wrote, or a user's own CSV.

    Parameters
    ----------
    path : str or Path
        CSV or TSV with a header line, gzipped or not.
    name : str
        Name of the task in results.
    level, label : str, optional
        ``residue`` or ``protein``, and ``class`` or ``number``. The description beside a prepared table overrides them.
    sequence_column, target_column : str
        Names of the required columns. The targets of the residues of a protein are one letter per residue (classes), or
        numbers separated by spaces or semicolons.
    id_column : str, optional
        Name of the column of ids. By default it is the first of `prott5nv.io.delimited.ID_COLUMNS` that the table has;
        without one, proteins are named ``row 1`` and so on.
    set_column, mask_column : str
        Names of the optional columns. Without sets, a tenth of the proteins is drawn at random as the test set, and a
        tenth of the others as the validation set. A mask has one character per residue: 1 if its target is scored, 0 if
        it is not read. Without masks, all are scored.
    cleaning : Cleaning
        What to do with gaps and nucleotides; see :mod:`prott5nv.io.cleaning`. Targets and masks of residues are cleaned
        alike.
    skip_missing : bool, default False
        Whether to leave out the proteins whose sequence, target or set is missing (see
        :func:`prott5nv.io.cleaning.is_missing`), and count them in the note. By default they are an error.

    Returns
    -------
    Task

    Raises
    ------
    ProtT5nvError
        If a column or a value is missing, a sequence cannot be used, or a target does not fit `level` and `label`; the
        message names file, line and protein.

    Warns
    -----
    InputWarning
        If sequences were changed, or the classes seem to be measurements.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "own.csv"
    ...     _ = path.write_text("sequence,target\\n" + 3 * "MKV,HHC\\nMS,CH\\n")
    ...     task = load_task(path, name="own", level="residue", label="class")
    >>> task.classes, task.targets[0].tolist(), task.note
    (('C', 'H'), [1, 1, 0], 'test set drawn at random; validation set drawn at random')
    """
    path = Path(path)
    description = read_description(path)
    level, label = description.get("level", level), description.get("label", label)
    if level not in LEVELS:
        raise ProtT5nvError(f"{path}: task.level={level}: must be {' or '.join(LEVELS)}")
    if label not in LABELS:
        raise ProtT5nvError(f"{path}: task.label={label}: must be {' or '.join(LABELS)}")
    columns = _Columns(sequence_column, target_column, id_column, set_column, mask_column)
    rows, skipped = _read_rows(path, columns, skip_missing)
    rows = _clean_rows(rows, level, label, path, cleaning)
    scored = [
        scored_targets(row.cells, row.mask, len(row.sequence) if level == "residue" else 1, row.where) for row in rows
    ]
    classes = tuple(description.get("classes", ()))
    if label == "class" and not classes:
        cells = {cell for row, scored_R in zip(rows, scored, strict=True) for cell in compress(row.cells, scored_R)}
        classes = tuple(sorted(cells))
        _warn_of_many_classes(classes, sum(int(scored_R.sum()) for scored_R in scored), path)
    targets = [
        parse_target(row.cells, scored_R, label, classes, row.where) for row, scored_R in zip(rows, scored, strict=True)
    ]
    sets, drawn = _complete_sets([row.set for row in rows], path)
    return Task(
        name=name,
        split=description.get("split", path.name.split(".")[0]),
        level=level,
        label=label,
        classes=classes,
        ids=[row.id for row in rows],
        sequences=[row.sequence for row in rows],
        targets=targets,
        sets=sets,
        note="; ".join(filter(None, [description.get("note"), skipped, drawn])),
    )


class _Columns(NamedTuple):
    """Names of the columns of a table."""

    sequence: str
    target: str
    id: str | None
    set: str
    mask: str


class _TableRow(NamedTuple):
    """One protein of a table: `where` is file, line and id for error messages, `cells` are the targets as text."""

    where: str
    id: str
    sequence: str
    target: str
    set: str | None
    mask: str | None
    cells: Sequence[str] = ()


def _read_rows(path: Path, columns: _Columns, skip_missing: bool) -> tuple[list[_TableRow], str]:
    """Return the rows, and a note about those that were left out because a value is missing."""
    rows = []
    with open_source(path) as stream:
        table = DelimitedTable(stream, str(path))
        for column, remedy in (
            (columns.sequence, "--sequence-column"),
            (columns.target, "--target-column"),
            (columns.id, "task.id_column=NAME"),
        ):
            if column is not None and column not in table.columns:
                listed = ", ".join(table.columns)
                raise ProtT5nvError(f"{path}: no column {column!r}; choose one of {listed} with {remedy}")
        id_column = columns.id or _usual_id_column(table.columns, columns)
        for number, (line, cells) in enumerate(table.dictionaries(), 1):
            id = cells.get(id_column, "").strip() or f"row {number}"
            sequence, target = cells[columns.sequence].strip(), cells[columns.target].strip()
            set_ = cells.get(columns.set)
            where = f"{path}: line {line}: {id}"
            if set_ is not None:
                set_ = set_.strip()
                if set_ not in SETS and not is_missing(set_):
                    raise ProtT5nvError(f"{where}: set {set_!r}: expected one of {', '.join(SETS)}")
            rows.append(_TableRow(where, id, sequence, target, set_, cells.get(columns.mask)))
    required = ["sequence", "target", "set"]
    if all(is_missing(row.set) for row in rows):  # the table does not define the sets
        rows = [row._replace(set=None) for row in rows]
        required.remove("set")
    if skip_missing:
        kept = [row for row in rows if not any(is_missing(getattr(row, name)) for name in required)]
        skipped = len(rows) - len(kept)
        return kept, f"left out {counted(skipped, 'protein')} with missing values" if skipped else ""
    for name in required:
        refuse_missing(((row.where, getattr(row, name)) for row in rows), name, _SKIPPING)
    return rows, ""


def _usual_id_column(names: Sequence[str], columns: _Columns) -> str:
    """Return the column of ids, which is none of the other columns; an empty name if there is none."""
    others = [name for name in names if name not in columns]
    index = first_usual_column(others, ID_COLUMNS)
    return "" if index is None else others[index]


def _clean_rows(rows: list[_TableRow], level: str, label: str, path: Path, cleaning: Cleaning) -> list[_TableRow]:
    """Clean the sequences, and the targets and masks of residues with them."""
    cleaned = []
    sequences = clean_labelled([(row.where, row.sequence) for row in rows], str(path), cleaning)
    for row, (sequence, kept) in zip(rows, sequences, strict=True):
        cells, mask = cleaned_targets(row.target, row.mask, kept, len(row.sequence), level, label)
        cleaned.append(row._replace(sequence=sequence, cells=cells, mask=mask))
    return cleaned


def _warn_of_many_classes(classes: Sequence[str], num_targets: int, path: Path) -> None:
    """Warn if the classes seem to be measurements, or if most of them occur only once."""
    numbers = [number for name in classes if (number := parse_number(name)) is not None]
    are_numbers = len(numbers) == len(classes)
    are_fractions = are_numbers and not all(number.is_integer() for number in numbers)
    if are_fractions or len(classes) > max(_MANY_CLASSES, num_targets / 2):
        hint = ", all of them numbers; did you mean --label number?" if are_numbers else ""
        warn(f"{path}: {len(classes):,} classes among {counted(num_targets, 'target')}{hint}", InputWarning)


def _complete_sets(sets: list[str | None], path: Path) -> tuple[np.ndarray, str]:
    """Draw the sets that a table does not define, and return the sets of all proteins and a note about it."""
    notes = []
    order = list(range(len(sets)))
    random.Random(0).shuffle(order)
    if not any(sets):
        sets = ["train"] * len(sets)
        for i in order[: max(_MIN_PROTEINS, round(_DRAWN_FRACTION * len(sets)))]:
            sets[i] = "test"
        notes.append("test set drawn at random")
    if "val" not in sets:
        training = [i for i in order if sets[i] == "train"]
        for i in training[: max(_MIN_PROTEINS, round(_DRAWN_FRACTION * len(training)))]:
            sets[i] = "val"
        notes.append("validation set drawn at random")
    for part in SETS:
        if sets.count(part) < _MIN_PROTEINS:
            raise ProtT5nvError(
                f"{path}: {counted(sets.count(part), 'protein')} in the {part} set; at least {_MIN_PROTEINS} are needed"
            )
    return np.array(sets), "; ".join(notes)
