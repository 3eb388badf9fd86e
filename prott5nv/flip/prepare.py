"""Preparation of FLIP: one table per task and split, whose numbers of proteins are compared with the model card."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from prott5nv.errors import ProtT5nvError
from prott5nv.flip.description import description_file
from prott5nv.flip.files import FlipFile, FlipSource
from prott5nv.flip.labelled_rows import LabelledRow, read_labelled, read_table
from prott5nv.flip.prepared import Prepared, add_sequences, checked_rows, note_difference, write_prepared
from prott5nv.flip.tasks import SETS
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.io.output import check_outputs
from prott5nv.io.text import counted
from prott5nv.io.work_folders import reserved


@dataclass(frozen=True)
class Split:
    """One way of dividing the proteins of a task into sets.

    Attributes
    ----------
    files : dict of str to str
        Names of the files to look for, without suffix, and how each differs from the official one (empty if it does
        not).
    card : tuple of int, optional
        Number of training, validation and test proteins in the model card or in FLIP's paper.
    """

    files: dict[str, str]
    card: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class FlipTask:
    """A task of FLIP.

    Attributes
    ----------
    level, label : str
        As for :class:`prott5nv.flip.tasks.Task`.
    splits : dict of str to Split
        The published scores are those of the first split.
    classes : str
        Classes of residues, one letter each; empty for other tasks.
    mask : bool
        Whether a third file marks the residues that are scored.
    archive : str
        Git hash of ``splits.zip`` in FLIP's repository; empty if unknown.
    """

    level: str
    label: str
    splits: dict[str, Split]
    classes: str = ""
    mask: bool = False
    archive: str = ""


def _splits(*names: str) -> dict[str, Split]:
    return {name: Split({name: ""}) for name in names}


FLIP = {
    "secondary_structure": FlipTask(
        "residue", "class", {"sampled": Split({"sampled": ""}, (9712, 1080, 648))}, classes="CEH", mask=True
    ),
    "conservation": FlipTask(
        "residue", "class", {"sampled": Split({"sampled": ""}, (9392, 555, 519))}, classes="123456789"
    ),
    "scl": FlipTask(
        "protein",
        "class",
        {
            "mixed_soft": Split({"mixed_soft": "", "mixed_soft_reconstructed": "rebuilt train"}, (9503, 1678, 2768)),
            **_splits("mixed_hard", "human_soft", "human_hard", "balanced", "mixed_vs_human_2"),
        },
        archive="a2db6c2b23db4497625fd350354592dad1b3ce71",
    ),
    "meltome": FlipTask(
        "protein",
        "number",
        {
            "mixed_split": Split(
                {"mixed_split": "", "meltome_atlas_subset_mixed": "Meltome subset"}, (22335, 2482, 3134)
            ),
            **_splits("human", "human_cell"),
        },
        archive="94b82305ccf0ca8a979771ae6edfd27824fdf2d4",
    ),
    "gb1": FlipTask(
        "protein",
        "number",
        {
            "two_vs_rest": Split({"two_vs_rest": ""}, (381, 43, 8309)),
            "sampled": Split({"sampled": ""}, (6289, 699, 1745)),
            **_splits("one_vs_rest", "three_vs_rest", "low_vs_high"),
        },
    ),
}


def prepare(
    task: str,
    location: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    cleaning: Cleaning = DEFAULT_CLEANING,
    overwrite: bool = False,
) -> list[Prepared]:
    """Write ``OUTPUT/TASK/SPLIT.csv`` and a JSON description beside it for every split whose files exist.

    Parameters
    ----------
    task : str
        A key of `FLIP`.
    location : str or PathLike
        See :class:`prott5nv.flip.files.FlipSource`.
    output : str or PathLike
        Folder to write to.
    cleaning : Cleaning
        What to do with gaps and nucleotides; see :mod:`prott5nv.io.cleaning`.
    overwrite : bool, default False
        Whether to replace existing tables.

    Returns
    -------
    list of Prepared
        One for each split that was written.

    Raises
    ------
    ProtT5nvError
        If the task is unknown, it has no files at `location`, one of them is malformed, or a table exists or is also an
        input.
    """
    if task not in FLIP:
        raise ProtT5nvError(f"no FLIP task {task!r}: choose one of {', '.join(FLIP)}, or all")
    flip_task = FLIP[task]
    with FlipSource(location) as source, reserved(Path(output) / task):
        found = [
            (name, *first) for name, split in flip_task.splits.items() if (first := _find_split(source, task, split))
        ]
        tables = {} if found else source.tables(task)
        splits = [split for split, _, _ in found]
        if tables:
            splits = [next(iter(flip_task.splits))]
        if not splits:
            names = ", ".join(f"{stem}.fasta" for split in flip_task.splits.values() for stem in split.files)
            raise ProtT5nvError(
                f"{location}: nothing of {task} is there; looked in it and in {task}/ for {names}, "
                "splits.zip and the folders train, val and test of BioNeMo v1"
            )
        inputs = [file.path for _, _, file in found] + [file.path for files in tables.values() for file in files]
        paths = [_table_file(Path(output), task, split) for split in splits]
        check_outputs([*paths, *map(description_file, paths)], inputs, overwrite=overwrite)
        written = []
        for split, note, file in found:
            prepared = _description(task, split, note, file.name)
            rows = _keep_consistent(_read_rows(source, file, flip_task, prepared), prepared, cleaning)
            written.append(_write(rows, flip_task.splits[split].card, prepared, Path(output)))
        if tables:
            prepared = _description(task, splits[0], "", str(location))
            rows = [row for part, files in tables.items() for file in files for row in read_table(file, part)]
            rows = _keep_consistent(rows, prepared, cleaning)
            written.append(_write(rows, flip_task.splits[splits[0]].card, prepared, Path(output)))
    return written


def output_files(task: str, output: str | os.PathLike[str]) -> list[Path]:
    """Return all files that :func:`prepare` can write for a task: the table and the description of each split.

    Parameters
    ----------
    task : str
        A key of `FLIP`.
    output : str or PathLike
        Folder to write to.

    Returns
    -------
    list of Path
    """
    tables = [_table_file(Path(output), task, split) for split in FLIP[task].splits]
    return [*tables, *map(description_file, tables)]


def _find_split(source: FlipSource, task: str, split: Split) -> tuple[str, FlipFile] | None:
    """Return the first file of a split that exists, and how it differs from the official one."""
    for stem, note in split.files.items():
        if file := source.find(task, stem):
            return note, file
    return None


def _description(task: str, split: str, note: str, source: str) -> Prepared:
    flip_task = FLIP[task]
    return Prepared(task, split, flip_task.level, flip_task.label, list(flip_task.classes), note, source)


def _table_file(output: Path, task: str, split: str) -> Path:
    return output / task / f"{split}.csv"


def _read_rows(source: FlipSource, file: FlipFile, task: FlipTask, prepared: Prepared) -> list[LabelledRow]:
    rows = list(read_labelled(file))
    if file.member and task.archive and (git_hash := file.git_hash()) != task.archive:
        prepared.differences.append(f"{file.path}: git hash {git_hash}; FLIP's own is {task.archive}")
    if task.level == "residue" and rows and not rows[0].sequence:
        rows = _add_sequences(source, rows, task, prepared)
    return rows


def _add_sequences(
    source: FlipSource, labels: list[LabelledRow], task: FlipTask, prepared: Prepared
) -> list[LabelledRow]:
    """Find the files with the sequences and the masks, and add them to the labels."""
    sequence_file = source.find(prepared.task, "sequences", (".fasta",))
    if sequence_file is None:
        raise ProtT5nvError(f"{prepared.source}: the file sequences.fasta, to which its labels belong, is missing")
    mask_file = source.find(prepared.task, "mask", (".fasta",)) if task.mask else None
    if task.mask and mask_file is None:
        prepared.differences.append("mask.fasta is missing: residues without coordinates are scored, too")
    return add_sequences(labels, sequence_file, mask_file, prepared)


def _keep_consistent(rows: list[LabelledRow], prepared: Prepared, cleaning: Cleaning) -> list[LabelledRow]:
    """Return the cleaned rows that have one label, and one character of the mask, for each residue."""
    kept, uneven, uneven_masks = [], [], []
    for row in checked_rows(rows, prepared, cleaning):
        if prepared.level == "residue" and len(row.target) != len(row.sequence):
            uneven.append(row.id)
        elif prepared.level == "residue" and row.mask is not None and len(row.mask) != len(row.sequence):
            uneven_masks.append(row.id)
        else:
            kept.append(row)
    note_difference(prepared, "left out, as they have more or fewer labels than residues", uneven)
    note_difference(prepared, "left out, as their mask has another length", uneven_masks)
    return kept


def _write(rows: list[LabelledRow], card: tuple[int, int, int] | None, prepared: Prepared, output: Path) -> Prepared:
    """Compare the numbers of proteins with the model card, and write the table."""
    counts = Counter(row.set for row in rows)
    for part, expected in zip(SETS, card or (), strict=False):
        if counts[part] != expected:
            prepared.differences.append(f"{part}: {counted(counts[part], 'protein')}; the model card has {expected:,}")
            prepared.note = prepared.note or "not the card's proteins"
    if prepared.note:
        prepared.differences.append(f"note in results: {prepared.note}")
    return write_prepared(rows, prepared, _table_file(output, prepared.task, prepared.split))
