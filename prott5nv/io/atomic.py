"""Atomic writing: a file or folder gets its final name only when it is complete and on the disk.

Each write uses a temporary work folder next to the target and locks it. The operating system releases the lock when
the process ends, even if it is killed. The next write into the same place removes work folders that nobody locks.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from prott5nv.errors import ProtT5nvError
from prott5nv.io.exclusive import exclusive_folder, open_and_lock

_PREFIX = ".prott5nv-"
# Subfolders of a work folder, for the new folder and for the one that it replaces.
_NEW = "new"
_REPLACED = "replaced"
_own_workspaces: set[Path] = set()
# The files that a block of `together` has written: temporary name, final name, and what removes the work folder.
_group: ContextVar[list[tuple[Path, Path, ExitStack]] | None] = ContextVar("group", default=None)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file completely or not at all.

    The block writes a temporary file, which is moved to `path` when the block ends. If the block raises an exception,
    the temporary file is removed and an existing file at `path` stays as it was.

    Parameters
    ----------
    path : str or PathLike
        Final name. Its folder must exist. An existing file of that name is replaced. If `path` is a symbolic link, the
        file that it points to is replaced.

    Yields
    ------
    Path
        Name of the temporary file, which does not exist yet. It has the same file name as `path`.

    Raises
    ------
    ProtT5nvError
        If `path` is a folder, a device or a pipe, or the file cannot be written, for example because the disk is full.

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
    check_replaceable(path)
    folder = _target(path).parent
    group = _group.get()
    with _reported(path), ExitStack() as stack:
        temporary = stack.enter_context(_workspace(folder)) / path.name
        yield temporary
        if group is None or _own_workspaces.intersection((folder, *folder.parents)):
            publish(temporary, path)
        else:
            _sync_file(temporary)
            group.append((temporary, path, stack.pop_all()))


@contextmanager
def together() -> Iterator[None]:
    """Let all files that the block writes with :func:`whole_file` appear when it ends, or none of them.

    The files get their names one directly after the other. Only a kill in this moment can leave some of them.

    Raises
    ------
    ProtT5nvError
        If a file cannot be moved to its name.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with together():
    ...         write_text(Path(folder) / "a.csv", "id\\n")
    ...         absent = not (Path(folder) / "a.csv").exists()
    ...     absent, os.listdir(folder)
    (True, ['a.csv'])
    """
    group: list[tuple[Path, Path, ExitStack]] = []
    token = _group.set(group)
    try:
        yield
        for temporary, path, _ in group:
            with _reported(path):
                publish(temporary, path)
    finally:
        _group.reset(token)
        for *_, workspace in group:
            workspace.close()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8 completely or not at all.

    Parameters
    ----------
    path : str or PathLike
        Final name, as for :func:`whole_file`.
    text : str
        Content of the file.

    Raises
    ------
    ProtT5nvError
        If the file cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Write a folder completely or not at all.

    The block fills a temporary folder, which is moved to `path` when the block ends. If the block raises an exception,
    the temporary folder is removed and an existing folder at `path` stays as it was.

    Parameters
    ----------
    path : str or PathLike
        Final name. Missing parent folders are created.
    replace : bool, default False
        Whether to replace an existing folder with content. An empty folder is always replaced. If the process is killed
        between the two steps of the replacement, the next write into the same place brings the old folder back.

    Yields
    ------
    Path
        The empty temporary folder.

    Raises
    ------
    ProtT5nvError
        If the folder cannot be written, `path` is a file, or `path` has content and `replace` is false.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with whole_folder(Path(folder) / "tables") as temporary:
    ...         _ = (temporary / "a.csv").write_text("id\\n")
    ...     os.listdir(Path(folder) / "tables")
    ['a.csv']
    """
    path = _target(path)
    with _reported(path):
        _check_target(path, replace)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _workspace(path.parent) as workspace:
            temporary = workspace / _NEW / path.name
            temporary.mkdir(parents=True)
            yield temporary
            _sync_tree(temporary)
            _check_target(path, replace)
            if path.exists() and any(path.iterdir()):
                (workspace / _REPLACED).mkdir()
                os.replace(path, workspace / _REPLACED / path.name)
            os.replace(temporary, path)
            sync_folder(path.parent)


