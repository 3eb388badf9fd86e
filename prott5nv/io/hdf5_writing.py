"""Writing of HDF5 files that ends in an error, and not in a crash, if the disk is full.

The HDF5 library crashes when a write fails while it closes a file. Therefore it writes through a file object that
never fails and keeps the first error, which is raised after HDF5 has closed the file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import h5py

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_METADATA_BYTES = 1 << 20


@contextmanager
def new_hdf5_file(path: str | os.PathLike[str]) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Create an HDF5 file. Readers will see its members in the order of their creation.

    Parameters
    ----------
    path : str or PathLike
        File to write.

    Yields
    ------
    file : h5py.File
        The empty file.
    check : callable
        Raises the error of the first write that failed, if there is one. Call it from time to time, because HDF5 goes
        on after such an error.

    Raises
    ------
    OSError
        If a write failed, for example because the disk is full. The file is then incomplete.
    """
    with open(path, "w+b", buffering=0) as file, hdf5_in(file) as opened:
        yield opened


@contextmanager
def hdf5_in(file: io.FileIO, values: range = range(0)) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Create an HDF5 file in an open file. Use :func:`new_hdf5_file` unless the file already holds values.

    Parameters
    ----------
    file : FileIO
        A file that is open for reading and writing.
    values : range, optional
        Positions of bytes in the file that stay as they are.

    Yields
    ------
    file, check
        As for :func:`new_hdf5_file`.

    Raises
    ------
    LayoutError
        If HDF5 tried to write to `values`.
    OSError
        If a write failed.
    """
    target = _File(file, values)
    with h5py.File(target, "w", track_order=True) as opened:
        _limit_metadata_cache(opened)
        yield opened, target.check
    target.check()


def _limit_metadata_cache(file: h5py.File) -> None:
    """Give HDF5's cache of names and headers a fixed size; by default it grows with the number of datasets."""
    cache = file.id.get_mdc_config()
    cache.set_initial_size = True
    cache.initial_size = cache.min_size = cache.max_size = _METADATA_BYTES
    cache.incr_mode = cache.flash_incr_mode = cache.decr_mode = 0
    file.id.set_mdc_config(cache)


class LayoutError(Exception):
    """HDF5 did not place the parts of a file as expected."""


class _File(io.RawIOBase):
    """A file for h5py whose writes do not fail.

    What is written after the first error is kept in memory, because HDF5 may read it before it closes the file. The
    file appears to HDF5 as empty at first, because HDF5 would take existing bytes for an HDF5 file.
    """

    def __init__(self, file: io.FileIO, values: range) -> None:
        self._file = file
        self._values = values
        self._position = self._size = 0
        self._error: OSError | LayoutError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the error of the first write that failed."""
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position."""
        if whence == os.SEEK_END:
            offset += self._size
        elif whence == os.SEEK_CUR:
            offset += self._position
        self._position = offset
        return offset

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def write(self, data: ReadableBuffer) -> int:
        """Write all of the data, or keep them."""
        view = memoryview(data).cast("B")
        done = 0
        self._size = max(self._size, self._position + len(view))
        if self._position < self._values.stop and self._position + len(view) > self._values.start:
            self._error = self._error or LayoutError("HDF5 writes where the values are")
        try:
            while done < len(view) and self._error is None:
                self._file.seek(self._position + done)
                done += self._file.write(view[done:])
        except OSError as error:
            self._error = error
        if done < len(view):
            self._unwritten.append((self._position + done, bytes(view[done:])))
        self._position += len(view)
        return len(view)

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read what has been written, or kept."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        self._file.seek(self._position)
        self._file.readinto(view)
        for start, data in self._unwritten:
            first, last = max(start, self._position), min(start + len(data), self._position + len(view))
            if first < last:
                view[first - self._position : last - self._position] = data[first - start : last - start]
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file."""
        size = self._size = self._position if size is None else size
        if size < self._values.stop:
            self._error = self._error or LayoutError("HDF5 cuts off values")
        try:
            if self._error is None:
                self._file.truncate(size)
        except OSError as error:
            self._error = error
        return size
