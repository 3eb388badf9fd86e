"""Tests of the exact search for neighbours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prott5nv import EmbeddingStore, ProtT5nvError
from prott5nv.embedding import search
from prott5nv.embedding.formats import write_output
from prott5nv.embedding.metric import Metric
from prott5nv.embedding.search import ExactSearch, Neighbour, Ranking, find_neighbours
from prott5nv.embedding.store import StoredProtein


def write(path, vectors_ND, **attributes):
    proteins = [StoredProtein(f"P{n}", f"sp|P{n}|X_TEST", None, vector) for n, vector in enumerate(vectors_ND)]
    write_output(path, proteins, {"pooling": "mean", **attributes})
    return path


@pytest.fixture(scope="module")
def vectors_ND():
    return np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)


@pytest.fixture
def store(tmp_path, vectors_ND):
    with EmbeddingStore(write(tmp_path / "store.npz", vectors_ND)) as store:
        yield store


def by_brute_force(vectors_ND, query_D, k, *, whiten=False):
    """Accessions and similarities of the best `k`, computed one by one in float64."""
    vectors_ND, query_D = vectors_ND.astype(np.float64), query_D.astype(np.float64)
    similarities = []
    for vector_D in vectors_ND:
        other_D = query_D
        if whiten:
            covariance_DD = np.cov(vectors_ND.T, bias=True)
            added = 0.1 * np.trace(covariance_DD) / len(covariance_DD)
            variances_D, directions_DD = np.linalg.eigh(covariance_DD + added * np.eye(len(covariance_DD)))
            whitening_DD = directions_DD / np.sqrt(variances_D)
            vector_D = (vector_D - vectors_ND.mean(axis=0)) @ whitening_DD
            other_D = (other_D - vectors_ND.mean(axis=0)) @ whitening_DD
        lengths = np.linalg.norm(vector_D) * np.linalg.norm(other_D)
        similarities.append(vector_D @ other_D / lengths if lengths else 0.0)
    order = sorted(range(len(similarities)), key=lambda number: -similarities[number])[:k]
    return [(f"P{number}", similarities[number]) for number in order]


def same(found, expected):
    """Whether names and similarities agree, where neighbours of almost equal similarity may change places."""
    similarities = [similarity for _, similarity in expected]
    assert [neighbour.similarity for neighbour in found] == pytest.approx(similarities, abs=2e-6)
    gaps = np.abs(np.diff(similarities, prepend=np.inf, append=-np.inf))
    for number, (neighbour, (name, _)) in enumerate(zip(found, expected, strict=True)):
        if gaps[number] > 1e-5 and gaps[number + 1] > 1e-5 and number + 1 < len(expected):
            assert neighbour.accession == name


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".parquet"])
@pytest.mark.parametrize("whiten", [False, True])
def test_neighbours_are_those_of_brute_force(tmp_path, vectors_ND, suffix, whiten):
    queries_QD = np.random.default_rng(1).normal(size=(7, 6)).astype(np.float32)
    with EmbeddingStore(write(tmp_path / f"store{suffix}", vectors_ND)) as store:
        for query_D, found in zip(queries_QD, store.nearest(queries_QD, 5, whiten=whiten), strict=True):
            same(found, by_brute_force(vectors_ND, query_D, 5, whiten=whiten))


def test_rows_per_residue_are_averaged(tmp_path, vectors_ND):
    rows = np.random.default_rng(2).normal(size=(12, 4, 6)).astype(np.float32)
    means_ND = rows.mean(axis=1, dtype=np.float64).astype(np.float32)
    with EmbeddingStore(write(tmp_path / "rows.h5", rows, pooling="none")) as store:
        same(store.nearest(["P3"], 4)[0], by_brute_force(means_ND, means_ND[3], 4))


@given(st.data())
def test_a_ranking_holds_the_best_rows_in_any_division_into_blocks(data):
    """Few different values, so that there are many ties: the row with the lowest number comes first."""
    count, k = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 8))
    values = st.sampled_from([-1.0, 0.0, 0.25, 0.2500001, 0.5])
    similarities_QN = data.draw(
        arrays(np.float32, (3, count), elements=values.map(lambda value: float(np.float32(value))))
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    ranking = Ranking(3, k)
    for start, end in zip([0, *cuts], [*cuts, count], strict=True):
        ranking.add(similarities_QN[:, start:end], np.arange(start, end))
    for similarities_N, rows_K, found_K in zip(similarities_QN, ranking.rows_QK, ranking.similarities_QK, strict=True):
        rounded = similarities_N.astype(np.float64).round(6)
        expected = sorted(range(count), key=lambda row: (-rounded[row], row))[:k]
        assert rows_K[: len(expected)].tolist() == expected
        assert found_K.tolist() == rounded[expected].tolist() + [-np.inf] * (k - len(expected))


def test_equal_proteins_rank_in_the_order_of_the_store(tmp_path, vectors_ND):
    repeated_ND = np.concatenate([vectors_ND, vectors_ND * 3])
    with EmbeddingStore(write(tmp_path / "store.npz", repeated_ND)) as store:
        assert store.nearest(["P57"], 2) == [[Neighbour("P7", 1.0), Neighbour("P57", 1.0)]]
        assert store.nearest(["P57"], 2, skip_self=True)[0][0] == Neighbour("P7", 1.0)


def test_a_protein_finds_itself_unless_it_is_skipped(store):
    assert store.nearest(["P4"], 1) == [[Neighbour("P4", 1.0)]]
    assert store.nearest(["P4"], 3, skip_self=True)[0] == store.nearest(["P4"], 4)[0][1:]


def test_there_are_fewer_neighbours_than_asked_for_in_a_small_store(store):
    assert len(store.nearest(["P0"], 1000)[0]) == 50
    assert len(store.nearest(["P0"], 1000, skip_self=True)[0]) == 49


def test_another_store_can_be_the_queries(tmp_path, store, vectors_ND):
    with EmbeddingStore(write(tmp_path / "other.h5", vectors_ND[:3])) as queries:
        assert store.nearest(queries, 2) == store.nearest(["P0", "P1", "P2"], 2)


def test_no_queries_give_no_results(store):
    assert store.nearest([]) == []
    assert store.nearest(np.zeros((0, 6), np.float32)) == []


def test_vectors_of_zeros_are_similar_to_nothing(tmp_path):
    with EmbeddingStore(write(tmp_path / "store.npz", np.array([[0, 0], [1, 1]], np.float32))) as store:
        assert store.nearest(np.zeros((1, 2)), 2) == [[Neighbour("P0", 0.0), Neighbour("P1", 0.0)]]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_length_of_a_vector_does_not_matter(tmp_path, vectors_ND, store, scale):
    with EmbeddingStore(write(tmp_path / "scaled.npz", vectors_ND * np.float32(scale))) as scaled:
        assert scaled.nearest(["P5"], 3) == store.nearest(["P5"], 3)


def test_blocks_bound_the_memory(store, vectors_ND, monkeypatch):
    """However many queries there are, only `_MOST_PAIRS` similarities are in memory at once."""
    expected = store.nearest(vectors_ND, 3)
    largest = []
    add = Ranking.add

    def watched(self, similarities_QN, *arguments):
        largest.append(similarities_QN.size)
        add(self, similarities_QN, *arguments)

    monkeypatch.setattr(Ranking, "add", watched)
    monkeypatch.setattr(search, "_MOST_PAIRS", 64)
    monkeypatch.setattr(search, "_MOST_QUERIES", 20)
    monkeypatch.setattr("prott5nv.embedding.store._PROTEINS_PER_BLOCK", 9)
    assert store.nearest(vectors_ND, 3) == expected
    assert max(largest) <= 64


def test_progress_adds_up_to_all_pairs(store, vectors_ND, monkeypatch):
    monkeypatch.setattr(search, "_MOST_QUERIES", 20)
    monkeypatch.setattr("prott5nv.embedding.store._PROTEINS_PER_BLOCK", 9)
    updates = []
    named = ((str(number), vector_D) for number, vector_D in enumerate(vectors_ND))
    assert len(list(find_neighbours(ExactSearch(store), named, 2, on_progress=updates.append))) == 50
    assert sum(updates) == 50 * 50


def test_faulty_queries_are_refused(store):
    with pytest.raises(ProtT5nvError, match=r"has no protein 'P44x'; did you mean P44"):
        store.nearest(["P44x"])
    with pytest.raises(ProtT5nvError, match=r"query 2: its vector contains NaN or infinity"):
        store.nearest(np.array([[1] * 6, [np.nan] * 6]))
    with pytest.raises(ProtT5nvError, match=r"query 1: its vector has the shape \(5,\), and those of the store \(6,\)"):
        store.nearest(np.ones((1, 5)))
    with pytest.raises(ProtT5nvError, match=r"queries has the shape \(6,\)"):
        store.nearest(np.ones(6))
    with pytest.raises(ProtT5nvError, match="single string"):
        store.nearest("P44")
    with pytest.raises(ProtT5nvError, match="k=0: must be at least 1"):
        store.nearest(["P44"], 0)


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".parquet"])
def test_a_store_with_nan_is_refused(tmp_path, vectors_ND, suffix):
    faulty_ND = vectors_ND.copy()
    faulty_ND[30, 2] = np.nan
    path = write(tmp_path / f"faulty{suffix}", faulty_ND)
    with EmbeddingStore(path) as store, pytest.raises(ProtT5nvError, match="P30 contains NaN or infinity"):
        store.nearest(["P1"])


def test_an_empty_store_and_one_with_several_widths_are_refused(tmp_path, vectors_ND):
    empty = EmbeddingStore(write(tmp_path / "empty.npz", []))
    with empty, pytest.raises(ProtT5nvError, match=r"empty.npz: the file has no proteins to search"):
        empty.nearest(vectors_ND)
    mixed = EmbeddingStore(write(tmp_path / "mixed.h5", [*vectors_ND, np.ones(5, np.float32)]))
    with mixed, pytest.raises(ProtT5nvError, match=r"P50 has the shape \(5,\), which is not that of an embedding"):
        mixed.nearest(vectors_ND)


@pytest.mark.parametrize(
    ("attribute", "value"), [("model_sha256", "f" * 64), ("pooling", "max"), ("input", "3di"), ("layer", "other")]
)
def test_stores_that_were_made_differently_are_not_compared(tmp_path, vectors_ND, attribute, value):
    ours = {"model_sha256": "a" * 64, "layer": "last"}
    with (
        EmbeddingStore(write(tmp_path / "ours.npz", vectors_ND, **ours)) as store,
        EmbeddingStore(write(tmp_path / "same.npz", vectors_ND, **{**ours, "precision": "bf16"})) as same_model,
        EmbeddingStore(write(tmp_path / "other.npz", vectors_ND, **{**ours, attribute: value})) as other,
    ):
        assert len(store.nearest(same_model, 1)) == 50
        with pytest.raises(ProtT5nvError, match=rf"other.npz: its {attribute} is {value[:24]}, and that of"):
            store.nearest(other)


def test_a_difference_in_the_treatment_of_long_proteins_is_a_warning(tmp_path, vectors_ND):
    with (
        EmbeddingStore(write(tmp_path / "ours.npz", vectors_ND, long="truncate")) as store,
        EmbeddingStore(write(tmp_path / "other.npz", vectors_ND, long="window")) as other,
        pytest.warns(UserWarning, match=r"one of .*other.npz and .*ours.npz was embedded with --long window"),
    ):
        assert len(store.nearest(other, 1)) == 50


def test_whitened_vectors_have_length_one(vectors_ND):
    unit_ND = Metric.whitened([vectors_ND[:20], vectors_ND[20:]]).unit(vectors_ND)
    assert np.linalg.norm(unit_ND, axis=1) == pytest.approx(1)


def test_whitening_copes_with_vectors_that_are_all_the_same(tmp_path):
    with EmbeddingStore(write(tmp_path / "same.npz", np.ones((3, 4), np.float32))) as store:
        assert store.nearest(["P1"], 2, whiten=True) == [[Neighbour("P0", 0.0), Neighbour("P1", 0.0)]]
