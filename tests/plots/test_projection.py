"""Projections of embeddings to two dimensions."""

from __future__ import annotations

import numpy as np
import pytest

from prott5nv.plots.projection import principal_components, umap_points


def test_principal_components_agree_with_the_covariance_matrix():
    rng = np.random.default_rng(0)
    data_ND = rng.normal(size=(50, 8)).astype(np.float32) * [9, 5, 1, 1, 1, 1, 1, 1]
    points_N2, explained = principal_components(data_ND)
    eigenvalues = np.linalg.eigvalsh(np.cov(data_ND.T))[::-1]
    np.testing.assert_allclose(points_N2.var(axis=0, ddof=1), eigenvalues[:2], rtol=1e-6)
    np.testing.assert_allclose(explained, eigenvalues[:2] / eigenvalues.sum(), rtol=1e-6)


def test_umap_keeps_neighbours_together():
    pytest.importorskip("umap", reason="needs the umap extra")
    rng = np.random.default_rng(0)
    pooled_ND = np.concatenate([rng.normal(centre, 1, (20, 8)) for centre in (0, 20)]).astype(np.float32)
    points_N2 = umap_points(pooled_ND)
    distances_NN = np.linalg.norm(points_N2[:, None] - points_N2, axis=2)
    np.fill_diagonal(distances_NN, np.inf)
    assert ((distances_NN.argmin(axis=1) < 20) == (np.arange(40) < 20)).all()
