"""The one way to write a file or a folder: it gets its final name only when it is complete and on the disk.

Work happens in a private folder beside the target, which is locked while its process lives. What a killed process left
behind is recognized by its name and the free lock, and removed by the next write into the same place.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prott5nv.errors import ProtT5nvError

try:
    import fcntl
except ImportError:  # Windows has no flock, so nothing is known about abandoned folders there
    fcntl = None

_PREFIX = ".prott5nv-"


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the name of a temporary file, which becomes `path` when the block ends.

    If the block raises, the temporary file is removed and an existing file at `path` stays as it was.

    Parameters
    ----------
    path : str or PathLike
        Final name. Its folder must exist; an older file of that name is replaced.

    Yields
    ------
    Path
        Name of the file to write, with the suffix of `path`. Nothing exists there yet.

    Raises
    ------
    ProtT5nvError
        If the file cannot be written, for example because the disk is full.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder) / "table.csv") as temporary:
    ...         _ = temporary.write_text("id,score\\n")
    ...     os.listdir(folder)
    ['table.csv']
    """
    path = Path(path)
    with _reported(path), _workspace(path.parent) as workspace:
        temporary = workspace / path.name
        yield temporary
        publish(temporary, path)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole text file in UTF-8; see :func:`whole_file`.

    Parameters
    ----------
    path : str or PathLike
    text : str

    Raises
    ------
    ProtT5nvError
        If the file cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder, which becomes `path` when the block ends.

    Parameters
    ----------
    path : str or PathLike
        Final name. Parent folders are created.
    replace : bool, default False
        Whether to replace a folder with content at `path`; an empty one is always replaced.

    Yields
    ------
    Path
        The folder to fill. It is removed if the block raises.

    Raises
    ------
    ProtT5nvError
        If the folder cannot be written, or `path` exists with content and `replace` is false.
    """
    path = Path(os.path.abspath(path))
    with _reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _workspace(path.parent) as workspace:
            temporary = workspace / path.name
            temporary.mkdir()
            yield temporary
            if replace and path.exists() and any(path.iterdir()):
                (workspace / "replaced").mkdir()
                os.replace(path, workspace / "replaced" / path.name)
            os.replace(temporary, path)
            sync_folder(path.parent)


def publish(finished: Path, path: Path) -> None:
    """Give a finished file its final name in the same file system, so that both survive a power failure.

    Parameters
    ----------
    finished : Path
        A complete file under another name.
    path : Path
        Its final name; an older file there is replaced.

    Raises
    ------
    OSError
        If the disk is full or the name cannot be given.
    """
    with open(finished, "rb") as file:
        os.fsync(file.fileno())
    os.replace(finished, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power failure, on systems that allow folders to be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn what the operating system reports into one line with the path."""
    try:
        yield
    except OSError as error:
        raise ProtT5nvError(f"{path}: {error.strerror or error}") from None


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """Yield a new private folder in `folder`; on the same file system, so that renaming out of it is atomic."""
    # The lock on `folder` keeps others from taking the workspace for abandoned before it is locked itself.
    creation = _lock(folder, wait=True)
    try:
        if creation is not None:
            _remove_abandoned(folder)
        workspace = folder / f"{_PREFIX}{secrets.token_hex(8)}"
        workspace.mkdir(mode=0o700)
        lock = _lock(workspace)
    finally:
        _unlock(creation)
    try:
        yield workspace
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
        _unlock(lock)


def _remove_abandoned(folder: Path) -> None:
    for workspace in folder.glob(f"{_PREFIX}{'[0-9a-f]' * 16}"):
        if (lock := _lock(workspace)) is not None:
            shutil.rmtree(workspace, ignore_errors=True)
            _unlock(lock)


def _lock(folder: Path, *, wait: bool = False) -> int | None:
    """The descriptor that holds a folder's lock; None if another process has it or the system offers no locks."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
