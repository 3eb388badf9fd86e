"""Pooled embeddings in two dimensions: principal components, or UMAP.

Shapes: N proteins, D hidden size.
"""

from __future__ import annotations

import numpy as np

from prott5nv.embedding.store import EmbeddingStore
from prott5nv.errors import ProtT5nvError


def pooled_embeddings(store: EmbeddingStore) -> tuple[list[str], np.ndarray]:
    """Accessions and one row per protein, the mean over its residues: ndarray, shape=(N, D), dtype=float32."""
    keys = list(store)
    if len(keys) < 3:
        raise ProtT5nvError(f"{store.path}: {len(keys)} proteins; a plot needs at least 3")
    return keys, np.stack([np.atleast_2d(store[key]).mean(axis=0, dtype=np.float32) for key in keys])


def principal_components(pooled_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions of largest variance.

    Parameters
    ----------
    pooled_ND : ndarray, shape=(N, D), dtype=float32

    Returns
    -------
    points : ndarray, shape=(N, 2), dtype=float64
    explained : ndarray, shape=(2,), dtype=float64
        Share of the variance along each.

    Examples
    --------
    >>> points, explained = principal_components(np.array([[0, 0, 1], [3, 0, 1], [6, 1, 1]], dtype=np.float32))
    >>> points.shape, bool(explained[0] > 0.9)
    ((3, 2), True)
    """
    centred_ND = pooled_ND - pooled_ND.mean(axis=0, dtype=np.float64)
    variances, directions_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    directions_D2 = directions_DD[:, :-3:-1]
    # The sign of a component is arbitrary; fixed here, so that the same data give the same picture.
    directions_D2 = directions_D2 * np.sign(directions_D2[np.abs(directions_D2).argmax(axis=0), [0, 1]])
    return centred_ND @ directions_D2, variances[:-3:-1] / max(variances.sum(), np.finfo(float).tiny)


def umap_points(pooled_ND: np.ndarray) -> np.ndarray:
    """Place proteins by UMAP, which keeps neighbours together; needs the extra ``umap``.

    Parameters
    ----------
    pooled_ND : ndarray, shape=(N, D), dtype=float32

    Returns
    -------
    ndarray, shape=(N, 2), dtype=float32
        The same for the same data: the seed is fixed.
    """
    try:
        from umap import UMAP
    except ImportError:
        raise ProtT5nvError("UMAP needs umap-learn: pip install 'prott5nv[umap]'") from None
    neighbours = min(15, len(pooled_ND) - 1)
    return UMAP(n_neighbors=neighbours, init="pca", random_state=0, n_jobs=1).fit_transform(pooled_ND)
