"""Atomic writing: a file or folder gets its final name only when it is complete and on the disk.

Each write uses a temporary work folder next to the target; see :mod:`prott5nv.io.work_folders`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path

from prott5nv.errors import ProtT5nvError
from prott5nv.io.sync import sync_file, sync_folder, sync_tree
from prott5nv.io.work_folders import (
    NEW,
    finished_folder,
    is_in_work_folder,
    move_finished,
    new_work_folder,
    real_path,
    replaced_folder,
    reported,
)

# The files that a block of `together` has written.
_group: ContextVar[_Group | None] = ContextVar("group", default=None)


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
    folder = real_path(path).parent
    group = _group.get()
    with reported(path):
        if group is None or is_in_work_folder(folder):
            with new_work_folder(folder) as work_folder:
                yield work_folder / path.name
                publish(work_folder / path.name, path)
        else:
            temporary = group.temporary(path, folder)
            yield temporary
            sync_file(temporary)
            group.files.append((temporary, path))


@contextmanager
def together() -> Iterator[None]:
    """Let all files that the block writes with :func:`whole_file` appear when it ends, or none of them.

    If the process is killed while the files get their names, the next command that writes to a folder completes the
    files there. The files of different folders appear directly after one another.

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
    with ExitStack() as stack:
        group = _Group(stack)
        token = _group.set(group)
        try:
            yield
        finally:
            _group.reset(token)
        group.publish()


class _Group:
    """Files that are written together.

    Parameters
    ----------
    stack : ExitStack
        Removes the work folders.
    """

    def __init__(self, stack: ExitStack) -> None:
        self.files: list[tuple[Path, Path]] = []  # temporary and final name
        self.obsolete: list[Path] = []  # files to remove
        self._stack = stack
        self._work_folders: dict[Path, Path] = {}
        self._count = 0

    def temporary(self, path: Path, folder: Path) -> Path:
        """Return a temporary name for a file of a folder."""
        if folder not in self._work_folders:
            self._work_folders[folder] = self._stack.enter_context(new_work_folder(folder))
        self._count += 1  # two links to files of different folders may have the same name
        temporary = self._work_folders[folder] / str(self._count)
        temporary.mkdir()
        return temporary / path.name

    def publish(self) -> None:
        """Give all files their names."""
        for temporary, path in self.files:
            with reported(path):
                check_replaceable(path)
                new = temporary.parents[1] / NEW
                new.mkdir(exist_ok=True)
                os.replace(temporary, new / real_path(path).name)
        # Otherwise no file of the folder is complete.
        written = {folder: new for folder, new in self._work_folders.items() if (new / NEW).exists()}
        # If the process is killed from here on, the next command in each folder completes the files there.
        if len(written) > 1:
            for folder, work_folder in written.items():
                with reported(folder):
                    _mark_finished(work_folder)
        for folder, work_folder in written.items():
            with reported(folder):
                _publish_all(work_folder)
        for path in self.obsolete:
            path.unlink(missing_ok=True)


