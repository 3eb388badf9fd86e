"""A task: proteins, what is to be predicted of each, and which are for training, validation and test.

A protein's targets are one number per row of output: L rows for a task about residues, one for a task about proteins.

Shapes: P proteins, L residues of one, R rows of output of one (L or 1).
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prott5nv.errors import ProtT5nvError
from prott5nv.io.source import open_source

LEVELS = ("residue", "protein")
LABELS = ("class", "number")
SETS = ("train", "val", "test")
LONG = 512  # residues that the public model sees at once
IGNORED = -1  # a class that is not scored; of numbers, NaN

_DRAWN = 0.1  # of the proteins, for a set that a table does not name
_FEWEST = 2  # proteins of a set


@dataclass(frozen=True)
class Task:
    """Proteins and their targets.

    Attributes
    ----------
    name, split : str
    level : str
        ``residue`` or ``protein``: what has a target.
    label : str
        ``class`` or ``number``.
    classes : tuple of str
        Names of the classes; empty for numbers.
    ids, sequences : list of str
    targets : list of ndarray, shape=(R,), dtype=int64 or float32
        Class numbers, `IGNORED` where not scored; or numbers, NaN where not scored.
    sets : ndarray, shape=(P,)
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
        """By what results are compared: ``accuracy``, or ``mse`` for numbers."""
        return "accuracy" if self.label == "class" else "mse"

    @property
    def num_outputs(self) -> int:
        """Columns of a head's output."""
        return len(self.classes) if self.label == "class" else 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Residues of each protein: ndarray, shape=(P,), dtype=int64."""
        return np.array([len(sequence) for sequence in self.sequences])

    def indices(self, part: str) -> np.ndarray:
        """Numbers of the proteins of ``train``, ``val`` or ``test``: ndarray, dtype=int64."""
        return np.flatnonzero(self.sets == part)

    def scored(self, index: int) -> np.ndarray:
        """Which rows of a protein count: ndarray, shape=(R,), dtype=bool."""
        return ~np.isnan(self.targets[index]) if self.label == "number" else self.targets[index] != IGNORED

    def subset(self, per_set: int) -> Task:
        """At most that many proteins of each set, drawn at random; for a trial."""
        order = np.random.default_rng(0)
        kept = np.sort(np.concatenate([order.permutation(self.indices(part))[:per_set] for part in SETS]))
        return Task(
            self.name,
            self.split,
            self.level,
            self.label,
            self.classes,
            [self.ids[i] for i in kept],
            [self.sequences[i] for i in kept],
            [self.targets[i] for i in kept],
            self.sets[kept],
            "; ".join(filter(None, [self.note, f"{per_set} proteins of each set"])),
        )


def load_task(
    path: str | Path,
    *,
    name: str,
    level: str | None = None,
    label: str | None = None,
    sequence_column: str = "sequence",
    target_column: str = "target",
    id_column: str = "id",
    set_column: str = "set",
    mask_column: str = "mask",
) -> Task:
    """Read a table of labelled proteins: what ``prott5nv prepare flip`` wrote, or a user's own CSV.

    Parameters
    ----------
    path : path-like
        CSV with a header line, gzipped or not.
    name : str
        What results call the task.
    level, label : str, optional
        ``residue`` or ``protein``; ``class`` or ``number``. A table made by ``prepare`` says so itself.
    sequence_column, target_column : str
        Targets of residues are one letter each (classes), or numbers with spaces between them.
    id_column, set_column, mask_column : str
        Columns that may be missing: ids are then ``row 1`` ..., a tenth of the proteins drawn at random is the test set
        and a tenth of the others the validation set, and every residue is scored.

    Raises
    ------
    ProtT5nvError
        If a column is missing or a target is not of the kind named; the message names file, line and protein.

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
    about = _description(path)
    level, label = about.get("level", level), about.get("label", label)
    for what, value, allowed in (("level", level, LEVELS), ("label", label, LABELS)):
        if value not in allowed:
            raise ProtT5nvError(f"{path}: task.{what}={value}: say {' or '.join(allowed)}")
    rows = list(_read_rows(path, sequence_column, target_column))
    classes = tuple(about.get("classes", ()))
    if label == "class" and not classes:
        found = (row[target_column] for _, row in rows)
        classes = tuple(sorted(set("".join(found) if level == "residue" else found)))
    ids, sequences, targets, sets = [], [], [], []
    for line, row in rows:
        where = f"{path}: line {line}"
        ids.append(row.get(id_column) or f"row {len(ids) + 1}")
        sequences.append(row[sequence_column])
        sets.append(row.get(set_column))
        target = _parse(row[target_column], level, label, classes, where)
        expected = len(sequences[-1]) if level == "residue" else 1
        if len(target) != expected:
            raise ProtT5nvError(f"{where}: {ids[-1]} has {expected} residues and {len(target)} labels")
        targets.append(_masked(target, row.get(mask_column), where))
    sets, drawn = _complete(sets, path)
    return Task(
        name=name,
        split=about.get("split", path.name.split(".")[0]),
        level=level,
        label=label,
        classes=classes,
        ids=ids,
        sequences=sequences,
        targets=targets,
        sets=sets,
        note="; ".join(filter(None, [about.get("note"), drawn])),
    )


