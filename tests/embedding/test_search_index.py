"""Tests of the index of the approximate search."""

import os
import shutil

import numpy as np
import pytest
from helpers.full_disk import limited
from safetensors import safe_open
from safetensors.numpy import save_file

from prott5nv import EmbeddingStore, ProtT5nvError
from prott5nv.embedding import search_index
from prott5nv.embedding.formats import write_output
from prott5nv.embedding.search import ExactSearch, find_neighbours, stored_vectors
from prott5nv.embedding.search_index import VectorIndex, build_index, open_index
from prott5nv.embedding.store import StoredProtein

PROTEINS = 600


def write_store(path, seed=0):
    """Vectors around 20 centres, as those of families are."""
    rng = np.random.default_rng(seed)
    vectors_ND = rng.normal(size=(20, 8))[rng.integers(20, size=PROTEINS)] + 0.3 * rng.normal(size=(PROTEINS, 8))
    proteins = [StoredProtein(f"P{n}é", f"P{n}é", None, vector) for n, vector in enumerate(np.float32(vectors_ND))]
    write_output(path, proteins, {"pooling": "mean"})
    return path


@pytest.fixture
def store(tmp_path):
    with EmbeddingStore(write_store(tmp_path / "store.npz")) as store:
        yield store


def neighbours(searchable, store, k):
    return [found for _, found in find_neighbours(searchable, stored_vectors(store), k)]


@pytest.mark.parametrize("whiten", [False, True])
def test_all_lists_together_give_the_exact_neighbours(tmp_path, store, whiten):
    index = build_index(tmp_path / "store.index", store, whiten=whiten)
    index.description["probes"] = index.lists
    exact = neighbours(ExactSearch(store, whiten=whiten), store, 5)
    for found, expected in zip(neighbours(index, store, 5), exact, strict=True):
        assert [each.similarity for each in found] == pytest.approx([each.similarity for each in expected], abs=1e-3)
    assert sum(a[0].accession == b[0].accession for a, b in zip(neighbours(index, store, 5), exact, strict=True)) > 590


def test_the_recall_is_the_measured_one(tmp_path, store):
    updates = []
    index = build_index(tmp_path / "store.index", store, on_progress=updates.append)
    assert sum(updates) == 3 * PROTEINS
    assert 1 < index.lists < PROTEINS and index.description["probes"] < index.lists
    assert index.description["recall"] >= search_index.RECALL
    pairs = zip(neighbours(index, store, 11), neighbours(ExactSearch(store), store, 11), strict=True)
    recall = np.mean([(len({e.accession for e in a} & {e.accession for e in b}) - 1) / 10 for a, b in pairs])
    assert recall == pytest.approx(index.description["recall"], abs=0.03)


def test_more_lists_are_searched_for_more_neighbours_than_they_hold(tmp_path, store):
    index = build_index(tmp_path / "store.index", store)
    assert [len(found) for found in neighbours(index, store, 400)[:3]] == [400] * 3
    assert len(neighbours(index, store, 1000)[0]) == PROTEINS


def test_an_index_is_used_until_the_store_changes(tmp_path, store):
    path = tmp_path / "store.index"
    assert open_index(path, store) is None
    build_index(path, store)
    assert open_index(path, store) is not None
    assert open_index(path, store, whiten=True) is None
    copy = shutil.copy(store.path, tmp_path / "copy.npz")
    os.utime(copy, (1, 1))
    with EmbeddingStore(copy) as copied:
        assert open_index(path, copied) is not None
    with EmbeddingStore(write_store(tmp_path / "other.npz", seed=1)) as other:
        assert os.path.getsize(other.path) == os.path.getsize(store.path)
        assert open_index(path, other) is None


def test_small_stores_have_an_index(tmp_path):
    for count in (1, 2, 5):
        path = tmp_path / f"{count}.npz"
        write_output(path, [StoredProtein(f"P{n}", f"P{n}", None, v) for n, v in enumerate(np.eye(5)[:count])], {})
        with EmbeddingStore(path) as store:
            index = build_index(tmp_path / "small.index", store)
            assert index.description["recall"] == 1.0
            assert neighbours(index, store, 9)[0][0].accession == "P0"


def test_an_empty_store_has_no_index(tmp_path):
    write_output(tmp_path / "empty.npz", [], {})
    with EmbeddingStore(tmp_path / "empty.npz") as store, pytest.raises(ProtT5nvError, match="has no proteins"):
        build_index(tmp_path / "empty.index", store)


def test_a_full_disk_leaves_nothing(tmp_path, store):
    before = set(os.listdir(tmp_path))
    for size in (2000, 12_000, 14_000):
        with limited(size), pytest.raises(ProtT5nvError, match="File too large"):
            build_index(tmp_path / "store.index", store)
        assert set(os.listdir(tmp_path)) == before


def _with_tensor(path, name, change):
    with safe_open(path, framework="numpy") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    if (changed := change(tensors[name])) is None:
        del tensors[name]
    else:
        tensors[name] = changed
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rows", lambda rows_N: rows_N + 1),
        ("rows", lambda rows_N: np.zeros_like(rows_N)),
        ("rows", lambda rows_N: rows_N.astype(np.int32)),
        ("rows", lambda rows_N: None),
        ("ends", lambda ends_C: ends_C + 10**12),
        ("ends", lambda ends_C: ends_C[::-1].copy()),
        ("name_ends", lambda ends_N: ends_N - 5),
        ("names", lambda names: names[:-1]),
        ("centres", lambda centres_CD: centres_CD[:, :-1].copy()),
        ("vectors", lambda vectors_ND: vectors_ND[:-1].copy()),
        ("vectors", lambda vectors_ND: vectors_ND.ravel()),
        ("vectors", lambda vectors_ND: vectors_ND.astype(np.float32)),
        ("mean", lambda mean: np.ones(3, np.float32)),
    ],
)
def test_damaged_indexes_are_refused(tmp_path, store, name, change):
    build_index(tmp_path / "store.index", store)
    _with_tensor(tmp_path / "store.index", name, change)
    with pytest.raises(ProtT5nvError, match=r"store\.index: not a readable index"):
        VectorIndex(tmp_path / "store.index")


@pytest.mark.parametrize("content", [b"", b"not an index", (100).to_bytes(8, "little") + b"{}", b"\xff" * 100])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "other.index").write_bytes(content)
    with pytest.raises(ProtT5nvError, match=r"other\.index: not a readable index"):
        VectorIndex(tmp_path / "other.index")


def test_descriptions_of_strangers_are_refused(tmp_path):
    for metadata in (None, {"prott5nv": "["}, {"prott5nv": "[]"}, {"prott5nv": '{"format": "other"}'}):
        save_file({"vectors": np.zeros((1, 1), np.float16)}, tmp_path / "other.index", metadata)
        with pytest.raises(ProtT5nvError, match="not a readable index"):
            VectorIndex(tmp_path / "other.index")
