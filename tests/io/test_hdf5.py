"""Reading of HDF5 files: right values, in threads and after a fork, and errors instead of hangs."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from prott5nv import EmbeddingStore, ProtT5nvError
from prott5nv.io import hdf5
from prott5nv.io.hdf5 import HDF5File

VALUES = np.arange(600, dtype=np.float32).reshape(100, 6)
# How other programs may store the same values.
LAYOUTS = {
    "one run of bytes": {},
    "big-endian": {"dtype": ">f4"},
    "integers": {"dtype": "i2"},
    "doubles": {"dtype": "f8"},
    "chunks": {"chunks": (7, 6)},
    "gzip": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf"},
}


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "values.h5", "w") as file:
        for name in "abcdef":
            file[name] = VALUES + ord(name)
    return tmp_path / "values.h5"


def read(file, name):
    return file.read(name, *file.describe(name))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("settings", [{}, {"libver": "latest"}, {"userblock_size": 512}, {"track_order": True}])
def test_values_are_read_however_they_are_stored(layout, settings, tmp_path):
    path = tmp_path / "values.h5"
    with h5py.File(path, "w", **settings) as file:
        file.create_dataset("values", data=VALUES, **LAYOUTS[layout])
        file["group/empty"] = np.zeros((0, 6), np.float32)
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3,))
        h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_FLOAT, space, compact).write(
            h5py.h5s.ALL, h5py.h5s.ALL, VALUES[0, :3].copy()
        )
    with HDF5File(path) as file:
        values = read(file, "values")
        np.testing.assert_array_equal(values, VALUES)
        assert values.dtype == LAYOUTS[layout].get("dtype", "f4")
        values[0] = 1  # a new array, which can be written to
        assert read(file, "group/empty").shape == (0, 6)
        np.testing.assert_array_equal(read(file, "compact"), VALUES[0, :3])
        assert file.describe("absent", "group/absent", "values/absent", ".") == 4 * [None]


def test_attributes_are_plain_values(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file.attrs.update({"text": "é", "bytes": np.bytes_(b"abc"), "number": 3, "list": [1.5, 2.0], "yes": True})
        file.attrs["empty"] = h5py.Empty("S1")
    attributes = HDF5File(tmp_path / "file.h5").attributes
    assert attributes == {"text": "é", "bytes": "abc", "number": 3, "list": [1.5, 2.0], "yes": True, "empty": ""}


def test_attributes_are_text_and_names_must_be(path):
    with h5py.File(path, "r+") as file:
        file.attrs["model"] = np.bytes_(b"m\xff")
    with HDF5File(path) as file:
        assert file.attributes == {"model": "m\ufffd"}
    with h5py.File(path, "r+") as file:
        file[b"n\xff"] = VALUES
    with HDF5File(path) as file, pytest.raises(ProtT5nvError, match="is not a name in UTF-8"):
        file.names()


def test_many_names_keep_their_order(tmp_path):
    names = [f"P{number * 7919 % 5000}" for number in range(5000)]
    with h5py.File(tmp_path / "file.h5", "w", track_order=True) as file:
        for name in names:
            file.create_group(name)
    assert HDF5File(tmp_path / "file.h5").names() == names


def test_threads_read_the_right_values(path):
    file = HDF5File(path)

    def check(number):
        name = "abcdef"[number % 6]
        return np.array_equal(read(file, name), VALUES + ord(name))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(200)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_reads_for_itself(path):
    file = HDF5File(path)

    def check(results):
        results.put(all(np.array_equal(read(file, name), VALUES + ord(name)) for name in "abcdef"))

    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=check, args=(results,))
    process.start()
    assert results.get(timeout=1000)
    process.join()
    np.testing.assert_array_equal(read(file, "a"), VALUES + ord("a"))


def test_the_process_is_replaced_when_it_dies(path):
    file = HDF5File(path)
    hdf5._process._process.kill()
    with pytest.raises(ProtT5nvError, match=r"values\.h5: not a readable HDF5 file \(the HDF5 library crashes"):
        file.names()
    assert file.names() == list("abcdef")


def test_a_file_that_was_replaced_is_not_mixed_with_the_new_one(path):
    file = HDF5File(path)
    hdf5._process.stop()
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ProtT5nvError, match=r"values\.h5: the file was changed while it was open"):
        file.names()


def test_a_file_that_became_shorter_is_an_error(path):
    file = HDF5File(path)
    [dataset] = file.describe("f")
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(ProtT5nvError, match=r"values\.h5: the file became shorter"):
        file.read("f", dataset)


def test_modules_of_the_current_folder_are_not_imported(path, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit")
    (tmp_path / "h5py.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    hdf5._process.stop()
    assert HDF5File(path).names() == list("abcdef")


def test_a_store_can_be_pickled(path):
    store = pickle.loads(pickle.dumps(EmbeddingStore(path)))
    np.testing.assert_array_equal(store["b"], VALUES + ord("b"))


def test_a_closed_file_is_an_error(path):
    file = HDF5File(path)
    file.close()
    file.close()
    with pytest.raises(ProtT5nvError, match=r"values\.h5: the file is closed"):
        file.names()
