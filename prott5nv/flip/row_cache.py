"""Cache of embeddings on disk that keeps what a killed run has finished.

``NAME.npy`` appears when all rows are in it. Until then, ``NAME.npy.partial/`` holds the rows of the first proteins and
a journal with their number. A run that finds this folder continues after the last protein of the journal.

Baselines are kept in the same folder, ``baselines-NAME.json``, as they need no model.

Shapes: L rows of a protein, T rows of all proteins, D columns.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import BinaryIO, NamedTuple

import numpy as np

from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import publish
from prott5nv.io.exclusive import exclusive_folder, open_own
from prott5nv.io.output import check_no_link

logger = logging.getLogger(__name__)

DTYPE = np.dtype(np.float16)
# A kill loses at most this much work, in addition to the proteins being computed.
_SECONDS_BETWEEN_COMMITS = 1.0
_MOST_JOURNAL = 1 << 20  # bytes
_CACHED = re.compile(r"[0-9a-f]{32}\.npy(\.partial)?|baselines-[0-9a-f]{32}\.json")

#: Environment variable that names another folder for the cache.
FOLDER_VARIABLE = "PROTT5NV_CACHE"


class CacheSize(NamedTuple):
    """How much is in a cache.

    Attributes
    ----------
    files : int
        Number of files, and of folders of interrupted runs.
    bytes : int
        Their size.
    """

    files: int
    bytes: int


def default_folder() -> Path:
    """Return the folder of the cache: that of ``PROTT5NV_CACHE``, or one in the user's folder for caches."""
    from platformdirs import user_cache_path

    given = os.environ.get(FOLDER_VARIABLE)
    return Path(given) if given else user_cache_path("prott5nv")


def cache_size(folder: Path) -> CacheSize:
    """Return how much is in a cache.

    Parameters
    ----------
    folder : Path
        Other files in this folder do not count.
    """
    sizes = list(map(_size, _cached(folder)))
    return CacheSize(len(sizes), sum(sizes))


def clear_cache(folder: Path) -> CacheSize:
    """Delete what is in a cache, except for embeddings that a process is computing.

    Parameters
    ----------
    folder : Path
        Other files in this folder stay.

    Returns
    -------
    CacheSize
        What was deleted.

    Raises
    ------
    OSError
        If a file cannot be deleted.
    """
    deleted: list[int] = []
    for path in _cached(folder):
        size = _size(path)
        if path.is_symlink() or not path.name.endswith(".partial"):
            path.unlink(missing_ok=True)
        else:
            try:
                with exclusive_folder(path, str(path), wait=False):
                    shutil.rmtree(path)
            except ProtT5nvError:  # in use
                continue
        deleted.append(size)
    return CacheSize(len(deleted), sum(deleted))


def _cached(folder: Path) -> list[Path]:
    """Return the files of a cache, and the folders of interrupted runs."""
    return sorted(path for path in folder.glob("*") if _CACHED.fullmatch(path.name))


def _size(path: Path) -> int:
    files = [path] if path.is_symlink() or path.is_file() else path.glob("*")
    return sum(file.lstat().st_size for file in files)


def open_rows(path: Path, lengths: Sequence[int]) -> np.ndarray:
    """Open a complete cache file.

    Parameters
    ----------
    path : Path
        File that :func:`write_rows` wrote.
    lengths : sequence of int
        Number of rows of each protein.

    Returns
    -------
    memmap, shape=(T, D), dtype=float16

    Raises
    ------
    ProtT5nvError
        If the file is damaged.
    """
    try:
        rows_TD = np.load(path, mmap_mode="r")
        if rows_TD.ndim != 2 or rows_TD.dtype != DTYPE or len(rows_TD) != sum(lengths):
            raise ValueError("it has another shape")
    except (OSError, ValueError, EOFError) as error:
        raise ProtT5nvError(f"{path}: this file of cached embeddings is damaged ({error}); delete it") from None
    return rows_TD


