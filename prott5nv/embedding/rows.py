"""The file of rows of an unfinished run. Rows are appended in the background, until the file becomes the output.

Rows pass through three threads. The first one computes their checksum, and the second one writes them. The third one
completes commits: it waits until their rows are on the disk, and records them in the journal. Every commit is read back
once, while the operating system still has it in memory, so that damaged rows are found before the output appears.

The rows begin where :func:`prott5nv.io.hdf5_in_place.add_structure` expects them.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prott5nv.embedding.commits import Commit, crc32_of_rows, damaged_during_the_run
from prott5nv.embedding.stage import Stage
from prott5nv.io.exclusive import open_own
from prott5nv.io.hdf5_in_place import FIRST_VALUE

_BUFFER = 1 << 20
_BLOCK = 1 << 24  # bytes of rows that are handed to the background together
_BETWEEN_WRITING_AND_CHECK = 1 << 28  # bytes
_CHECKING_THREADS = 4


class _Part(NamedTuple):
    """The rows of one commit."""

    position: int
    size: int
    crc32: int


class RowsFile:
    """A file of rows, open for appending.

    Parameters
    ----------
    path : Path
        The file, which is created if it does not exist.
    size : int
        Number of bytes of rows to keep. The rest is removed.
    record : callable
        Records a commit whose rows are on the disk. It is called in another thread.

    Attributes
    ----------
    path : Path
        The file.
    size : int
        Number of bytes of rows, with those that are still to be written.
    """

    def __init__(self, path: Path, size: int, record: Callable[[Commit], None]) -> None:
        self.path = path
        self.size = size
        self._record = record
        self._block: list[np.ndarray] = []
        self._block_start = self._commit_start = size
        self._crc32 = 0  # of the rows of the next commit
        self._unchecked: deque[_Part] = deque()
        self._damaged = threading.Event()
        self._summing = Stage(self._sum)
        self._writing = Stage(self._write)
        self._saving = Stage(self._save)
        self._checking = ThreadPoolExecutor(_CHECKING_THREADS)
        self._file = open(path, "ab", buffering=_BUFFER, opener=open_own)  # noqa: SIM115 (closed by `close`)
        try:
            self._file.truncate(FIRST_VALUE + size)
        except BaseException:
            self._file.close()
            raise

    def add(self, values: np.ndarray) -> None:
        """Append rows. They must not change afterwards, because they are written later.

        Parameters
        ----------
        values : ndarray
            Contiguous rows.

        Raises
        ------
        OSError
            If rows could not be written, for example because the disk is full.
        """
        self._block.append(values)
        self.size += values.nbytes
        if self.size - self._block_start >= _BLOCK:
            self._hand_over(None)

    def commit(self, commit: Commit) -> None:
        """Write all rows to the disk, and then record the commit with the position where they end and their checksum.

        Parameters
        ----------
        commit : dict
            Further entries of the commit.

        Raises
        ------
        ProtT5nvError
            If rows were damaged after they had been written.
        OSError
            If rows could not be written.
        """
        if self._damaged.is_set():
            raise damaged_during_the_run(self.path)
        self._hand_over({**commit, "bytes": self.size})

    def wait(self) -> None:
        """Wait until all commits are complete. Raise an error if rows could not be written."""
        for stage in (self._summing, self._writing, self._saving):
            stage.wait()

    def finish(self) -> None:
        """Read back what has not been read back, and close the file.

        Raises
        ------
        ProtT5nvError
            If committed rows were damaged.
        """
        self.wait()
        for part in self._unchecked:
            self._checking.submit(self._check, part)
        self._checking.shutdown()
        if self._damaged.is_set() or not self._is_whole():
            raise damaged_during_the_run(self.path)
        self.close()

    def close(self) -> None:
        """Complete what was handed to the background, and close the file."""
        for stage in (self._summing, self._writing, self._saving):
            stage.close()
        self._checking.shutdown(cancel_futures=True)
        self._file.close()  # On a full disk, flushing the rest raises an error here.

    def _hand_over(self, commit: Commit | None) -> None:
        self._summing.put((self._block, commit))
        self._block, self._block_start = [], self.size

    def _sum(self, item: tuple[list[np.ndarray], Commit | None]) -> None:
        """Compute the checksum of a block of rows, in the first thread."""
        block, commit = item
        for values in block:
            self._crc32 = zlib.crc32(values.data, self._crc32)
        if commit is not None:
            commit = {**commit, "rows_crc32": self._crc32}
            self._crc32 = 0
        self._writing.put((block, commit))

    def _write(self, item: tuple[list[np.ndarray], Commit | None]) -> None:
        """Write a block of rows, in the second thread."""
        block, commit = item
        for values in block:
            self._file.write(values.data)
        if commit is not None:
            self._file.flush()
            self._saving.put(commit)

    def _save(self, commit: Commit) -> None:
        """Complete a commit, in the third thread."""
        os.fsync(self._file.fileno())
        self._record(commit)
        start, self._commit_start = self._commit_start, commit["bytes"]
        self._unchecked.append(_Part(start, self._commit_start - start, commit["rows_crc32"]))
        while self._unchecked and self._commit_start - self._unchecked[0].position > _BETWEEN_WRITING_AND_CHECK:
            self._checking.submit(self._check, self._unchecked.popleft())

    def _check(self, part: _Part) -> None:
        """Read the rows of a commit back, in one of the threads that check."""
        if crc32_of_rows(self.path, part.position, part.size) != part.crc32:
            self._damaged.set()

    def _is_whole(self) -> bool:
        """Return whether the file still has its name and its size."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return os.path.samestat(status, os.fstat(self._file.fileno())) and status.st_size == FIRST_VALUE + self.size
