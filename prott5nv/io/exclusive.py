"""Locks on files and folders: what belongs to one process at a time.

The operating system releases a lock when the process ends, even if it is killed. Some file systems and Windows have no
such locks. There the user is warned, and nothing is removed because it looks abandoned.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prott5nv.errors import ProtT5nvError

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

_warned: set[str] = set()  # folders without locks that a warning has named
_PATIENCE = 1.0  # seconds; a process that was killed while it started another one holds its locks a moment longer


class NoLocksError(OSError):
    """The operating system or the file system has no locks."""


def lock(descriptor: int, *, wait: bool = False) -> None:
    """Lock an open file or folder until it is closed or the process ends.

    Parameters
    ----------
    descriptor : int
        Descriptor of the open file or folder.
    wait : bool, default False
        Whether to wait for another process that holds the lock.

    Raises
    ------
    BlockingIOError
        If another process holds the lock and `wait` is false.
    NoLocksError
        If there are no locks here.
    """
    if sys.platform == "win32":
        raise NoLocksError(errno.ENOTSUP, "Windows has none")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise NoLocksError(error.errno, error.strerror) from None


def open_and_lock(path: Path, *, wait: bool = False) -> int:
    """Open a file or folder and lock it.

    Parameters
    ----------
    path : Path
        An existing file or folder. A symbolic link is refused.
    wait : bool, default False
        Whether to wait for another process that holds the lock.

    Returns
    -------
    int
        The descriptor. Closing it releases the lock.

    Raises
    ------
    BlockingIOError
        If another process holds the lock and `wait` is false.
    NoLocksError
        If there are no locks here.
    OSError
        If `path` cannot be opened.
    """
    if sys.platform == "win32":  # which cannot open folders
        raise NoLocksError(errno.ENOTSUP, "Windows has none")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for its other end
    try:
        lock(descriptor, wait=wait)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_own(path: str, flags: int) -> int:
    """Open a file that a run has made, or make it: for the parameter `opener` of ``open``.

    Raises
    ------
    OSError
        If there is a link, a second name of another file, a pipe or a device in its place.
    """
    safe = (flags & ~os.O_TRUNC) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, safe, 0o666)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EMLINK, "this is a link, or no plain file; remove it", path)
    if flags & os.O_TRUNC:
        os.ftruncate(descriptor, 0)
    return descriptor


def lock_or_refuse(descriptor: int, path: Path, refusal: str) -> None:
    """Lock an open file, or raise an error that the user can understand.

    Parameters
    ----------
    descriptor : int
        Descriptor of the open file.
    path : Path
        Name of the file. If there are no locks here, a warning names it.
    refusal : str
        Message of the error if another process holds the lock.

    Raises
    ------
    ProtT5nvError
        If another process holds the lock.
    """
    try:
        lock(descriptor)
    except BlockingIOError:
        raise ProtT5nvError(refusal) from None
    except NoLocksError as error:
        _warn_without_locks(str(path), error)


@contextmanager
def exclusive_folder(folder: Path, purpose: str, *, wait: bool) -> Iterator[None]:
    """Create a folder and lock it until the block ends or the process dies.

    The holder may remove the folder at the end of the block.

    Parameters
    ----------
    folder : Path
    purpose : str
        What the holder writes, for messages.
    wait : bool
        Whether to wait for another process that holds the lock.

    Raises
    ------
    ProtT5nvError
        If another process holds the lock and `wait` is false.
    OSError
        If the folder cannot be created.
    """
    descriptor = _lock_folder(folder, purpose, wait)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock_folder(folder: Path, purpose: str, wait: bool) -> int | None:
    """Return the descriptor of the locked folder; None if there are no locks here."""
    waiting, deadline = False, time.monotonic() + _PATIENCE
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = open_and_lock(folder, wait=waiting)
        except FileNotFoundError:  # The other process removed the folder when it had finished.
            continue
        except BlockingIOError:
            if not wait:
                if time.monotonic() >= deadline:
                    raise ProtT5nvError(
                        f"another process is writing {purpose}; wait for it or choose another name"
                    ) from None
                time.sleep(0.05)
                continue
            logger.info("waiting for another process that is writing %s", purpose)
            waiting = True
            continue
        except NoLocksError as error:
            _warn_without_locks(purpose, error)
            return None
        try:
            # The other process may have removed the folder after it was opened here.
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _warn_without_locks(purpose: str, error: OSError) -> None:
    if (folder := os.path.dirname(os.path.abspath(purpose))) in _warned:
        return
    _warned.add(folder)
    logger.warning(
        "this file system has no locks (%s), so make sure that no other process writes %s", error.strerror, purpose
    )
