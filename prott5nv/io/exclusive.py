"""A folder that belongs to one process at a time."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prott5nv.errors import ProtT5nvError

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)


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
    descriptor: int | None = None
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        if sys.platform == "win32":  # Windows cannot lock folders
            break
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            _lock(descriptor, folder, purpose, wait)
            # The other process may have removed the folder when it had finished.
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                break
        except FileNotFoundError:
            pass
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise
        if descriptor is not None:
            os.close(descriptor)
            descriptor = None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int, folder: Path, purpose: str, wait: bool) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise ProtT5nvError(f"another process is writing {purpose}; wait for it or choose another folder") from None
        logger.info("waiting for another process that is writing %s", purpose)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        logger.warning(
            "%s: there are no locks on this file system (%s), so make sure that no other process writes %s",
            folder,
            error.strerror,
            purpose,
        )