def remove_file(path: str | os.PathLike[str]) -> None:
    """Remove a file if it exists: in a block of :func:`together` when all new files have their names, otherwise now.

    Parameters
    ----------
    path : str or PathLike
    """
    if (group := _group.get()) is None:
        Path(path).unlink(missing_ok=True)
    else:
        group.obsolete.append(Path(path))


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
        between the two steps of the replacement, the next write into the same place completes it.

    Yields
    ------
    Path
        The empty temporary folder.

    Raises
    ------
    ProtT5nvError
        If the folder cannot be written, `path` is a file, `path` has content and `replace` is false, or a file in the
        folder to replace was changed in the meantime.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with whole_folder(Path(folder) / "tables") as temporary:
    ...         _ = (temporary / "a.csv").write_text("id\\n")
    ...     os.listdir(Path(folder) / "tables")
    ['a.csv']
    """
    path = real_path(path)
    with reported(path):
        _check_folder(path, replace)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = _content(path)
        with new_work_folder(path.parent) as work_folder:
            temporary = work_folder / NEW / path.name
            temporary.mkdir(parents=True)
            yield temporary
            sync_tree(temporary)
            _check_folder(path, replace)
            if changed := content ^ _content(path):
                raise ProtT5nvError(f"{min(changed)[0]} was changed while {path} was to be replaced; try again")
            if path.exists() and any(path.iterdir()):
                replaced_folder(work_folder).mkdir()
                os.replace(path, replaced_folder(work_folder) / path.name)
            os.replace(temporary, path)
            sync_folder(path.parent)


@contextmanager
def whole_files(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Write several files of a folder together.

    The block fills a temporary folder. When it ends, its files are moved to `folder`, and other files there stay. If
    the block raises an exception, nothing changes. If the process is killed while the files get their names, the next
    command that writes to `folder` completes them.

    Parameters
    ----------
    folder : str or PathLike
        Folder of the files. It is created if it is missing. Existing files and symbolic links of the same names are
        replaced.

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
    folder = real_path(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        with whole_folder(folder) as temporary:
            yield temporary
        return
    with reported(folder), new_work_folder(folder) as work_folder:
        temporary = work_folder / NEW
        temporary.mkdir()
        yield temporary
        sync_tree(temporary)
        for file in temporary.iterdir():
            check_replaceable(folder / file.name)
        _publish_all(work_folder)


def _publish_all(work_folder: Path) -> None:
    """Move all files of the new subfolder of a work folder to the folder around the work folder.

    All of them are on the disk. From the first step on, :mod:`prott5nv.io.work_folders` completes what a kill
    interrupts.
    """
    new = work_folder / NEW
    if new.exists():  # otherwise they are marked as complete already
        if len(files := list(new.iterdir())) == 1:
            os.replace(files[0], work_folder.parent / files[0].name)
            sync_folder(work_folder.parent)
            return
        _mark_finished(work_folder)
    try:
        move_finished(work_folder)
    except OSError:
        shutil.rmtree(finished_folder(work_folder), ignore_errors=True)
        raise
    sync_folder(work_folder.parent)


def _mark_finished(work_folder: Path) -> None:
    """Mark the new files of a work folder as complete."""
    os.rename(work_folder / NEW, finished_folder(work_folder))
    sync_folder(work_folder)


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Check that a file can be written under a name.

    Parameters
    ----------
    path : str or PathLike
        Name of a file, which may exist.

    Raises
    ------
    ProtT5nvError
        If `path` is a folder, a device, a pipe or a socket, or a symbolic link to one of them, its name is too long, or
        it belongs to another user in a folder where each file can be replaced by its owner alone, such as ``/tmp``.
    """
    try:
        status = os.stat(path)
        folder = real_path(path).parent.stat()
    except OSError as error:  # There is no such file, or writing reports the error.
        if error.errno == errno.ENAMETOOLONG:
            raise ProtT5nvError(f"{path}: this name is too long for the file system; choose a shorter one") from None
        return
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise ProtT5nvError(f"{path}: this is a folder; give the name of a file")
    if not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a device"
        raise ProtT5nvError(f"{path}: this is {kind}; give the name of a file")
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, status.st_uid, folder.st_uid):
        raise ProtT5nvError(f"{path}: this file belongs to another user; choose another name")


def _check_folder(path: Path, replace: bool) -> None:
    """Refuse to overwrite a file, or a folder with content unless `replace` is true."""
    if path.exists() and not path.is_dir():
        raise ProtT5nvError(f"{path}: exists already and is not a folder; choose another name")
    if not replace and path.exists() and any(path.iterdir()):
        raise ProtT5nvError(f"{path}: exists already and is not empty; choose another name")


def _content(folder: Path) -> set[tuple[str, int]]:
    """Return names and times of all files in a folder."""
    names = (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return {(name, os.lstat(name).st_mtime_ns) for name in names}


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
    target = real_path(path)
    sync_file(finished)
    try:
        os.replace(finished, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # A symbolic link points to another file system.
        with new_work_folder(target.parent) as work_folder:
            copied = work_folder / target.name
            shutil.copyfile(finished, copied)
            sync_file(copied)
            os.replace(copied, target)
        finished.unlink()
    sync_folder(target.parent)
