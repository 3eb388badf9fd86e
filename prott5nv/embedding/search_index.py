"""Approximate search: an index of the vectors of a store, in one file.

The vectors are divided into lists by k-means. A query is compared with the centres of all lists, and then with the
vectors of the most similar lists only. How many lists that are is found by measurement when the index is built: as many
as are needed for a recall of 0.95 against the exact search.

The file has the safetensors format, which holds plain numbers. It is not trusted: every number that is used as a
position is checked first. A file that a stranger made can give wrong neighbours, but can do no harm. The file records
the size and the checksum of the store. An index of a store that has changed is built again.

Vectors are stored in float16, so similarities differ from exact ones by about 1e-5.

Shapes: N proteins, C lists, Q queries, K neighbours, D hidden size.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from prott5nv.embedding.metric import Metric
from prott5nv.embedding.search import Ranking
from prott5nv.embedding.shard_folder import MANIFEST
from prott5nv.embedding.store import EmbeddingStore
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file
from prott5nv.io.checksum import file_checksum

FORMAT = "prott5nv index 1"
RECALL = 0.95

_LISTS_PER_ROOT = 2  # number of lists, as a multiple of the square root of N
_TRAINING_VECTORS_PER_LIST = 32
_ITERATIONS = 8
_RECALL_QUERIES = 200
_RECALL_NEIGHBOURS = 10
_ROWS_PER_BLOCK = 2000
_MOST_QUERIES = 1024
_HEADER_BYTES = 4096
_DTYPES = {"float16": "F16", "float32": "F32", "int64": "I64", "uint8": "U8"}


class VectorIndex:
    """An index file, open for searching.

    Parameters
    ----------
    path : str or PathLike
        A file that :func:`build_index` wrote.

    Attributes
    ----------
    hidden_size : int
        Size of the vectors.
    description : dict
        What the file records: ``store`` (size and checksum of the store), ``whiten``, ``probes`` (number of lists to
        search) and ``recall``.

    Raises
    ------
    ProtT5nvError
        If the file is not an index, or it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = safe_open(path, framework="numpy")
            self.description = _checked_description((self._file.metadata() or {}).get("prott5nv", ""))
            self._vectors = self._file.get_slice("vectors")
            count, self.hidden_size = self._vectors.get_shape()
            lists = self._file.get_slice("centres").get_shape()[0]
            square = self.hidden_size if self.description["whiten"] else 0
            self._centres_CD = self._read("centres", np.float32, lists, self.hidden_size)
            self._ends_C = self._read("ends", np.int64, lists)
            self._rows_N = self._read("rows", np.int64, count)
            self._name_ends_N = self._read("name_ends", np.int64, count)
            self._names = self._read("names", np.uint8, self._file.get_slice("names").get_shape()[0])
            mean_D = self._read("mean", np.float32, square)
            whitening_DD = self._read("whitening", np.float32, square, square)
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, IndexError) as error:
            raise _unreadable(path, " ".join(str(error).split())[:200]) from None
        self._metric = Metric(mean_D, whitening_DD) if square else Metric()
        is_sound = (
            self._vectors.get_dtype() == "F16"
            and _are_ends(self._ends_C, count)
            and _are_ends(self._name_ends_N, len(self._names))
            and count > 0
            and np.array_equal(np.sort(self._rows_N), np.arange(count))
        )
        if not is_sound:
            raise _unreadable(path, "its lists do not fit together")

    def _read(self, name: str, dtype: type, *shape: int) -> np.ndarray:
        values = self._file.get_tensor(name)
        if values.dtype != dtype or values.shape != shape:
            raise ValueError(f"{name} has the type {values.dtype} and the shape {values.shape}, not {shape}")
        return values

    def __len__(self) -> int:
        return len(self._rows_N)

    @property
    def lists(self) -> int:
        """Number of lists."""
        return len(self._ends_C)

    def key(self, row: int) -> str:
        """Return the accession of a row."""
        start = int(self._name_ends_N[row - 1]) if row else 0
        return self._names[start : int(self._name_ends_N[row])].tobytes().decode(errors="replace")

    def search(
        self, queries_QD: np.ndarray, k: int, on_progress: Callable[[int], None], probes: int | None = None
    ) -> Ranking:
        """Return the best `k` rows of each query in the most similar lists.

        Parameters
        ----------
        queries_QD : ndarray, shape=(Q, D), dtype=float32
        k : int
            At most N.
        on_progress : callable
            Called with numbers of pairs, which add up to Q * N.
        probes : int, optional
            Number of lists to search for each query; by default that of the file. More lists are searched if these have
            fewer than `k` vectors.

        Returns
        -------
        Ranking
        """
        ranking = Ranking(len(queries_QD), k)
        for start in range(0, len(queries_QD), _MOST_QUERIES):
            part = slice(start, start + _MOST_QUERIES)
            unit_QD = self._metric.unit(queries_QD[part])
            found = self.search_lists(unit_QD, k, probes or self.description["probes"])
            ranking.rows_QK[part], ranking.similarities_QK[part] = found.rows_QK, found.similarities_QK
            on_progress(len(unit_QD) * len(self))
        return ranking

    def search_lists(self, queries_QD: np.ndarray, k: int, probes: int) -> Ranking:
        """Search for prepared vectors; see :meth:`search`.

        Parameters
        ----------
        queries_QD : ndarray, shape=(Q, D), dtype=float32
            Vectors as :meth:`prott5nv.embedding.metric.Metric.unit` returns them.
        k, probes : int
            As for :meth:`search`.

        Returns
        -------
        Ranking
        """
        ranking = Ranking(len(queries_QD), k)
        starts_C = np.concatenate([[0], self._ends_C[:-1]])
        order_QC = np.argsort(-(queries_QD @ self._centres_CD.T), axis=1, kind="stable")
        sizes_QC = (self._ends_C - starts_C)[order_QC].cumsum(axis=1)
        needed_Q = np.maximum(probes, (sizes_QC < k).sum(axis=1) + 1)
        is_probed_QC = np.arange(len(starts_C)) < needed_Q[:, None]
        query_M, list_M = np.nonzero(is_probed_QC)[0], order_QC[is_probed_QC]
        by_list_M = np.argsort(list_M, kind="stable")
        for members in np.split(by_list_M, np.flatnonzero(np.diff(list_M[by_list_M])) + 1):
            number, asking_Q = list_M[members[0]], query_M[members]
            for start in range(starts_C[number], self._ends_C[number], _ROWS_PER_BLOCK):
                end = min(start + _ROWS_PER_BLOCK, int(self._ends_C[number]))
                vectors_ND = self._vectors[start:end].astype(np.float32)
                similarities_QN = queries_QD[asking_Q] @ vectors_ND.T
                ranking.add(similarities_QN, self._rows_N[start:end], asking_Q)
        return ranking


