"""Search for the proteins with the most similar embeddings.

The similarity of two proteins is the cosine of the angle between their pooled vectors. Rows per residue are averaged
first. A whitened similarity subtracts the mean of all vectors of the store before, and makes the variances of all
directions equal; see :class:`prott5nv.embedding.metric.Metric`.

The search is exact: every query is compared with every protein of the store. The store is read in blocks, so memory
does not grow with it, except for the list of its accessions. Similarities are rounded to six decimals. Of proteins with
equal similarities, the one that comes first in the store ranks first. :mod:`prott5nv.embedding.search_index` has the
approximate search.

Shapes: N proteins of the store, Q queries, K neighbours, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from prott5nv.embedding.metric import Metric
from prott5nv.embedding.pooling import mean
from prott5nv.embedding.store import EmbeddingStore
from prott5nv.errors import ProtT5nvError, warn
from prott5nv.io.text import did_you_mean, shortened

_DECIMALS = 6
_MOST_PAIRS = 1 << 24  # similarities in memory at once
_MOST_QUERIES = 16_384  # that are compared in one pass over the store
_NO_ROW = np.iinfo(np.int64).max
# Attributes that decide whether the vectors of two stores can be compared.
_COMPARED = ("model_sha256", "layer", "pooling", "input", "max_length")


class Neighbour(NamedTuple):
    """A protein that is similar to a query.

    Attributes
    ----------
    accession : str
        Its key in the store.
    similarity : float
        Cosine similarity from -1 to 1, rounded to six decimals.
    """

    accession: str
    similarity: float


class Searchable(Protocol):
    """What can be searched: all vectors of a store, or an index of them."""

    hidden_size: int

    def __len__(self) -> int: ...

    def search(self, queries_QD: np.ndarray, k: int, on_progress: Callable[[int], None]) -> Ranking:
        """Return the best `k` rows of each query. `on_progress` gets numbers of pairs, which add up to Q * N."""
        ...

    def key(self, row: int) -> str:
        """Return the accession of a row."""
        ...


class Ranking:
    """The best K rows so far of each of Q queries.

    Parameters
    ----------
    queries, k : int
        Q and K.

    Attributes
    ----------
    rows_QK : ndarray, shape=(Q, K), dtype=int64
        Rows of the store, the best first. Where there are fewer than K, the value of `similarities_QK` is -inf.
    similarities_QK : ndarray, shape=(Q, K), dtype=float64
        Their similarities, rounded.

    Examples
    --------
    >>> ranking = Ranking(1, 2)
    >>> ranking.add(np.array([[0.5, 0.9, 0.1]]), np.arange(3))
    >>> ranking.add(np.array([[0.9, 0.7]]), np.arange(3, 5))
    >>> ranking.rows_QK, ranking.similarities_QK
    (array([[1, 3]]), array([[0.9, 0.9]]))
    """

    def __init__(self, queries: int, k: int) -> None:
        self.rows_QK = np.full((queries, k), _NO_ROW)
        self.similarities_QK = np.full((queries, k), -np.inf)

    def add(self, similarities_QN: np.ndarray, rows_N: np.ndarray, queries_Q: np.ndarray | None = None) -> None:
        """Compare further rows with the best ones. No row may be added twice for a query.

        Parameters
        ----------
        similarities_QN : ndarray, shape=(Q, N)
        rows_N : ndarray, shape=(N,), dtype=int64
        queries_Q : ndarray, shape=(Q,), dtype=int64, optional
            Numbers of the queries that the first axis stands for; by default all of them.
        """
        k = self.rows_QK.shape[1]
        if queries_Q is None:
            queries_Q = np.arange(len(similarities_QN))
        # Rounding can change the order only of values that differ by less than a unit of the last decimal.
        margin = 10.0**-_DECIMALS
        least_Q = self.similarities_QK[queries_Q, -1] - margin
        is_better_QN = similarities_QN > least_Q[:, None]
        if similarities_QN.shape[1] > k and np.count_nonzero(is_better_QN) > 2 * k * len(is_better_QN):
            # As in the first block, where every row is better. Only the best k of the block can matter.
            kth_Q = np.partition(similarities_QN, -k, axis=1)[:, -k]
            is_better_QN &= similarities_QN >= kth_Q[:, None] - margin
        query_M, column_M = np.nonzero(is_better_QN)
        if not len(query_M):
            return
        similarity_M = similarities_QN[query_M, column_M].astype(np.float64).clip(-1, 1).round(_DECIMALS)
        changed_C, query_M = np.unique(queries_Q[query_M], return_inverse=True)
        query_M = np.concatenate([np.repeat(np.arange(len(changed_C)), k), query_M])
        row_M = np.concatenate([self.rows_QK[changed_C].ravel(), rows_N[column_M]])
        similarity_M = np.concatenate([self.similarities_QK[changed_C].ravel(), similarity_M])
        order_M = np.lexsort((row_M, -similarity_M, query_M))
        first_C = np.searchsorted(query_M[order_M], np.arange(len(changed_C)))
        best_CK = order_M[first_C[:, None] + np.arange(k)]
        self.rows_QK[changed_C] = row_M[best_CK]
        self.similarities_QK[changed_C] = similarity_M[best_CK]


class ExactSearch:
    """All vectors of a store, which each search reads from the disk.

    Parameters
    ----------
    store : EmbeddingStore
        The open store.
    whiten : bool, default False
        Whether the similarity is whitened, which takes another pass over the store.

    Attributes
    ----------
    hidden_size : int
        Size of the vectors.

    Raises
    ------
    ProtT5nvError
        If the store has no proteins, or a protein cannot be read or contains NaN or infinity.
    """

    def __init__(self, store: EmbeddingStore, *, whiten: bool = False) -> None:
        self._store = store
        first = next(store.blocks(), None)
        if first is None:
            raise ProtT5nvError(f"{store.path}: the file has no proteins to search")
        self.hidden_size = first[1].shape[1]
        self._keys = list(store)
        self._metric = Metric.whitened(vectors_ND for _, vectors_ND in store.blocks()) if whiten else Metric()

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, row: int) -> str:
        """Return the accession of a row."""
        return self._keys[row]

    def search(self, queries_QD: np.ndarray, k: int, on_progress: Callable[[int], None]) -> Ranking:
        """Return the best `k` rows of each query; see :class:`Searchable`."""
        queries_QD = self._metric.unit(queries_QD)
        ranking = Ranking(len(queries_QD), k)
        row = 0
        for _, vectors_ND in self._store.blocks():
            vectors_ND = self._metric.unit(vectors_ND)
            step = max(1, _MOST_PAIRS // len(queries_QD))
            for start in range(0, len(vectors_ND), step):
                part_ND = vectors_ND[start : start + step]
                ranking.add(queries_QD @ part_ND.T, np.arange(row, row + len(part_ND)))
                row += len(part_ND)
            on_progress(len(queries_QD) * len(vectors_ND))
        return ranking


def find_neighbours(
    searchable: Searchable,
    queries: Iterable[tuple[str, np.ndarray]],
    k: int,
    *,
    skip_self: bool = False,
    on_progress: Callable[[int], None] = lambda pairs: None,
) -> Iterator[tuple[str, list[Neighbour]]]:
    """Find the neighbours of each query.

    Parameters
    ----------
    searchable : Searchable
        An :class:`ExactSearch` or an index.
    queries : iterable of tuple of (str, ndarray of shape (D,))
        Accession and pooled vector of each query.
    k : int
        Number of neighbours of each query.
    skip_self : bool, default False
        Whether to leave out the protein with the accession of the query.
    on_progress : callable, optional
        Called with numbers of compared pairs of query and protein.

    Yields
    ------
    accession : str
        Queries in their order.
    neighbours : list of Neighbour
        At most `k`, the most similar one first.

    Raises
    ------
    ProtT5nvError
        If `k` is less than 1, or a vector has another size than those of the store or contains NaN or infinity.
    """
    if k < 1:
        raise ProtT5nvError(f"k={k}: must be at least 1")
    most = min(k + skip_self, len(searchable))
    for names, queries_QD in _stacked(queries, searchable.hidden_size):
        ranking = searchable.search(queries_QD, most, on_progress)
        for name, rows_K, similarities_K in zip(names, ranking.rows_QK, ranking.similarities_QK, strict=True):
            neighbours = [
                Neighbour(searchable.key(row), similarity)
                for row, similarity in zip(rows_K.tolist(), similarities_K.tolist(), strict=True)
                if similarity > -np.inf
            ]
            if skip_self:
                neighbours = [neighbour for neighbour in neighbours if neighbour.accession != name]
            yield name, neighbours[:k]


def _stacked(queries: Iterable[tuple[str, np.ndarray]], hidden_size: int) -> Iterator[tuple[list[str], np.ndarray]]:
    """Check queries and yield many at once."""
    names: list[str] = []
    vectors: list[np.ndarray] = []
    for name, vector_D in queries:
        if vector_D.shape != (hidden_size,):
            raise ProtT5nvError(
                f"{shortened(name)}: its vector has the shape {vector_D.shape}, and those of the store ({hidden_size},)"
            )
        if not np.isfinite(vector_D).all():
            raise ProtT5nvError(f"{shortened(name)}: its vector contains NaN or infinity")
        names.append(name)
        vectors.append(vector_D)
        if len(names) == _MOST_QUERIES:
            yield names, np.stack(vectors).astype(np.float32)
            names, vectors = [], []
    if names:
        yield names, np.stack(vectors).astype(np.float32)


def stored_vectors(store: EmbeddingStore) -> Iterator[tuple[str, np.ndarray]]:
    """Yield accession and pooled vector of each protein of a store.

    Parameters
    ----------
    store : EmbeddingStore

    Yields
    ------
    accession : str
    vector_D : ndarray, shape=(D,), dtype=float32
    """
    for keys, vectors_ND in store.blocks():
        yield from zip(keys, vectors_ND, strict=True)


def vectors_of(store: EmbeddingStore, accessions: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield accession and pooled vector of some proteins of a store.

    Parameters
    ----------
    store : EmbeddingStore
    accessions : iterable of str

    Yields
    ------
    accession : str
    vector_D : ndarray, shape=(D,), dtype=float32

    Raises
    ------
    ProtT5nvError
        If the store has no such protein.
    """
    for name in accessions:
        if name not in store:
            raise ProtT5nvError(f"{store.path} has no protein {shortened(name)!r}{did_you_mean(name, store)}")
        yield name, mean(np.atleast_2d(store[name]))