@contextmanager
def whole_files(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Write several files of a folder together.

    The block fills a temporary folder. When it ends, its files are moved to `folder`, in alphabetical order if `folder`
    has content, otherwise in one step. Other files in `folder` stay. If the block raises an exception, nothing changes.

    Parameters
    ----------
    folder : str or PathLike
        Folder of the files. It is created if it is missing. Existing files of the same names are replaced.

    Yields
    ------
    Path
        The empty temporary folder.

    Raises
    ------
    ProtT5nvError
        If a file cannot be written, or `folder` is a file.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with whole_files(folder) as temporary:
    ...         _ = (temporary / "a.csv").write_text("id\\n")
    ...     os.listdir(folder)
    ['a.csv']
    """
    folder = _target(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        with whole_folder(folder) as temporary:
            yield temporary
        return
    with _reported(folder), _workspace(folder) as workspace:
        temporary = workspace / _NEW
        temporary.mkdir()
        yield temporary
        _sync_tree(temporary)  # so that the files get their names directly after one another
        for finished in sorted(temporary.iterdir()):
            publish(finished, folder / finished.name)


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Check that a file can be written under a name.

    Parameters
    ----------
    path : str or PathLike
        Name of a file, which may exist.

    Raises
    ------
    ProtT5nvError
        If `path` is a folder, a device, a pipe or a socket, or a symbolic link to one of them.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:  # There is no such file, or writing reports the error.
        return
    if stat.S_ISDIR(mode):
        raise ProtT5nvError(f"{path}: this is a folder; give the name of a file")
    if not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a device"
        raise ProtT5nvError(f"{path}: this is {kind}; give the name of a file")


def _target(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of the file or folder to write, which is where a symbolic link points to."""
    return Path(os.path.realpath(path))


def _check_target(path: Path, replace: bool) -> None:
    """Refuse to overwrite a file, or a folder with content unless `replace` is true."""
    if path.exists() and not path.is_dir():
        raise ProtT5nvError(f"{path}: exists already and is not a folder; choose another name")
    if not replace and path.exists() and any(path.iterdir()):
        raise ProtT5nvError(f"{path}: exists already and is not empty; choose another name")


def publish(finished: Path, path: Path) -> None:
    """Move a complete file to its final name, so that content and name survive a power failure.

    Parameters
    ----------
    finished : Path
        A complete file, usually in the same folder as `path` or in a subfolder of it.
    path : Path
        Final name. An existing file of that name is replaced. If `path` is a symbolic link, the file that it points to
        is replaced.

    Raises
    ------
    ProtT5nvError
        If `path` is a folder, a device or a pipe.
    OSError
        If the disk is full or the file cannot be moved.
    """
    check_replaceable(path)
    target = _target(path)
    _sync_file(finished)
    try:
        os.replace(finished, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # A symbolic link points to another file system.
        with _workspace(target.parent) as workspace:
            copied = workspace / target.name
            shutil.copyfile(finished, copied)
            _sync_file(copied)
            os.replace(copied, target)
        finished.unlink()
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Write a folder's list of names to the disk, so that a new name in it survives a power failure.

    Parameters
    ----------
    folder : Path
        An existing folder.

    Raises
    ------
    OSError
        If the disk reports an error.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: str | Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_tree(folder: Path) -> None:
    """Write all files of a folder and its subfolders to the disk."""
    for subfolder, _, names in os.walk(folder):
        for name in names:
            _sync_file(os.path.join(subfolder, name))
        sync_folder(Path(subfolder))


@contextmanager
def _reported(path: Path) -> Iterator[None]:
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
    target = _target(path)
    # An empty work folder with a name that both processes know. After a kill, it is removed like any other.
    folder = target.parent / f"{_PREFIX}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}"
    with ExitStack() as stack:
        for parent in reversed(target.parents):  # the innermost is removed first
            if not parent.exists():
                stack.callback(_remove_if_empty, parent)
        with _reported(Path(path)):
            target.parent.mkdir(parents=True, exist_ok=True)
        with _reported(Path(path)), _creation_lock(target.parent):
            stack.enter_context(exclusive_folder(folder, str(path), wait=False))
        stack.callback(_remove_workspace, folder)
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """Create a temporary work folder in `folder`, and remove it at the end.

    It is on the same file system as `folder`, so moving a file out of it is atomic.
    """
    with _creation_lock(folder) as held:
        if held:
            _remove_abandoned(folder)
        workspace = folder / f"{_PREFIX}{secrets.token_hex(8)}"
        workspace.mkdir(mode=0o700)
        lock = _try_lock(workspace)
    _own_workspaces.add(workspace)
    try:
        yield workspace
    finally:
        _own_workspaces.discard(workspace)
        _remove_workspace(workspace)
        if lock is not None:
            os.close(lock)


@contextmanager
def _creation_lock(folder: Path) -> Iterator[bool]:
    """Lock a folder while a work folder is created in it, and yield whether the lock is held.

    Between its creation and its own lock, a new work folder looks abandoned. This lock keeps other processes from
    removing it in this moment. Nobody else removes folders in a work folder of this process.
    """
    lock = None if folder in _own_workspaces else _try_lock(folder, wait=True)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _try_lock(folder: Path, *, wait: bool = False) -> int | None:
    """Lock a folder. None if that is not possible, so that nothing is removed."""
    try:
        return open_and_lock(folder, wait=wait)
    except OSError:  # another process holds the lock, there are no locks, or the folder belongs to another user
        return None


def _remove_abandoned(folder: Path) -> None:
    """Remove the work folders of processes that were killed."""
    for workspace in folder.glob(f"{_PREFIX}{'[0-9a-f]' * 16}"):
        if (lock := _try_lock(workspace)) is not None:
            _remove_workspace(workspace)
            os.close(lock)


def _remove_workspace(workspace: Path) -> None:
    """Remove a work folder, but first move a replaced folder back if the new one did not take its place."""
    for replaced in workspace.glob(f"{_REPLACED}/*"):
        target = workspace.parent / replaced.name
        if not target.exists():
            try:
                os.replace(replaced, target)
            except OSError:  # for example, it belongs to another user; the next write tries again
                return
    shutil.rmtree(workspace, ignore_errors=True)
