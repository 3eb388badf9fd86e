"""A run's checkpoint files: written whole or not at all, checked before they are trusted, thinned out.

The folder is the only state: names tell the step and the validation perplexity. A file gets its name when it is
complete and on disk, and older files go only after that, so a kill at any moment leaves one to resume from.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file

METRIC = "val_residue_perplexity"
KEEP_NEWEST = 2  # the last one, and the one before in case the last is damaged
_NAME = re.compile(rf"step=(\d+)(?:-{METRIC}=([\d.]+|inf|nan))?(-last)?\.ckpt")  # NeMo's callback wrote -last


def checkpoint_name(step: int, perplexity: float | None = None) -> str:
    """File name of a step's checkpoint.

    Examples
    --------
    >>> checkpoint_name(400, 17.2504)
    'step=400-val_residue_perplexity=17.250.ckpt'
    >>> checkpoint_name(412)
    'step=412.ckpt'
    """
    return f"step={step}" + (f"-{METRIC}={perplexity:.3f}" if perplexity is not None else "") + ".ckpt"


def write_checkpoint(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint that appears under its name only when all of it is on disk.

    Raises
    ------
    ProtT5nvError
        If it cannot be written, as on a full disk; whatever was there before stays.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            torch.save(checkpoint, temporary)
    except (OSError, RuntimeError, ProtT5nvError) as error:  # PyTorch raises RuntimeError when a write falls short
        reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ").partition("\n")[0]
        raise ProtT5nvError(
            f"{path}: the checkpoint cannot be written: {reason}; make room, and the same command continues from the "
            "previous checkpoint"
        ) from None


def find_checkpoint(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest sound checkpoint, passing over damaged ones with a warning.

    Parameters
    ----------
    folder : Path
    warn : callable
        Is told of each damaged file.

    Returns
    -------
    Path or None
        None if there is no checkpoint at all.

    Raises
    ------
    ProtT5nvError
        If there are some, all of them damaged: to start afresh is for the user to say.
    """
    checkpoints = _newest_first(folder)
    for path in checkpoints:
        if (damage := _damage(path)) is None:
            return path
        warn(f"{path} is damaged ({damage}): going back to the checkpoint before it")
    if checkpoints:
        raise ProtT5nvError(f"{folder}: every checkpoint is damaged; delete the folder to start afresh")
    return None


def superseded(folder: Path, keep_best: int) -> list[Path]:
    """Files that are neither among the newest checkpoints nor among the best, and what kills left half-written.

    Parameters
    ----------
    folder : Path
    keep_best : int
        Checkpoints of the lowest validation perplexity to keep; -1 keeps all.

    Returns
    -------
    list of Path
        Checkpoints, and the ``.nemo`` files beside them.
    """
    if keep_best == -1:
        return list(folder.glob("*.partial"))
    newest_first = _newest_first(folder)
    kept = {*newest_first[:KEEP_NEWEST], *best_first(folder)[:keep_best]}
    gone = [path for path in newest_first if path not in kept]
    exported = [path.with_suffix(".nemo") for path in gone if path.with_suffix(".nemo").exists()]
    return gone + exported + list(folder.glob("*.partial"))


def best_first(folder: Path) -> list[Path]:
    """Checkpoints with a validation perplexity, the lowest first."""
    perplexities = {path: float(_NAME.fullmatch(path.name)[2] or "nan") for path in _newest_first(folder)}
    return sorted((path for path, value in perplexities.items() if value < float("inf")), key=perplexities.get)


def _newest_first(folder: Path) -> list[Path]:
    steps = {path: int(match[1]) for path in folder.glob("*.ckpt") if (match := _NAME.fullmatch(path.name))}
    return sorted(steps, key=lambda path: (steps[path], path.stat().st_mtime_ns), reverse=True)


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint: it is a zip archive, with a checksum on every tensor."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
        return None if member is None else f"the checksum of {member} is wrong"
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        return str(error)