def description_file(path: Path) -> Path:
    """Where ``prepare`` says what a table of its holds."""
    return path.with_suffix(".json")


def _description(path: Path) -> dict[str, Any]:
    file = description_file(path)
    return json.loads(file.read_text()) if file.is_file() else {}


def _read_rows(path: Path, *required: str) -> Iterable[tuple[int, dict[str, str]]]:
    with open_source(path) as stream:
        lines = (line.decode("utf-8-sig") for line in stream)
        rows = csv.DictReader(lines)
        for column in required:
            if column not in (rows.fieldnames or ()):
                found = ", ".join(rows.fieldnames or ())
                raise ProtT5nvError(f"{path}: no column {column!r}; the columns are: {found}")
        for row in rows:
            if not all(row[column] for column in required):
                raise ProtT5nvError(f"{path}: line {rows.line_num}: {' or '.join(required)} is empty")
            yield rows.line_num, row


def _parse(text: str, level: str, label: str, classes: Sequence[str], where: str) -> np.ndarray:
    if label == "number":
        try:
            return np.array(text.split() if level == "residue" else [text], dtype=np.float32)
        except ValueError:
            raise ProtT5nvError(f"{where}: {text[:40]!r} is not a number") from None
    number = {name: i for i, name in enumerate(classes)}
    try:
        return np.array([number[name] for name in (text if level == "residue" else [text])], dtype=np.int64)
    except KeyError as error:
        raise ProtT5nvError(f"{where}: {error.args[0]!r} is none of the classes {', '.join(classes)}") from None


def _masked(target: np.ndarray, mask: str | None, where: str) -> np.ndarray:
    if not mask:
        return target
    if len(mask) != len(target) or set(mask) - set("01"):
        raise ProtT5nvError(f"{where}: the mask must be {len(target)} characters, 0 or 1")
    hidden = np.frombuffer(mask.encode(), dtype=np.uint8) == ord("0")
    return np.where(hidden, IGNORED if target.dtype == np.int64 else np.float32(np.nan), target)


def _complete(sets: list[str | None], path: Path) -> tuple[np.ndarray, str]:
    """Sets of all proteins, and what had to be drawn at random for want of it."""
    drawn = []
    order = list(range(len(sets)))
    random.Random(0).shuffle(order)
    if not any(sets):
        count = max(_FEWEST, round(_DRAWN * len(sets)))
        sets = ["train"] * len(sets)
        for i in order[:count]:
            sets[i] = "test"
        drawn.append("test set drawn at random")
    unknown = set(sets) - set(SETS)
    if unknown:
        raise ProtT5nvError(f"{path}: set {sorted(map(str, unknown))[0]!r}: expected one of {', '.join(SETS)}")
    if "val" not in sets:
        training = [i for i in order if sets[i] == "train"]
        for i in training[: max(_FEWEST, round(_DRAWN * len(training)))]:
            sets[i] = "val"
        drawn.append("validation set drawn at random")
    for part in SETS:
        if sets.count(part) < _FEWEST:
            raise ProtT5nvError(f"{path}: {sets.count(part)} proteins in the {part} set; at least {_FEWEST} are needed")
    return np.array(sets), "; ".join(drawn)
