"""Checkpoint files of a run: written atomically, verified before use, and thinned out.

The folder is the only state: file names hold the step and the validation perplexity. A file gets its name only when it
is complete and on disk, and older files are deleted only after that. A kill at any moment therefore leaves a checkpoint
to resume from.
"""

from __future__ import annotations

import logging
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file

logger = logging.getLogger(__name__)

METRIC = "val_residue_perplexity"
KEEP_NEWEST = 2  # the last one, and the one before it in case the last is damaged
_NAME = re.compile(rf"step=(\d+)(?:-{METRIC}=([\d.]+|inf|nan))?(-last)?\.ckpt")  # NeMo's callback adds -last


def checkpoint_name(step: int, perplexity: float | None = None) -> str:
    """Return the file name of a checkpoint.

    Parameters
    ----------
    step : int
        Number of optimizer steps taken.
    perplexity : float, optional
        Validation perplexity over residues, if this step was validated.

    Returns
    -------
    str

    Examples
    --------
    >>> checkpoint_name(400, 17.2504)
    'step=400-val_residue_perplexity=17.250.ckpt'
    >>> checkpoint_name(412)
    'step=412.ckpt'
    """
    return f"step={step}" + (f"-{METRIC}={perplexity:.3f}" if perplexity is not None else "") + ".ckpt"


def write_checkpoint(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint, which appears under its name only when it is complete and on disk.

    Parameters
    ----------
    checkpoint : dict
        Lightning's checkpoint.
    path : str or Path

    Raises
    ------
    ProtT5nvError
        If it cannot be written, for example on a full disk. An existing file at `path` stays as it was.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            torch.save(checkpoint, temporary)
    except (OSError, RuntimeError, ProtT5nvError) as error:  # PyTorch raises RuntimeError if the disk is full
        reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ").partition("\n")[0]
        raise ProtT5nvError(
            f"{path}: the checkpoint cannot be written: {reason}; free some space, and the same command continues "
            "from the previous checkpoint"
        ) from None


def find_checkpoint(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint, and log a warning for each damaged one.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Path or None
        None if there is no checkpoint.

    Raises
    ------
    ProtT5nvError
        If all checkpoints are damaged. Only the user can decide to start again from the beginning.
    """
    checkpoints = _newest_first(folder)
    for path in checkpoints:
        if (damage := _damage(path)) is None:
            return path
        logger.warning("%s is damaged (%s): using the checkpoint before it", path, damage)
    if checkpoints:
        raise ProtT5nvError(f"{folder}: every checkpoint is damaged; delete the folder to start from the beginning")
    return None


def superseded(folder: Path, keep_best: int) -> list[Path]:
    """Return the files that are neither among the newest nor among the best checkpoints.

    Parameters
    ----------
    folder : Path
    keep_best : int
        Number of checkpoints with the lowest validation perplexity to keep; -1 keeps all.

    Returns
    -------
    list of Path
        Checkpoints, and the ``.nemo`` files beside them.
    """
    if keep_best == -1:
        return []
    newest_first = _newest_first(folder)
    kept = {*newest_first[:KEEP_NEWEST], *best_first(folder)[:keep_best]}
    old = [path for path in newest_first if path not in kept]
    return old + [path.with_suffix(".nemo") for path in old if path.with_suffix(".nemo").exists()]


def best_first(folder: Path) -> list[Path]:
    """Return the checkpoints that have a finite validation perplexity, the lowest first."""
    perplexities = {path: float(match[2] or "nan") for path, match in _checkpoints(folder).items()}
    return sorted(
        (path for path in _newest_first(folder) if perplexities[path] < float("inf")),
        key=lambda path: perplexities[path],
    )


def _newest_first(folder: Path) -> list[Path]:
    steps = {path: int(match[1]) for path, match in _checkpoints(folder).items()}
    return sorted(steps, key=lambda path: (steps[path], path.stat().st_mtime_ns), reverse=True)


def _checkpoints(folder: Path) -> dict[Path, re.Match[str]]:
    return {path: match for path in folder.glob("*.ckpt") if (match := _NAME.fullmatch(path.name))}


def _damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint. It is a zip archive, which has a checksum for every tensor."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
        return None if member is None else f"the checksum of {member} is wrong"
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        return str(error)
