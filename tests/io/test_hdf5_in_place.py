"""A file of values becomes an HDF5 file that readers cannot tell from one that h5py wrote, and no value is written."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from helpers.full_disk import limited

from prott5nv.io import hdf5_in_place
from prott5nv.io.hdf5 import HDF5File
from prott5nv.io.hdf5_in_place import FIRST_VALUE, Described, add_structure
from prott5nv.io.hdf5_writing import LayoutError, new_hdf5_file

ATTRIBUTES = {"precision": "fp32", "größe": "x" * 9000}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(hdf5_in_place, "_DATASETS_PER_BATCH", 10)


def arrays_of(count, dtype="float32"):
    """Arrays by name, every third of them with one dimension."""
    rng = np.random.default_rng(0)
    shapes = [(rng.integers(1, 30), 8) if number % 3 else (8,) for number in range(count)]
    names = [f"P{number}" if number % 5 else f"é{number}" for number in range(count)]
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in zip(names, shapes, strict=True)}


def described(arrays):
    for number, (name, values) in enumerate(arrays.items()):
        attributes = {"original_id": f"sp|{name}"} | ({} if number % 7 else {"truncated_from": number})
        yield Described(name, values.shape, attributes)


def write_values(path, arrays):
    path.write_bytes(bytes(FIRST_VALUE) + b"".join(values.tobytes() for values in arrays.values()))


def in_place(path, arrays):
    values = list(arrays.values())
    dtype = values[0].dtype if values else np.dtype(np.float32)
    add_structure(path, dtype, sum(array.nbytes for array in values), described(arrays), ATTRIBUTES)


def contents(path):
    """Everything that a reader sees, in order."""
    with h5py.File(path) as file:
        datasets = [(name, file[name].dtype, file[name][()].tobytes(), file[name].shape, attributes_of(file[name]))
                    for name in file]  # fmt: skip
        return [attributes_of(file), *datasets]


def attributes_of(item):
    return [(name, type(value), value) for name, value in item.attrs.items()]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("count", [0, 1, 10, 33])
def test_readers_see_what_h5py_would_have_written(tmp_path, count, dtype):
    arrays = arrays_of(count, dtype)
    with new_hdf5_file(tmp_path / "expected.h5") as (file, _):
        for name, shape, attributes in described(arrays):
            dataset = file.create_dataset(name, shape, dtype, arrays[name])
            dataset.attrs.update(attributes)
        file.attrs.update(ATTRIBUTES)
    write_values(tmp_path / "out.h5", arrays)
    for _ in range(2):  # The second time, it replaces the structure that a killed process has added.
        in_place(tmp_path / "out.h5", arrays)
        assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")
    with HDF5File(tmp_path / "out.h5") as file:  # which checks how the values are stored
        assert file.names() == list(arrays)
        for (name, values), dataset in zip(arrays.items(), file.describe(*arrays), strict=True):
            assert dataset.offset >= FIRST_VALUE
            np.testing.assert_array_equal(file.read(name, dataset), values)


def test_a_full_disk_changes_no_value_and_the_next_attempt_succeeds(tmp_path):
    arrays = arrays_of(100)
    path = tmp_path / "out.h5"
    write_values(path, arrays)
    values = path.read_bytes()[FIRST_VALUE:]
    in_place(path, arrays)
    size, expected = path.stat().st_size, contents(path)
    end = FIRST_VALUE + len(values)
    for limit in [end, end + 1, *range(end + 1000, size, (size - end) // 6), size - 1]:
        write_values(path, arrays)
        with limited(limit), pytest.raises(OSError, match="File too large"):
            in_place(path, arrays)
        assert path.read_bytes()[FIRST_VALUE:end] == values
    with limited(size):
        in_place(path, arrays)
    assert contents(path) == expected


def test_sizes_that_do_not_fit_together_are_an_error(tmp_path):
    arrays = arrays_of(3)
    write_values(tmp_path / "out.h5", arrays)
    for size in 8, sum(array.nbytes for array in arrays.values()) + 8:
        with pytest.raises(LayoutError):
            add_structure(tmp_path / "out.h5", np.dtype(np.float32), size, described(arrays), {})


def test_another_layout_of_the_library_is_an_error_and_changes_no_value(tmp_path, monkeypatch):
    arrays = arrays_of(33)
    path = tmp_path / "out.h5"
    write_values(path, arrays)
    values = path.read_bytes()[FIRST_VALUE:]
    take, calls = hdf5_in_place._Space.take, []

    def take_once(self, size):
        calls.append(size)
        if len(calls) == 1:
            take(self, size)

    # The attributes of the first batch get to the bytes of the second one.
    monkeypatch.setattr(hdf5_in_place._Space, "take", take_once)
    with pytest.raises(LayoutError):
        in_place(path, arrays)
    assert path.read_bytes()[FIRST_VALUE : FIRST_VALUE + len(values)] == values