def _unreadable(path: str | os.PathLike[str], reason: str) -> ProtT5nvError:
    return ProtT5nvError(f"{path}: not a readable index ({reason}); choose another name, or delete the file")


def _checked_description(text: str) -> dict[str, Any]:
    description = json.loads(text)
    if description["format"] != FORMAT:
        raise ValueError(f"the format is {str(description['format'])[:40]!r}, not {FORMAT!r}")
    probes, recall, whiten = description["probes"], description["recall"], description["whiten"]
    if type(probes) is not int or probes < 1 or type(recall) is not float or type(whiten) is not bool:
        raise ValueError("its description is damaged")
    return dict(description)


def _are_ends(ends: np.ndarray, total: int) -> bool:
    """Return whether numbers are the ends of consecutive parts of a whole."""
    return len(ends) > 0 and bool((np.diff(ends, prepend=0) >= 0).all()) and int(ends[-1]) == total


def open_index(path: str | os.PathLike[str], store: EmbeddingStore, *, whiten: bool = False) -> VectorIndex | None:
    """Open the index of a store.

    Parameters
    ----------
    path : str or PathLike
        The index, which may not exist yet.
    store : EmbeddingStore
    whiten : bool, default False
        Whether the similarity is whitened.

    Returns
    -------
    VectorIndex or None
        None if there is no such file, or it is the index of another store or of another similarity.

    Raises
    ------
    ProtT5nvError
        If the file is something else than an index, or it is damaged.
    """
    if not os.path.exists(path):
        return None
    index = VectorIndex(path)
    recorded = index.description.get("store")
    size, modified = _size_and_time(store.path)
    if not isinstance(recorded, dict) or recorded.get("bytes") != size or index.description["whiten"] != whiten:
        return None
    if recorded.get("mtime_ns") != modified and recorded.get("sha256") != _checksum(store.path):
        return None
    return index


