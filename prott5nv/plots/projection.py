"""Projections of pooled embeddings to two dimensions, by principal components or UMAP.

Shapes: N proteins, D hidden size.
"""

from __future__ import annotations

import numpy as np

from prott5nv.embedding.store import EmbeddingStore
from prott5nv.errors import ProtT5nvError
from prott5nv.extras import require_extra

_LARGEST = 1e12  # squares of distances fit into float32


def pooled_embeddings(store: EmbeddingStore) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Read a file of embeddings and average the rows of each protein.

    Parameters
    ----------
    store : EmbeddingStore
        An open file that ``prott5nv embed`` wrote, with or without pooling.

    Returns
    -------
    proteins : list of tuple of (str, str), length=N
        Accession and original id of each protein.
    pooled_ND : ndarray, shape=(N, D), dtype=float32
        One row per protein.

    Raises
    ------
    ProtT5nvError
        If there are fewer than 3 proteins, or a dataset is not an embedding, or its values are too large for a plot.
    """
    if len(store) < 3:
        raise ProtT5nvError(f"{store.path}: {len(store)} proteins; a plot needs at least 3")
    proteins: list[tuple[str, str]] = []
    blocks: list[np.ndarray] = []
    for keys, vectors_ND in store.blocks():
        largest_N = np.abs(vectors_ND).max(axis=1)
        if largest_N.max() > _LARGEST:
            key = keys[int(largest_N.argmax())]
            raise ProtT5nvError(
                f"{store.path}: {key} has the value {largest_N.max():.1e}, which is too large for a plot"
            )
        proteins += [(key, store.original_id(key)) for key in keys]
        blocks.append(vectors_ND)
    return proteins, np.concatenate(blocks)


def principal_components(pooled_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project to the two directions of largest variance.

    Parameters
    ----------
    pooled_ND : ndarray, shape=(N, D), dtype=float32
        One row per protein.

    Returns
    -------
    points_N2 : ndarray, shape=(N, 2), dtype=float64
        Coordinates of the proteins.
    explained : ndarray, shape=(2,), dtype=float64
        Fraction of the total variance along each direction.

    Examples
    --------
    >>> points, explained = principal_components(np.array([[0, 0, 1], [3, 0, 1], [6, 1, 1]], dtype=np.float32))
    >>> points.shape, bool(explained[0] > 0.9)
    ((3, 2), True)
    """
    centred_ND = pooled_ND - pooled_ND.mean(axis=0, dtype=np.float64)
    variances, directions_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    directions_D2 = directions_DD[:, :-3:-1]
    # The sign of a component is arbitrary. Fixing it makes the same data give the same picture.
    directions_D2 = directions_D2 * np.sign(directions_D2[np.abs(directions_D2).argmax(axis=0), [0, 1]])
    return centred_ND @ directions_D2, variances[:-3:-1] / max(variances.sum(), np.finfo(float).tiny)


def umap_points(pooled_ND: np.ndarray) -> np.ndarray:
    """Project by UMAP, which keeps neighbours together. Needs the extra ``umap``.

    Parameters
    ----------
    pooled_ND : ndarray, shape=(N, D), dtype=float32
        One row per protein.

    Returns
    -------
    ndarray, shape=(N, 2), dtype=float32
        Coordinates of the proteins. The seed is fixed, so the same data give the same result.

    Raises
    ------
    ProtT5nvError
        If umap-learn is missing.
    """
    require_extra("umap", "UMAP")
    from umap import UMAP

    neighbours = min(15, len(pooled_ND) - 1)
    return UMAP(n_neighbors=neighbours, init="pca", random_state=0, n_jobs=1).fit_transform(pooled_ND)
