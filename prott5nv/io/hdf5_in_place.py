"""Making an HDF5 file of a file of values, without writing the values again or moving them.

A program writes values to a file, one array after the other from the position `FIRST_VALUE`. When all are there,
:func:`add_structure` adds what makes each array a dataset: the structure is written in front of the values and after
them.

HDF5 has no function that sets the position of a dataset. It reuses space in the file that was freed, from its start,
before it extends the file. Therefore a dataset without a name takes all bytes of the values first. It is removed, and
the datasets are created, which HDF5 then places one after the other into the freed space. Attributes must not get there
in between, so each batch of datasets is followed by another dataset without a name, which takes the remaining bytes. No
function of HDF5 writes to these datasets. The position of every dataset is compared with that of its array, because
other versions of the library could place them elsewhere.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5p, h5s, h5t

from prott5nv.io.hdf5_writing import LayoutError, hdf5_in

FIRST_VALUE = 4096  # bytes before it are for the structure

_DATASETS_PER_BATCH = 200
# Data types of attributes, in NumPy and in HDF5. There is an attribute for each protein, so they are created once.
_TEXT, _INTEGER = ((dtype, h5t.py_create(dtype, logical=True)) for dtype in (h5py.string_dtype(), np.dtype(np.int64)))
_SCALAR = h5s.create(h5s.SCALAR)


class Described(NamedTuple):
    """A dataset whose values are in the file.

    Attributes
    ----------
    name : str
        Its name.
    shape : tuple of int
        Its shape.
    attributes : mapping
        Its attributes: texts and integers.
    """

    name: str
    shape: tuple[int, ...]
    attributes: Mapping[str, str | int]


def add_structure(
    path: str | os.PathLike[str],
    dtype: np.dtype,
    size: int,
    datasets: Iterable[Described],
    attributes: Mapping[str, str],
) -> None:
    """Make an HDF5 file of a file of values. Readers see its datasets in the order of their values.

    Parameters
    ----------
    path : str or PathLike
        The file. Its values begin at `FIRST_VALUE`. Everything else in it is overwritten.
    dtype : dtype
        Data type of all values.
    size : int
        Number of bytes of all values.
    datasets : iterable of Described
        The datasets in the order of their values, which leave out no byte. The names are unique.
    attributes : mapping
        Attributes of the whole file.

    Raises
    ------
    LayoutError
        If HDF5 would place a dataset elsewhere. The values are as before.
    OSError
        If the disk is full. The values are as before.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "rows.h5")
    ...     values = np.arange(6, dtype=np.float32)
    ...     with open(path, "wb") as file:
    ...         _ = file.write(bytes(FIRST_VALUE) + values.tobytes())
    ...     add_structure(path, values.dtype, 24, [Described("a", (2, 2), {}), Described("b", (2,), {})], {})
    ...     with h5py.File(path) as file:
    ...         [file[name][()].tolist() for name in file]
    [[[0.0, 1.0], [2.0, 3.0]], [4.0, 5.0]]
    """
    end = FIRST_VALUE + size
    with open(path, "r+b", buffering=0) as file, hdf5_in(file, range(FIRST_VALUE, end)) as (opened, check):
        space = _Space(opened, size)
        kind = h5t.py_create(dtype)
        position = FIRST_VALUE
        iterator = iter(datasets)
        while batch := list(islice(iterator, _DATASETS_PER_BATCH)):
            space.free()
            created = []
            for name, shape, _ in batch:
                created.append(space.create(name, shape, kind, position))
                position += math.prod(shape) * dtype.itemsize
            space.take(end - position)
            for dataset, described in zip(created, batch, strict=True):
                for key, value in described.attributes.items():
                    _add_attribute(dataset, key, value)
            check()
        if position != end:
            raise LayoutError(f"the datasets have {position - FIRST_VALUE:,} bytes, not {size:,}")
        opened.attrs.update(attributes)


class _Space:
    """The bytes of the values in a new file, which HDF5 gives to datasets in order."""

    def __init__(self, file: h5py.File, size: int) -> None:
        self._file = file
        self._layout = h5p.create(h5p.DATASET_CREATE)
        self._layout.set_layout(h5d.CONTIGUOUS)
        self._layout.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        self._layout.set_fill_time(h5d.FILL_TIME_NEVER)
        self._layout.set_obj_track_times(False)  # as h5py's `create_dataset`
        # Two datasets show where HDF5 places the next one and how long the header of a dataset is. The third ends so
        # that the values begin at their position. The last keeps HDF5 from shortening the file when space is freed.
        first, second = self._unnamed(1), self._unnamed(1)
        header = second.get_offset() - first.get_offset() - 1
        gap = FIRST_VALUE - header - (second.get_offset() + 1 + header)
        if gap < 1:
            raise LayoutError("HDF5 needs more space in front of the values")
        self._kept = [first, second, self._unnamed(gap)]
        self._rest: h5d.DatasetID | None = None
        self.take(size)
        self._kept.append(self._unnamed(1))

    def free(self) -> None:
        """Let HDF5 place datasets into the bytes that are taken."""
        self._rest = None  # HDF5 removes a dataset without a name when it is closed.

    def take(self, size: int) -> None:
        """Take all bytes that are free, so that HDF5 places nothing into them."""
        self._rest = self._unnamed(size) if size else None

    def create(self, name: str, shape: tuple[int, ...], kind: h5t.TypeID, position: int) -> h5d.DatasetID:
        """Create a dataset whose values are at a position in the file."""
        space = h5s.create_simple(shape)
        dataset = h5d.create(self._file.id, name.encode(), kind, space, self._layout)
        if math.prod(shape) and dataset.get_offset() != position:
            raise LayoutError(f"HDF5 places {name} at byte {dataset.get_offset()}, not {position}")
        return dataset

    def _unnamed(self, size: int) -> h5d.DatasetID:
        return h5d.create(self._file.id, None, h5t.NATIVE_UINT8, h5s.create_simple((size,)), self._layout)


def _add_attribute(dataset: h5d.DatasetID, name: str, value: str | int) -> None:
    """Add the attribute that h5py's ``attrs`` would add, in less time."""
    dtype, kind = _TEXT if isinstance(value, str) else _INTEGER
    h5a.create(dataset, name.encode(), kind, _SCALAR).write(np.array(value, dtype))