def build_index(
    path: str | os.PathLike[str],
    store: EmbeddingStore,
    *,
    whiten: bool = False,
    on_progress: Callable[[int], None] = lambda proteins: None,
) -> VectorIndex:
    """Build the index of a store and measure its recall.

    The store is read once, or twice if the similarity is whitened. Its vectors take up 4 bytes per number on the disk
    while the index is built, and 2 bytes when it is finished.

    Parameters
    ----------
    path : str or PathLike
        File to write. An existing file of that name is replaced.
    store : EmbeddingStore
    whiten : bool, default False
        Whether the similarity is whitened.
    on_progress : callable, optional
        Called with numbers of proteins, which add up to 3 * N: each is read, put into a list, and written.

    Returns
    -------
    VectorIndex

    Raises
    ------
    ProtT5nvError
        If the store has no proteins, a protein cannot be read or contains NaN or infinity, or the disk is full.
    """
    if not len(store):
        raise ProtT5nvError(f"{store.path}: the file has no proteins to search")
    size, modified = _size_and_time(store.path)
    identity = {"bytes": size, "mtime_ns": modified, "sha256": _checksum(store.path)}
    metric = Metric.whitened(vectors_ND for _, vectors_ND in store.blocks()) if whiten else Metric()
    description = {"format": FORMAT, "store": identity, "whiten": whiten, "probes": 1, "recall": 0.0}
    with whole_file(path) as temporary:
        rows_file = temporary.with_name("rows")
        _write_unit_vectors(rows_file, store, metric, on_progress)
        vectors_ND = np.memmap(rows_file, np.float16, "r").reshape(len(store), -1)
        centres_CD = _train(vectors_ND)
        list_N = np.empty(len(vectors_ND), np.int64)
        for part in _parts(len(vectors_ND)):
            list_N[part] = _nearest_centres(vectors_ND[part].astype(np.float32), centres_CD)
            on_progress(part.stop - part.start)
        rows_N = np.argsort(list_N, kind="stable")
        names = [key.encode() for key in store]
        tensors = {
            "centres": centres_CD,
            "ends": np.bincount(list_N, minlength=len(centres_CD)).cumsum(),
            "rows": rows_N,
            "name_ends": np.cumsum([len(name) for name in names], dtype=np.int64),
            "names": np.frombuffer(b"".join(names), np.uint8),
            "mean": np.zeros(0, np.float32) if metric.mean_D is None else metric.mean_D,
            "whitening": np.zeros((0, 0), np.float32) if metric.whitening_DD is None else metric.whitening_DD,
        }
        with open(temporary, "w+b") as file:
            _write_header(file, description, tensors, vectors_ND)
            for part in _parts(len(vectors_ND)):
                file.write(vectors_ND[rows_N[part]].tobytes())
                on_progress(part.stop - part.start)
            for values in tensors.values():
                file.write(values.tobytes())
            file.flush()
            description |= _measure(VectorIndex(temporary), vectors_ND)
            _write_header(file, description, tensors, vectors_ND)
        rows_file.unlink()
    return VectorIndex(path)


def _write_unit_vectors(path: Path, store: EmbeddingStore, metric: Metric, on_progress: Callable[[int], None]) -> None:
    """Write the prepared vectors of a store one after the other."""
    with open(path, "wb") as file:
        for _, vectors_ND in store.blocks():
            file.write(metric.unit(vectors_ND).astype(np.float16).tobytes())
            on_progress(len(vectors_ND))


