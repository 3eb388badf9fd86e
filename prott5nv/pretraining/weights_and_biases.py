"""Logging to Weights & Biases."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from nemo.utils.get_rank import is_global_rank_zero

from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import write_text

ID_FILE = "wandb_id.txt"

_SETTING = "exp_manager.create_wandb_logger=true"


def check_wandb(arguments: Mapping[str, Any]) -> None:
    """Log in, unless the log stays on this machine.

    Parameters
    ----------
    arguments : mapping
        ``exp_manager.wandb_logger_kwargs``.

    Raises
    ------
    ProtT5nvError
        If the package is missing, or there is no valid key.
    """
    if find_spec("wandb") is None:
        raise ProtT5nvError(f"{_SETTING} needs wandb: pip install wandb")
    wandb = import_module("wandb")  # no extra installs it, so type checkers may not find it
    if arguments.get("offline") or os.environ.get("WANDB_MODE", "online") != "online":
        return
    try:
        wandb.login()  # asks for the key if there is a terminal
    except wandb.Error as error:
        raise ProtT5nvError(
            f"{_SETTING}: {error} Or set WANDB_API_KEY, or WANDB_MODE=offline to keep the log on this machine."
        ) from None


def wandb_logger(arguments: Mapping[str, Any], folder: Path, is_continued: bool) -> WandbLogger:
    """Build the logger of a run. NeMo's exp_manager would give all runs the same id.

    Parameters
    ----------
    arguments : mapping
        ``exp_manager.wandb_logger_kwargs``, for Lightning's ``WandbLogger``. An ``id`` in it is used.
    folder : Path
        Folder of the run, which stores the id.
    is_continued : bool
        Whether the run continues from a checkpoint, so that its curves continue, too.

    Returns
    -------
    WandbLogger
    """
    settings = {"save_dir": str(folder.parent), **arguments}
    if is_global_rank_zero() and "id" not in settings:  # only the first process logs
        settings["id"] = _run_id(folder / ID_FILE, is_continued)
    return WandbLogger(**settings)


def _run_id(path: Path, is_continued: bool) -> str:
    if not is_continued or not path.exists():
        write_text(path, f"{secrets.token_hex(4)}\n")
    return path.read_text().strip()