def write_rows(path: Path, lengths: Sequence[int], width: int, embed: Callable[[int], Iterable[np.ndarray]]) -> None:
    """Write the rows of all proteins, after those that an interrupted run has written.

    If another process writes the same file, the function waits for it.

    Parameters
    ----------
    path : Path
        The ``.npy`` file to write. Nothing happens if it exists.
    lengths : sequence of int
        Number of rows of each protein (L).
    width : int
        Number of columns (D).
    embed : callable
        Takes the index of a protein and yields the rows of this and all later proteins: ndarray, shape=(L, D),
        dtype=float16.

    Raises
    ------
    ProtT5nvError
        If a file cannot be written, for example because the disk is full. What is on the disk is kept.
    """
    folder = path.with_name(f"{path.name}.partial")
    check_no_link(path)
    try:
        with exclusive_folder(folder, str(path), wait=True):
            if not path.is_file():
                _write_partial(folder, lengths, width, embed)
                publish(folder / "rows.npy", path)
            for name in ("rows.npy", "journal.txt"):
                (folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # files of the user are in it
                folder.rmdir()
    except OSError as error:
        raise ProtT5nvError(
            f"{path}: {error.strerror or error}; finished embeddings are kept in {folder}: give the same command again"
        ) from None


def _write_partial(
    folder: Path, lengths: Sequence[int], width: int, embed: Callable[[int], Iterable[np.ndarray]]
) -> None:
    """Write ``rows.npy`` completely, starting after the last committed protein."""
    header = _header((sum(lengths), width))
    ends = len(header) + np.cumsum([0, *lengths]) * width * DTYPE.itemsize
    with (
        open(folder / "rows.npy", "a+b", opener=open_own) as rows,
        open(folder / "journal.txt", "a+b", opener=open_own) as journal,
    ):
        finished = _committed(rows, journal, header, ends)
        if finished:
            logger.info("%d of %d embeddings are there from an interrupted run", finished, len(lengths))
        else:
            rows.truncate(0)
            rows.write(header)
        rows.truncate(int(ends[finished]))
        committed_at = monotonic()
        try:
            for rows_LD in embed(finished):
                rows.write(np.ascontiguousarray(rows_LD, dtype=DTYPE).data)
                finished += 1
                if monotonic() - committed_at > _SECONDS_BETWEEN_COMMITS:
                    _commit(rows, journal, finished)
                    committed_at = monotonic()
        finally:
            _commit(rows, journal, finished)  # also after Ctrl-C


def _committed(rows: BinaryIO, journal: BinaryIO, header: bytes, ends: np.ndarray) -> int:
    """Return the number of proteins that the journal and the file of rows agree to be complete."""
    rows.seek(0)
    if rows.read(len(header)) != header:
        return 0
    size = rows.seek(0, os.SEEK_END)
    # The last line that fits the rows counts, so the end of the journal is enough.
    journal.seek(max(0, journal.seek(0, os.SEEK_END) - _MOST_JOURNAL))
    counts = [int(line) for line in journal.read().split(b"\n")[:-1] if line.isdigit()]
    return max((count for count in counts if count < len(ends) and ends[count] <= size), default=0)


def _commit(rows: BinaryIO, journal: BinaryIO, finished: int) -> None:
    """Write the rows to the disk, and then their number, so that both survive a power failure."""
    rows.flush()
    os.fsync(rows.fileno())
    journal.write(b"%d\n" % finished)
    journal.flush()
    os.fsync(journal.fileno())


def _header(shape: tuple[int, int]) -> bytes:
    """Return the beginning of a ``.npy`` file."""
    header = io.BytesIO()
    np.lib.format.write_array_header_2_0(
        header, {"descr": np.lib.format.dtype_to_descr(DTYPE), "fortran_order": False, "shape": shape}
    )
    return header.getvalue()