def _write_header(
    file: BinaryIO, description: dict[str, Any], tensors: dict[str, np.ndarray], vectors_ND: np.ndarray
) -> None:
    """Write the beginning of the safetensors file, which always has the same size for the same arrays."""
    header: dict[str, Any] = {"__metadata__": {"prott5nv": json.dumps(description)}}
    position = 0
    for name, values in {"vectors": vectors_ND, **tensors}.items():
        end = position + values.nbytes
        header[name] = {"dtype": _DTYPES[values.dtype.name], "shape": values.shape, "data_offsets": [position, end]}
        position = end
    file.seek(0)
    file.write(_HEADER_BYTES.to_bytes(8, "little") + json.dumps(header).encode().ljust(_HEADER_BYTES))


def _train(vectors_ND: np.ndarray) -> np.ndarray:
    """Return the centres of the lists, by k-means with cosine similarity on a sample of the vectors."""
    lists = max(1, min(len(vectors_ND), round(_LISTS_PER_ROOT * math.sqrt(len(vectors_ND)))))
    samples = min(len(vectors_ND), _TRAINING_VECTORS_PER_LIST * lists)
    rng = np.random.default_rng(0)
    chosen_S = np.linspace(0, len(vectors_ND) - 1, samples).astype(np.int64)
    sample_SD = vectors_ND[chosen_S].astype(np.float32)
    centres_CD = sample_SD[rng.choice(samples, lists, replace=False)]
    for _ in range(_ITERATIONS):
        list_S = np.concatenate([_nearest_centres(sample_SD[part], centres_CD) for part in _parts(samples)])
        by_list_S = np.argsort(list_S, kind="stable")
        used, starts = np.unique(list_S[by_list_S], return_index=True)
        sums_CD = sample_SD[rng.choice(samples, lists)]  # a list without vectors gets another centre
        sums_CD[used] = np.add.reduceat(sample_SD[by_list_S], starts, axis=0)
        centres_CD = Metric().unit(sums_CD)
    return centres_CD


def _nearest_centres(vectors_ND: np.ndarray, centres_CD: np.ndarray) -> np.ndarray:
    return (vectors_ND @ centres_CD.T).argmax(axis=1)


def _parts(count: int) -> Iterator[slice]:
    """Yield slices that cut a number of rows into blocks."""
    for start in range(0, count, _ROWS_PER_BLOCK):
        yield slice(start, min(start + _ROWS_PER_BLOCK, count))


def _measure(index: VectorIndex, vectors_ND: np.ndarray) -> dict[str, Any]:
    """Return the number of lists to search for the recall `RECALL`, and the recall of a sample of the vectors.

    The recall is the fraction of the 10 nearest neighbours by exact search that the index finds.
    """
    queries = np.unique(np.linspace(0, len(vectors_ND) - 1, _RECALL_QUERIES).astype(np.int64))
    queries_QD = vectors_ND[queries].astype(np.float32)
    k = min(_RECALL_NEIGHBOURS + 1, len(vectors_ND))  # a vector is its own neighbour
    exact = Ranking(len(queries), k)
    for part in _parts(len(vectors_ND)):
        exact.add(queries_QD @ vectors_ND[part].astype(np.float32).T, np.arange(part.start, part.stop))
    probes, recall = 1, 0.0
    while True:
        found = index.search_lists(queries_QD, k, probes)
        pairs = list(zip(exact.rows_QK.tolist(), found.rows_QK.tolist(), queries.tolist(), strict=True))
        hits = sum(len((set(best) & set(rows)) - {own}) for best, rows, own in pairs)
        recall = hits / max(1, sum(len(set(best) - {own}) for best, _, own in pairs))
        if recall >= RECALL or probes >= index.lists:
            return {"probes": probes, "recall": float(recall) if k > 1 else 1.0}
        probes = min(2 * probes, index.lists)


def _size_and_time(path: Path) -> tuple[int, int]:
    status = os.stat(path / MANIFEST if path.is_dir() else path)
    return status.st_size, status.st_mtime_ns


def _checksum(path: Path) -> str:
    """Return the checksum of a store; of a folder, that of its manifest, which has the checksums of the shards."""
    with open(path / MANIFEST if path.is_dir() else path, "rb") as file:
        return file_checksum(file)
