"""Embeddings on the disk: the writer of HDF5 files, with one dataset per accession, and the reader of all formats.

The datasets are not compressed. In a measurement, gzip saved 7 % of the size and made writing 35 times slower.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from prott5nv.embedding.pooled_files import EmbeddingFile, NpzFile, ParquetFile
from prott5nv.embedding.pooling import mean
from prott5nv.embedding.shard_folder import ShardFolder, is_shard_folder
from prott5nv.errors import ProtT5nvError
from prott5nv.io.hdf5 import Dataset, HDF5File
from prott5nv.io.hdf5_writing import new_hdf5_file
from prott5nv.io.parquet import is_parquet, parquet_columns
from prott5nv.io.record import protein_names
from prott5nv.io.source import refuse_spreadsheet, require_file

if TYPE_CHECKING:
    from prott5nv.embedding.search import Neighbour

_PROTEINS_PER_REQUEST = 200
_PROTEINS_PER_BLOCK = 1000


class StoredProtein(NamedTuple):
    """A protein to write to a file of embeddings.

    Attributes
    ----------
    key : str
        Name of the dataset: the accession.
    original_id : str
        First word of the FASTA header, unchanged.
    truncated_from : int or None
        Number of residues of the whole protein, if only its first residues were embedded.
    rows : ndarray, shape=(L, D) or (D,)
        The embedding.
    """

    key: str
    original_id: str
    truncated_from: int | None
    rows: np.ndarray


def write_embeddings(
    path: str | os.PathLike[str], proteins: Iterable[StoredProtein], attributes: Mapping[str, str]
) -> None:
    """Write an HDF5 file of embeddings.

    Parameters
    ----------
    path : str or PathLike
        File to write.
    proteins : iterable of StoredProtein
        Proteins with unique keys. Readers see them in this order.
    attributes : mapping
        Attributes of the whole file, such as model, precision and pooling.

    Raises
    ------
    OSError
        If the disk is full. The file at `path` is then incomplete.
    """
    with new_hdf5_file(path) as (file, check):
        file.attrs.update(attributes)
        for protein in proteins:
            dataset = file.create_dataset(protein.key, data=protein.rows)
            dataset.attrs.update(protein_attributes(protein.original_id, protein.truncated_from))
            check()


def protein_attributes(original_id: str, truncated_from: int | None) -> dict[str, str | int]:
    """Return the attributes of a protein's dataset, as in :class:`StoredProtein`."""
    return {"original_id": original_id} | ({} if truncated_from is None else {"truncated_from": truncated_from})