def nearest(
    store: EmbeddingStore,
    queries: Iterable[str] | np.ndarray | EmbeddingStore,
    k: int = 10,
    *,
    whiten: bool = False,
    skip_self: bool = False,
) -> list[list[Neighbour]]:
    """Find the proteins with the most similar embeddings; see :meth:`prott5nv.EmbeddingStore.nearest`.

    Parameters
    ----------
    store : EmbeddingStore
        Store to search.
    queries, k, whiten, skip_self
        As for the method.

    Returns
    -------
    list of list of Neighbour
    """
    named: Iterable[tuple[str, np.ndarray]]
    if isinstance(queries, str):
        raise ProtT5nvError("queries is a single string: pass a list of accessions, such as [accession]")
    if isinstance(queries, EmbeddingStore):
        check_comparable(str(queries.path), queries.attributes, store)
        named = stored_vectors(queries)
    elif isinstance(queries, np.ndarray):
        if queries.ndim != 2 or queries.dtype.kind not in "fiu":
            raise ProtT5nvError(
                f"queries has the shape {queries.shape}: pass numbers of shape (Q, D), one row per query"
            )
        named = ((f"query {number}", vector_D) for number, vector_D in enumerate(queries, 1))
    else:
        named = vectors_of(store, queries)
    searchable = ExactSearch(store, whiten=whiten)
    return [found for _, found in find_neighbours(searchable, named, k, skip_self=skip_self)]


