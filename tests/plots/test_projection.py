"""Projections of embeddings to two dimensions."""

from __future__ import annotations

import numpy as np
import pytest

from prott5nv import EmbeddingStore, ProtT5nvError
from prott5nv.embedding.store import StoredProtein, write_embeddings
from prott5nv.plots.projection import pooled_embeddings, principal_components, umap_points


def test_principal_components_agree_with_the_covariance_matrix():
    rng = np.random.default_rng(0)
    data_ND = rng.normal(size=(50, 8)).astype(np.float32) * [9, 5, 1, 1, 1, 1, 1, 1]
    points_N2, explained = principal_components(data_ND)
    eigenvalues = np.linalg.eigvalsh(np.cov(data_ND.T))[::-1]
    np.testing.assert_allclose(points_N2.var(axis=0, ddof=1), eigenvalues[:2], rtol=1e-6)
    np.testing.assert_allclose(explained, eigenvalues[:2] / eigenvalues.sum(), rtol=1e-6)


def test_values_that_overflow_are_an_error_that_names_the_file(tmp_path):
    vectors = {"a": 0, "b": 1, "c": 3e38}
    proteins = [StoredProtein(key, key, None, np.full(4, value, np.float32)) for key, value in vectors.items()]
    write_embeddings(tmp_path / "large.h5", proteins, {"pooling": "mean"})
    with (
        EmbeddingStore(tmp_path / "large.h5") as store,
        pytest.raises(ProtT5nvError, match=r"large\.h5: c has the .*3"),
    ):
        pooled_embeddings(store)


def test_umap_keeps_neighbours_together():
    pytest.importorskip("umap", reason="needs the umap extra")
    rng = np.random.default_rng(0)
    pooled_ND = np.concatenate([rng.normal(centre, 1, (20, 8)) for centre in (0, 20)]).astype(np.float32)
    points_N2 = umap_points(pooled_ND)
    distances_NN = np.linalg.norm(points_N2[:, None] - points_N2, axis=2)
    np.fill_diagonal(distances_NN, np.inf)
    assert ((distances_NN.argmin(axis=1) < 20) == (np.arange(40) < 20)).all()
