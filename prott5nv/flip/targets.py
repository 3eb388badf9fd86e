"""The targets of a protein: from the text in a file to class indices or numbers.

Shapes: R targets of a protein, which is its number of residues or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import numpy as np

from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import select
from prott5nv.io.text import counted, parse_number

IGNORED = -1  # index of a class that is not scored; for numbers it is NaN

_MAX_TARGET = 1e15  # sums of its square are finite in float32
_LONGEST_SHOWN = 40  # characters of a cell in an error message


def target_cells(target: str, level: str, label: str) -> list[str]:
    """Split the target of a protein, as it is in a file, into the targets of its residues.

    Parameters
    ----------
    target : str
        One letter per residue (classes), or numbers separated by spaces or semicolons; one value at the level
        ``protein``.
    level, label : str
        As for :class:`prott5nv.flip.tasks.Task`.

    Returns
    -------
    list of str

    Examples
    --------
    >>> target_cells("HHC", "residue", "class"), target_cells("0.5;-1", "residue", "number")
    (['H', 'H', 'C'], ['0.5', '-1'])
    """
    if level == "protein":
        return [target]
    return list(target) if label == "class" else target.replace(";", " ").split()


def cleaned_targets(
    target: str, mask: str | None, kept: list[int] | None, length: int, level: str, label: str
) -> tuple[Sequence[str], str | None]:
    """Split the target of a protein, and clean the targets and the mask of its residues like its sequence.

    Parameters
    ----------
    target : str
        As for :func:`target_cells`.
    mask : str or None
        One digit per residue.
    kept : list of int or None
        What :func:`prott5nv.io.cleaning.clean_labelled` returns for the sequence; None if it was clean.
    length : int
        Number of residues before cleaning.
    level, label : str
        As for :class:`prott5nv.flip.tasks.Task`.

    Returns
    -------
    cells : sequence of str
        The targets.
    mask : str or None
    """
    cells: Sequence[str] = target_cells(target, level, label)
    if kept is None:
        return cells, mask
    return select(cells, kept, length) if level == "residue" else cells, mask and "".join(select(mask, kept, length))


def scored_targets(cells: Sequence[str], mask: str | None, expected: int, where: str) -> np.ndarray:
    """Check the number of targets and the mask of a protein.

    Parameters
    ----------
    cells : sequence of str
        The targets.
    mask : str or None
        One digit per target: 1 if it is scored. Without a mask, all are scored.
    expected : int
        Number of residues, or 1 if there is one target for the protein.
    where : str
        Beginning of an error message.

    Returns
    -------
    ndarray, shape=(R,), dtype=bool
        Whether each target is scored.

    Raises
    ------
    ProtT5nvError
        If there are more or fewer targets, or the mask has another length or other characters.
    """
    if len(cells) != expected:
        raise ProtT5nvError(f"{where} has {counted(expected, 'residue')} and {counted(len(cells), 'label')}")
    if not mask:
        return np.full(expected, True)
    if len(mask) != expected or set(mask) - set("01"):
        raise ProtT5nvError(f"{where}: the mask must be {expected} characters, 0 or 1")
    return np.array([character == "1" for character in mask])


def parse_target(
    cells: Sequence[str], scored_R: np.ndarray, label: str, classes: Sequence[str], where: str
) -> np.ndarray:
    """Turn the scored targets of a protein into class indices or numbers.

    Parameters
    ----------
    cells : sequence of str
        The targets as text.
    scored_R : ndarray, shape=(R,), dtype=bool
        Whether each target is scored. The others are not read.
    label : str
        ``class`` or ``number``.
    classes : sequence of str
        Names of the classes.
    where : str
        Beginning of an error message.

    Returns
    -------
    ndarray, shape=(R,), dtype=int64 or float32
        Targets that are not scored are `IGNORED` or NaN.

    Raises
    ------
    ProtT5nvError
        If a target is not a finite number or none of the classes.
    """
    scored_cells = list(compress(cells, scored_R))
    target_R: np.ndarray
    if label == "number":
        target_R = np.full(len(cells), np.nan, dtype=np.float32)
        target_R[scored_R] = _parse_numbers(scored_cells, where)
    else:
        target_R = np.full(len(cells), IGNORED, dtype=np.int64)
        target_R[scored_R] = _class_indices(scored_cells, classes, where)
    return target_R


def _parse_numbers(cells: Sequence[str], where: str) -> np.ndarray:
    parsed = [parse_number(cell) for cell in cells]
    if None in parsed:
        text = " ".join(cells)
        shown = text if len(text) <= _LONGEST_SHOWN else cells[parsed.index(None)][:_LONGEST_SHOWN]
        raise ProtT5nvError(f"{where}: {shown!r} is not a number; write numbers such as 12, -0.5 or 2e-3")
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinity, which is refused below
        numbers = np.array(parsed, dtype=np.float64).astype(np.float32)
    if not np.isfinite(numbers).all():
        cell = cells[int(np.argmin(np.isfinite(numbers)))]
        raise ProtT5nvError(f"{where}: the target {cell!r} is not a finite number")
    if (largest := float(np.abs(numbers).max(initial=0))) > _MAX_TARGET:
        raise ProtT5nvError(
            f"{where}: a target of {largest:g} is larger than {_MAX_TARGET:g}; rescale the targets, for example by "
            "taking their logarithm"
        )
    return numbers


def _class_indices(cells: Sequence[str], classes: Sequence[str], where: str) -> list[int]:
    index = {name: i for i, name in enumerate(classes)}
    try:
        return [index[name] for name in cells]
    except KeyError as error:
        raise ProtT5nvError(f"{where}: {error.args[0]!r} is none of the classes {', '.join(classes)}") from None
