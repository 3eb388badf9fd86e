"""Work folders: temporary folders next to a file or folder that is being written, and reservations of outputs.

A work folder is locked. The operating system releases the lock when the process ends, even if it is killed. The next
command that writes to the same place removes work folders that nobody locks. Before that, it moves complete files in
them to their final names.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from prott5nv.errors import ProtT5nvError
from prott5nv.io.exclusive import exclusive_folder, open_and_lock

logger = logging.getLogger(__name__)

_PREFIX = ".prott5nv-"
# Subfolder of a work folder for the new folder, or for new files.
NEW = "new"
# Seconds to wait for the lock of a folder. This module holds it for a moment, but another program may not release it.
_PATIENCE = 10.0
_own_work_folders: set[Path] = set()
_kept_locked: set[Path] = set()  # folders whose lock another program did not release in this time


def finished_folder(work_folder: Path) -> Path:
    """Return the subfolder of a work folder for complete files that all belong into the folder around it.

    Its name has the number that the file system has given to the work folder. In a copy, such as one from an archive of
    a stranger, that number is another, so its files are not moved.
    """
    return work_folder / f"finished-{work_folder.stat().st_ino}"


def replaced_folder(work_folder: Path) -> Path:
    """Return the subfolder of a work folder for the folder that a new one replaces, named by the same rule."""
    return work_folder / f"replaced-{work_folder.stat().st_ino}"


def real_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of the file or folder to write, which is where a symbolic link points to."""
    return Path(os.path.realpath(path))


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Convert errors of the operating system to an error message of one line with the path."""
    try:
        yield
    except OSError as error:
        raise ProtT5nvError(f"{path}: {error.strerror or error}") from None


@contextmanager
def reserved(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes from reserving the same output until the block ends or the process dies.

    Parameters
    ----------
    path : str or PathLike
        Name of a file or folder to write. Missing parent folders are created, and removed again if they stay empty.

    Raises
    ------
    ProtT5nvError
        If another process has reserved the output, or the disk is full.
    """
    target = real_path(path)
    # An empty work folder with a name that both processes know. After a kill, it is removed like any other.
    folder = target.parent / f"{_PREFIX}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}"
    with ExitStack() as stack:
        stack.enter_context(no_empty_parents(target))
        with reported(Path(path)):
            target.parent.mkdir(parents=True, exist_ok=True)
        with reported(Path(path)), _creation_lock(target.parent):
            stack.enter_context(exclusive_folder(folder, str(path), wait=False))
        stack.callback(_remove_if_empty, folder)  # and nothing else, because another user may have made it
        yield


@contextmanager
def no_empty_parents(target: Path) -> Iterator[None]:
    """Remove those parent folders of a file or folder that the block creates and leaves empty.

    Parameters
    ----------
    target : Path
        An absolute path.
    """
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        yield
    finally:
        for parent in missing:  # the innermost first
            _remove_if_empty(parent)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def new_work_folder(folder: Path) -> Iterator[Path]:
    """Create a temporary work folder in `folder`, and remove it at the end.

    It is on the same file system as `folder`, so moving a file out of it is atomic.
    """
    with _creation_lock(folder) as held:
        if held:
            _end_interrupted(folder)
        work_folder = folder / f"{_PREFIX}{secrets.token_hex(8)}"
        work_folder.mkdir(mode=0o700)
        lock = _try_lock(work_folder)
    _own_work_folders.add(work_folder)
    try:
        yield work_folder
    finally:
        _own_work_folders.discard(work_folder)
        with suppress(OSError):
            move_finished(work_folder)  # if Ctrl-C has interrupted it
        _remove_work_folder(work_folder)
        if lock is not None:
            os.close(lock)


def is_in_work_folder(folder: Path) -> bool:
    """Return whether a folder is a work folder of this process, or in one."""
    return not _own_work_folders.isdisjoint((folder, *folder.parents))


