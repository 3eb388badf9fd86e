"""The HDF5 store: writing, reading, and errors."""

from __future__ import annotations

import multiprocessing

import h5py
import numpy as np
import pytest

from prott5nv import EmbeddingStore, ProtT5nvError
from prott5nv.embedding.store import StoredProtein, write_embeddings

PROTEINS = [
    StoredProtein("Z9", "sp|Z9|ZED", None, np.arange(12, dtype=np.float32).reshape(3, 4)),
    StoredProtein("A1", "sp|A1|AYE", 700, np.ones((2, 4), dtype=np.float16)),
    StoredProtein("protéine", "protéine", None, np.zeros((1, 4), dtype=np.float32)),
]


@pytest.fixture
def path(tmp_path):
    write_embeddings(tmp_path / "store.h5", PROTEINS, {"precision": "fp32"})
    return tmp_path / "store.h5"


def test_proteins_are_read_as_they_were_written_and_in_their_order(path):
    with EmbeddingStore(path) as store:
        assert list(store) == ["Z9", "A1", "protéine"]
        assert store.attributes == {"precision": "fp32"}
        for protein in PROTEINS:
            np.testing.assert_array_equal(store[protein.key], protein.rows)
            assert store[protein.key].dtype == protein.rows.dtype
            assert store.original_id(protein.key) == protein.original_id
            assert store.truncated_from(protein.key) == protein.truncated_from


def test_the_store_is_a_mapping(path):
    store = EmbeddingStore(path)
    assert len(store) == 3
    assert "A1" in store and "A2" not in store
    assert store.get("A2") is None
    assert "3 proteins" in repr(store)
    rows = store["Z9"]
    store.close()
    np.testing.assert_array_equal(rows, PROTEINS[0].rows)


def test_files_of_other_programs_can_be_read(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["P69905"] = np.ones((2, 3))
    store = EmbeddingStore(tmp_path / "other.h5")
    assert store.original_id("P69905") == "P69905"
    assert store.truncated_from("P69905") is None


def test_errors_name_the_file(path, tmp_path):
    with pytest.raises(KeyError, match=r"store\.h5 has no protein 'sp\|A1\|AYE'; the key of such an id is 'A1'"):
        EmbeddingStore(path)["sp|A1|AYE"]
    with pytest.raises(ProtT5nvError, match=r"absent\.h5: there is no such file"):
        EmbeddingStore(tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ProtT5nvError, match=r"text\.h5: not a readable HDF5 file"):
        EmbeddingStore(tmp_path / "text.h5")


def _shape_of(store):
    return store["Z9"].shape


def test_a_spawned_process_opens_the_store_again(path):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_shape_of, [EmbeddingStore(path)]) == [(3, 4)]
