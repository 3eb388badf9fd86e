"""The folder in which an unfinished run keeps its results, and the lock that only one run holds."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from prott5nv.errors import ProtT5nvError
from prott5nv.io.exclusive import lock_or_refuse, open_own
from prott5nv.io.work_folders import remove_tree

JOURNAL = "journal.jsonl"
_OWN = re.compile(r"journal\.jsonl|rows\.bin|assembled(\.\w+)?|(?s:.+)\.skipped\.tsv|\.prott5nv-[0-9a-f]{16}|\.nfs\w+")
#: What the folder of a run with workers holds.
OF_WORKERS = re.compile(r"\d+-of-\d+\.h5(\.partial|\.skipped\.tsv)?|\.prott5nv-[0-9a-f]{16}|\.nfs\w+")


def partial_folder(output: Path) -> Path:
    """Return the folder in which an unfinished run keeps its results."""
    return output.with_name(output.name + ".partial")


def check_own(folder: Path, own: re.Pattern[str], journal: str | None = None) -> None:
    """Check that a folder of an unfinished run has only what runs write into it.

    Parameters
    ----------
    folder : Path
        It need not exist.
    own : Pattern
        Matches the names of a run's files and folders.
    journal : str, optional
        The file that a run writes first.

    Raises
    ------
    ProtT5nvError
        If the folder or something in it is a link, through which a run would write elsewhere, or is another file, which
        the run would remove at its end.
    """
    if folder.is_symlink():
        raise ProtT5nvError(f"{folder}: this is a link; remove it, or choose another output")
    names = os.listdir(folder) if folder.is_dir() else []
    for name in names:
        path = folder / name
        if not own.fullmatch(name) or (journal and journal not in names):
            raise ProtT5nvError(f"{path}: no run has made this; move it to another place, or choose another output")
        try:
            status = path.lstat()
        except FileNotFoundError:  # The run that made it has just removed it.
            continue
        if stat.S_ISDIR(status.st_mode):
            if name.endswith(".partial"):  # of a worker
                check_own(path, _OWN)
            elif name.startswith(".nfs") or name.endswith((".h5", ".tsv", ".bin", ".jsonl")):  # names of files
                raise ProtT5nvError(f"{path}: no run has made this folder; move it, or choose another output")
        elif not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise ProtT5nvError(f"{path}: this is a link, or no plain file; remove it")


def open_locked(path: Path, own: re.Pattern[str] = _OWN) -> BinaryIO:
    """Open a journal, and its folder if there is none, for this process only.

    Parameters
    ----------
    path : Path
        The journal in a partial folder.
    own : Pattern
        Matches the names of everything that a run writes into the folder.

    Returns
    -------
    file
        Open for reading and appending. Closing it releases the lock.

    Raises
    ------
    ProtT5nvError
        If another run has locked the journal, or the folder has something that no run has made.
    """
    while True:
        check_own(path.parent, own, path.name)
        path.parent.mkdir(exist_ok=True)
        try:
            file = open(path, "a+b", opener=open_own)  # noqa: SIM115 (closed by the caller)
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


def remove(folder: Path) -> None:
    """Remove a folder of an unfinished run. The journal, by which other runs know the folder, goes last."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        elif path.name != JOURNAL:
            path.unlink(missing_ok=True)
    remove_tree(folder)


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


def discard(folder: Path, own: re.Pattern[str] = _OWN) -> None:
    """Remove the folder of an unfinished run or of its workers, unless a run is using it or it has other files."""
    with ExitStack() as stack:
        try:
            check_own(folder, own, JOURNAL if own is _OWN else None)
            for path in folder.rglob(JOURNAL):
                _lock(stack.enter_context(open(path, "rb", opener=open_own)), folder)
            remove(folder)
        except (ProtT5nvError, OSError):
            return
