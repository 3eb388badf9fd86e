"""A full disk while an HDF5 file is written is an error, at whatever byte it is full."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from helpers.full_disk import limited

from prott5nv.io.hdf5_writing import new_hdf5_file

ROWS = np.arange(6400, dtype=np.float32).reshape(100, 64)
PROTEINS = 40


def write(path):
    with new_hdf5_file(path) as (file, check):
        file.attrs["precision"] = "fp32"
        for number in range(PROTEINS):
            file.create_dataset(f"P{PROTEINS - number}", data=ROWS + number).attrs["original_id"] = "x"
            check()


def test_what_is_written_is_read_back_in_its_order(tmp_path):
    write(tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert dict(file.attrs) == {"precision": "fp32"}
        assert list(file) == [f"P{number}" for number in range(PROTEINS, 0, -1)]
        for number in range(PROTEINS):
            np.testing.assert_array_equal(file[f"P{PROTEINS - number}"], ROWS + number)
            assert file[f"P{PROTEINS - number}"].attrs["original_id"] == "x"


def test_a_full_disk_is_an_error_wherever_it_occurs(tmp_path):
    write(tmp_path / "out.h5")
    size = (tmp_path / "out.h5").stat().st_size
    for limit in [1, 90, 2000, *range(5000, size, size // 12), size - 300, size - 1]:
        with limited(limit), pytest.raises(OSError, match="File too large"):
            write(tmp_path / "short.h5")
    with limited(size):
        write(tmp_path / "out.h5")


def test_an_error_of_the_caller_ends_the_file(tmp_path):
    with pytest.raises(KeyError), new_hdf5_file(tmp_path / "out.h5") as (file, _):
        file["P1"] = ROWS
        raise KeyError
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file) == ["P1"]