@contextmanager
def _creation_lock(folder: Path) -> Iterator[bool]:
    """Lock a folder while a work folder is created in it, and yield whether the lock is held.

    Between its creation and its own lock, a new work folder looks abandoned. This lock keeps other processes from
    removing it in this moment. Nobody else removes folders in a work folder of this process.
    """
    patience = 0.0 if folder in _kept_locked else _PATIENCE
    lock = None if folder in _own_work_folders else _try_lock(folder, patience=patience)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _try_lock(folder: Path, *, patience: float = 0.0) -> int | None:
    """Lock a folder, and wait some seconds for it. None if that is not possible, so that nothing is removed."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return open_and_lock(folder)
        except BlockingIOError:  # another process holds the lock
            if time.monotonic() >= deadline:
                if patience:
                    _kept_locked.add(folder)
                return None
            time.sleep(0.02)
        except OSError:  # there are no locks, or the folder belongs to another user
            return None


def move_finished(work_folder: Path, without: Container[str] = ()) -> list[str]:
    """Move the complete files of a work folder to the folder around it.

    Parameters
    ----------
    work_folder : Path
    without : container of str
        Names of files that stay.

    Returns
    -------
    list of str
        Names of the files.

    Raises
    ------
    OSError
        If a file cannot be moved.
    """
    files = (path for path in _entries(finished_folder(work_folder)) if path.name not in without)
    finished = sorted(path for path in files if stat.S_ISREG(path.lstat().st_mode))
    for file in finished:
        os.replace(file, work_folder.parent / file.name)
    return [file.name for file in finished]


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing if there is none, or a link in its place, which could lead anywhere."""
    return [] if folder.is_symlink() or not folder.is_dir() else list(folder.iterdir())


def end_interrupted(folder: Path) -> None:
    """Remove the work folders of processes that were killed, after moving complete files in them to their names.

    Parameters
    ----------
    folder : Path
        Folder with outputs. It need not exist.
    """
    with _creation_lock(folder) as held:
        if held:
            _end_interrupted(folder)


def _end_interrupted(folder: Path) -> None:
    for work_folder in folder.glob(f"{_PREFIX}{'[0-9a-f]' * 16}"):
        if (lock := _try_lock(work_folder)) is None:
            continue
        try:
            status = os.fstat(lock)
            # Another user could have made the folder to move files here, or needs the complete files in it.
            is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
            if is_own and _complete(work_folder):
                _remove_work_folder(work_folder)
        except OSError:  # for example, a file is now a folder; the next write tries again
            pass
        finally:
            os.close(lock)


def _complete(work_folder: Path) -> bool:
    """Move complete files of a killed process to their names, and return whether none of these names is taken since."""
    killed = work_folder.stat().st_mtime_ns
    taken = set()
    for file in _entries(finished_folder(work_folder)):
        target = work_folder.parent / file.name
        if target.exists() and target.stat().st_ctime_ns > killed:  # `mv` and `cp -p` do not change the other times
            taken.add(file.name)
            logger.warning("%s was changed after a command that writes it was killed; keep it or %s", target, file)
    if names := move_finished(work_folder, taken):
        logger.warning("completed the output of a command that was killed: %s", ", ".join(names))
    return not taken


def _remove_work_folder(work_folder: Path) -> None:
    """Remove a work folder, but first finish or undo the replacement of a folder."""
    try:
        replaced = _entries(replaced_folder(work_folder))
    except OSError:  # It has gone already.
        return
    for old in replaced:
        target, new = work_folder.parent / old.name, work_folder / NEW / old.name
        if os.path.lexists(target) or old.is_symlink():
            if not new.exists():  # The new folder has its name.
                continue
            logger.warning("%s: a killed command has left two folders %s in it", work_folder, old.name)
            return
        # When the old folder was moved away, the new one was complete.
        if new.is_dir() and not new.is_symlink() and _is_moved(new, target):
            logger.warning("completed the output of a command that was killed: %s", old.name)
        elif not _is_moved(old, target):  # for example, it belongs to another user; the next write tries again
            return
    remove_tree(work_folder)


def _is_moved(source: Path, target: Path) -> bool:
    try:
        os.replace(source, target)
    except OSError:
        return False
    return True


def remove_tree(folder: Path) -> None:
    """Remove a folder and what is in it, as far as possible.

    Parameters
    ----------
    folder : Path
    """
    with suppress(RecursionError):  # until Python 3.12, from thousands of folders in each other
        shutil.rmtree(folder, ignore_errors=True)