def check_comparable(name: str, attributes: Mapping[str, str], store: EmbeddingStore) -> None:
    """Check that vectors were made like those of a store, as far as both record it.

    Parameters
    ----------
    name : str
        Name of the vectors in the message.
    attributes : mapping
        What is recorded about the vectors, as in the attribute `attributes` of a store.
    store : EmbeddingStore
        The store to search.

    Raises
    ------
    ProtT5nvError
        If model, layer, pooling, kind of input or maximal length differ. If only one of both has truncated long
        proteins, there is a warning.
    """
    for attribute in _COMPARED:
        values = [recorded.get(attribute, "") for recorded in (attributes, store.attributes)]
        if attribute in ("model_sha256", "layer", "pooling") and not all(values):
            continue
        if attribute == "pooling":
            values = ["mean" if value == "none" else value for value in values]
        if values[0] != values[1]:
            ours, theirs = (value[:24] or "none" for value in values)
            raise ProtT5nvError(
                f"{name}: its {attribute} is {ours}, and that of {store.path} is {theirs}, so their similarities mean "
                "nothing; embed both in the same way"
            )
    longs = {str(recorded.get("long", "")) for recorded in (attributes, store.attributes)}
    if longs == {"truncate", "window"}:
        warn(
            f"one of {name} and {store.path} was embedded with --long window, and the other with --long truncate: the "
            "vectors of a protein that is too long for the model differ between them; embed both in the same way"
        )
