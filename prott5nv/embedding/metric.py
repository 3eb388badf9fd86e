"""Similarity of embeddings: what happens to vectors before their dot products are taken.

Shapes: N vectors, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from prott5nv.errors import ProtT5nvError

_SMALLEST_SQUARE = 1e-20  # of the length of a vector; squares of its numbers are still precise in float32
_ADDED_VARIANCE = 0.1  # as a fraction of the mean variance


@dataclass(frozen=True)
class Metric:
    """How vectors are prepared, so that the dot product of two is their similarity.

    Attributes
    ----------
    mean_D : ndarray, shape=(D,), dtype=float32, or None
        The vector to subtract first; None if vectors are compared as they are.
    whitening_DD : ndarray, shape=(D, D), dtype=float32, or None
        The matrix to multiply vectors by after that.
    """

    mean_D: np.ndarray | None = None
    whitening_DD: np.ndarray | None = None

    @classmethod
    def whitened(cls, blocks: Iterable[np.ndarray]) -> Metric:
        """Return the metric under which the vectors of the given blocks vary equally in all directions.

        A tenth of the mean variance is added to each variance, so that directions without variance are not enlarged.
        """
        count, total_D, products_DD = 0, np.zeros(1), np.zeros((1, 1))
        shift_D: np.ndarray | None = None  # close to the mean, so that little precision is lost
        for vectors_ND in blocks:
            shift_D = vectors_ND[0].astype(np.float64) if shift_D is None else shift_D
            shifted_ND = vectors_ND - shift_D
            count += len(vectors_ND)
            total_D = total_D + shifted_ND.sum(axis=0)
            products_DD = products_DD + shifted_ND.T @ shifted_ND
        if shift_D is None:
            raise ProtT5nvError("there are no vectors to whiten")
        mean_D = total_D / count
        variances_D, directions_DD = np.linalg.eigh(products_DD / count - np.outer(mean_D, mean_D))
        variances_D = variances_D.clip(0) + _ADDED_VARIANCE * variances_D.mean()
        whitening_DD = directions_DD / np.sqrt(variances_D.clip(np.finfo(np.float64).tiny))
        return cls((shift_D + mean_D).astype(np.float32), _scaled(whitening_DD).astype(np.float32))

    def unit(self, vectors_ND: np.ndarray) -> np.ndarray:
        """Return vectors of length 1. A vector of zeros stays as it is, so its similarities are 0.

        Parameters
        ----------
        vectors_ND : ndarray, shape=(N, D), dtype=float32

        Returns
        -------
        ndarray, shape=(N, D), dtype=float32
        """
        if self.mean_D is not None:
            vectors_ND = vectors_ND - self.mean_D
        if self.whitening_DD is not None:
            vectors_ND = _scaled(vectors_ND, axis=1) @ self.whitening_DD
        with np.errstate(over="ignore"):
            squares_N = np.einsum("ij,ij->i", vectors_ND, vectors_ND)
        if squares_N.min(initial=1) < _SMALLEST_SQUARE or not np.isfinite(squares_N).all():
            vectors_ND = _scaled(vectors_ND, axis=1)
            squares_N = np.einsum("ij,ij->i", vectors_ND, vectors_ND)
            squares_N[squares_N == 0] = 1
        return vectors_ND / np.sqrt(squares_N)[:, None]


def _scaled(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Divide by the largest absolute value, because squares of very large or small numbers are infinite or zero."""
    largest = np.abs(values).max(axis=axis, keepdims=True)
    largest[largest == 0] = 1
    return values / largest