class EmbeddingStore(Mapping[str, np.ndarray]):
    """Embeddings in a file or folder, by accession. Each access reads one protein from the disk.

    A store can be pickled, for example for the worker processes of a ``DataLoader``. The copy opens the file again.

    The file may come from anyone: see :mod:`prott5nv.io.hdf5`.

    Parameters
    ----------
    path : str or PathLike
        A file that ``prott5nv embed`` wrote, a folder that ``prott5nv embed --ray`` wrote, or any HDF5 or uncompressed
        ``.npz`` file with one array per protein.

    Attributes
    ----------
    path : Path
        The file.
    attributes : dict
        Attributes of the whole file, such as ``model_sha256``, ``layer``, ``pooling``, ``dtype`` and ``precision``.

    Raises
    ------
    ProtT5nvError
        If the file does not exist, it is damaged, or it has parts that are not read from a stranger's file.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "store.h5"
    >>> rows = np.zeros((5, 64), dtype=np.float32)
    >>> write_embeddings(path, [StoredProtein("P69905", "sp|P69905|HBA_HUMAN", None, rows)], {"precision": "fp32"})
    >>> store = EmbeddingStore(path)
    >>> store["P69905"].shape, list(store), store.original_id("P69905"), store.attributes
    ((5, 64), ['P69905'], 'sp|P69905|HBA_HUMAN', {'precision': 'fp32'})
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = _open(self.path)
        self.attributes = self._file.attributes
        self._described: dict[str, Dataset | None] = {}  # the latest descriptions

    def __getitem__(self, accession: str) -> np.ndarray:
        return self._file.read(accession, self._dataset(accession))

    def __contains__(self, accession: object) -> bool:
        return isinstance(accession, str) and self._file.describe(accession)[0] is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def items(self) -> ItemsView[str, np.ndarray]:
        """Return pairs of accession and embedding in the order of the file, which are read one after the other."""
        return _Items(self)

    def blocks(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Read all proteins as vectors, many at once: rows per residue are averaged.

        Yields
        ------
        keys : list of str
            Accessions of N consecutive proteins of the file.
        vectors_ND : ndarray, shape=(N, D), dtype=float32
            Their pooled vectors, or the means of their rows.

        Raises
        ------
        ProtT5nvError
            If a dataset is not an embedding, has another hidden size than the first one, or contains NaN or infinity.
        """
        hidden_size: int | None = None
        for keys, vectors_ND in self._unchecked_blocks():
            hidden_size = vectors_ND.shape[1] if hidden_size is None else hidden_size
            if vectors_ND.shape[1] != hidden_size:
                raise self._wrong_shape(keys[0], vectors_ND.shape[1:])
            if not _is_finite(vectors_ND):
                raise self._not_finite(keys[int(np.isfinite(vectors_ND).all(axis=1).argmin())])
            yield keys, vectors_ND

    def stored_proteins(self, pooling: str | None, hidden_size: int | None = None) -> Iterator[StoredProtein]:
        """Read all proteins, to write them to another file.

        Parameters
        ----------
        pooling : str or None
            Name of the pooling; None or ``"none"`` for one row per residue.
        hidden_size : int, optional
            Size that all rows must have, D. The default is that of the first protein.

        Yields
        ------
        StoredProtein
            In the order of the file.

        Raises
        ------
        ProtT5nvError
            If a dataset is not an embedding, has another hidden size, or contains NaN or infinity.
        """
        ndim = 2 if pooling in (None, "none") else 1
        for key, rows in self.items():
            hidden_size = self._checked_size(key, rows, (ndim,), hidden_size)
            if not _is_finite(rows):
                raise self._not_finite(key)
            yield StoredProtein(key, self.original_id(key), self.truncated_from(key), rows)

    def nearest(
        self,
        queries: Iterable[str] | np.ndarray | EmbeddingStore,
        k: int = 10,
        *,
        whiten: bool = False,
        skip_self: bool = False,
    ) -> list[list[Neighbour]]:
        """Find the proteins with the most similar embeddings; see :mod:`prott5nv.embedding.search`.

        Parameters
        ----------
        queries : iterable of str, ndarray of shape (Q, D), or EmbeddingStore
            Accessions of proteins of this store, pooled vectors of the same model, or the proteins of another store.
        k : int, default 10
            Number of proteins to find for each query. There are fewer if the store has fewer.
        whiten : bool, default False
            Whether to subtract the mean of all vectors of the store first, and to make the variances of all directions
            equal. It needs a store of thousands of proteins.
        skip_self : bool, default False
            Whether to leave out the protein with the accession of the query.

        Returns
        -------
        list of list of Neighbour
            The neighbours of each query, the most similar one first.

        Raises
        ------
        ProtT5nvError
            If an accession is not in the store, the vectors have another size or another model, or a vector contains
            NaN or infinity.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "means.h5"
        >>> vectors = {"a": [1, 0], "b": [0.8, 0.6], "c": [0, 1]}
        >>> proteins = [StoredProtein(key, key, None, np.float32(vector)) for key, vector in vectors.items()]
        >>> write_embeddings(path, proteins, {"pooling": "mean"})
        >>> EmbeddingStore(path).nearest(["a"], k=2)
        [[Neighbour(accession='a', similarity=1.0), Neighbour(accession='b', similarity=0.8)]]
        """
        from prott5nv.embedding.search import nearest

        return nearest(self, queries, k, whiten=whiten, skip_self=skip_self)

    def original_id(self, accession: str) -> str:
        """Return the first word of the protein's FASTA header."""
        original_id = self._attribute(accession, "original_id", str)
        return accession if original_id is None else original_id

    def truncated_from(self, accession: str) -> int | None:
        """Return the number of residues of the whole protein if only its first residues were embedded, else None."""
        return self._attribute(accession, "truncated_from", int)

    def close(self) -> None:
        """Close the file. Arrays that were read stay valid."""
        self._file.close()

    def __enter__(self) -> EmbeddingStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[EmbeddingStore], tuple[Path]]:
        return EmbeddingStore, (self.path,)

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.path)!r}): {len(self)} proteins"

    def _unchecked_blocks(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield keys and vectors as :meth:`blocks`, of any hidden size and with any values."""
        read_blocks = self._file.blocks() if isinstance(self._file, ParquetFile | ShardFolder) else None
        if read_blocks is not None:
            for names, vectors_ND in read_blocks:
                for start in range(0, len(names), _PROTEINS_PER_BLOCK):
                    part = slice(start, start + _PROTEINS_PER_BLOCK)
                    yield names[part], _as_float32(vectors_ND[part])
            return
        keys: list[str] = []
        vectors: list[np.ndarray] = []
        for key, rows in self.items():
            self._checked_size(key, rows, (1, 2), len(vectors[0]) if vectors else None)
            keys.append(key)
            vectors.append(_as_float32(rows) if rows.ndim == 1 else mean(rows))
            if len(keys) == _PROTEINS_PER_REQUEST:  # so that the descriptions of a block are still known
                yield keys, np.stack(vectors)
                keys, vectors = [], []
        if keys:
            yield keys, np.stack(vectors)

    def _checked_size(self, key: str, rows: np.ndarray, ndims: tuple[int, ...], expected: int | None) -> int:
        """Return the hidden size of an embedding, which must be the expected one."""
        if rows.ndim not in ndims or not rows.size or expected not in (None, rows.shape[-1]):
            raise self._wrong_shape(key, rows.shape)
        return rows.shape[-1]

    def _not_finite(self, key: str) -> ProtT5nvError:
        return ProtT5nvError(f"{self.path}: {key} contains NaN or infinity")

    def _wrong_shape(self, key: str, shape: tuple[int, ...]) -> ProtT5nvError:
        return ProtT5nvError(f"{self.path}: {key} has the shape {shape}, which is not that of an embedding")

    @cached_property
    def _keys(self) -> list[str]:
        return self._file.names()

    def _describe(self, keys: list[str]) -> None:
        """Describe several proteins of the file with one request."""
        described = dict(zip(keys, self._file.describe(*keys), strict=True))
        if absent := [key for key, dataset in described.items() if dataset is None]:
            raise ProtT5nvError(f"{self.path}: damaged: it lists {absent[0][:100]!r}, which is not in it")
        self._described = described

    def _dataset(self, accession: str) -> Dataset:
        described = self._described
        if accession not in described:
            self._described = described = {accession: self._file.describe(accession)[0]}
        dataset = described[accession]
        if dataset is None:
            key = protein_names(accession)[0]
            hint = f"the key of such an id is {key!r}" if key != accession else "list(store) has the keys"
            raise KeyError(f"{self.path} has no protein {accession!r}; {hint}")
        return dataset

    def _attribute(self, accession: str, name: str, expected: type) -> Any:
        value = self._dataset(accession).attributes.get(name)
        if value is not None and type(value) is not expected:
            raise ProtT5nvError(
                f"{self.path}: {accession}: {name} is {str(value)[:40]!r}, which is not {expected.__name__}"
            )
        return value


def _as_float32(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # a number that is too large becomes infinity, which is refused later
        return vectors.astype(np.float32, copy=False)


def _is_finite(rows: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        total = rows.sum()  # faster than looking at each number; it can overflow
    return bool(np.isfinite(total) or np.isfinite(rows).all())


def is_store(path: str | os.PathLike[str]) -> bool:
    """Return whether a file or folder holds embeddings, by its first bytes and columns; it is not checked further."""
    if is_shard_folder(path) or is_parquet(path):
        return not is_parquet(path) or {"accession", "embedding"} <= set(parquet_columns(path))
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n" or zipfile.is_zipfile(path)


def _open(path: Path) -> EmbeddingFile:
    """Open a folder of shards, or a file in the format that its first bytes tell."""
    if is_shard_folder(path):
        return ShardFolder(path)
    require_file(path)
    refuse_spreadsheet(path)
    if is_parquet(path):
        return ParquetFile(path)
    if zipfile.is_zipfile(path):
        return NpzFile(path)
    return HDF5File(path)


class _Items(ItemsView[str, np.ndarray]):
    """Pairs of accession and embedding; the descriptions of many proteins are requested together."""

    def __init__(self, store: EmbeddingStore) -> None:
        super().__init__(store)
        self._store = store

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        keys = self._store._keys
        for start in range(0, len(keys), _PROTEINS_PER_REQUEST):
            batch = keys[start : start + _PROTEINS_PER_REQUEST]
            self._store._describe(batch)
            for key in batch:
                yield key, self._store[key]
