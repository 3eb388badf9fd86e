"""The folder in which an unfinished run keeps its results, and the lock that only one run holds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from prott5nv.errors import ProtT5nvError
from prott5nv.io.exclusive import lock_or_refuse


def partial_folder(output: Path) -> Path:
    """Return the folder in which an unfinished run keeps its results."""
    return output.with_name(output.name + ".partial")


def open_locked(path: Path) -> BinaryIO:
    """Open a journal, and its folder if there is none, for this process only.

    Parameters
    ----------
    path : Path
        The journal in a partial folder.

    Returns
    -------
    file
        Open for reading and appending. Closing it releases the lock.

    Raises
    ------
    ProtT5nvError
        If another run has locked the journal.
    """
    while True:
        path.parent.mkdir(exist_ok=True)
        try:
            file = open(path, "a+b")  # noqa: SIM115 (closed by the caller)
        except FileNotFoundError:  # Another run has finished and removed the folder.
            continue
        try:
            _lock(file, path.parent)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:  # The other run removed the file after it was opened here, so the lock is of no use.
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def check_same_settings(folder: Path, existing: Mapping[str, Any], settings: Mapping[str, str]) -> None:
    """Raise an error if the unfinished run in a folder has other settings.

    Parameters
    ----------
    folder : Path
        The partial folder.
    existing : mapping
        Settings of the unfinished run.
    settings : mapping
        Settings that it must have.
    """
    for name, value in settings.items():
        if (before := existing.get(name)) != value:
            raise ProtT5nvError(
                f"{folder} holds an unfinished run with {name}={before}, not {value}: finish it with the same options "
                "and model, or delete that folder to start again"
            )


def other_input(folder: Path) -> ProtT5nvError:
    """Return the error for a folder with an unfinished run over another input."""
    return ProtT5nvError(
        f"{folder} holds an unfinished run over another input: finish it with its own input, or delete that folder to "
        "start again"
    )


def _lock(file: BinaryIO, folder: Path) -> None:
    refusal = f"{folder}: another run writes to it; wait for that run or choose another output"
    lock_or_refuse(file.fileno(), folder, refusal)


def discard(folder: Path) -> None:
    """Remove the folder of an unfinished run or of its workers, unless a run is using it."""
    with ExitStack() as stack:
        for path in folder.rglob("journal.jsonl"):
            file = stack.enter_context(open(path, "rb"))
            try:
                _lock(file, folder)
            except ProtT5nvError:
                return
        shutil.rmtree(folder, ignore_errors=True)
