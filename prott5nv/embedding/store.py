"""Embeddings on the disk: the writer of HDF5 files, with one dataset per accession, and the reader of all formats.

The datasets are not compressed. In a measurement, gzip saved 7 % of the size and made writing 35 times slower.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prott5nv.embedding.pooled_files import EmbeddingFile, NpzFile, ParquetFile
from prott5nv.embedding.shard_folder import ShardFolder, is_shard_folder
from prott5nv.errors import ProtT5nvError
from prott5nv.io.hdf5 import Dataset, HDF5File
from prott5nv.io.hdf5_writing import new_hdf5_file
from prott5nv.io.parquet import is_parquet
from prott5nv.io.source import require_file

_PROTEINS_PER_REQUEST = 200


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
            raise KeyError(f"{self.path} has no protein {accession!r}; keys are accessions, such as P69905")
        return dataset

    def _attribute(self, accession: str, name: str, expected: type) -> Any:
        value = self._dataset(accession).attributes.get(name)
        if value is not None and type(value) is not expected:
            raise ProtT5nvError(
                f"{self.path}: {accession}: {name} is {str(value)[:40]!r}, which is not {expected.__name__}"
            )
        return value


def _open(path: Path) -> EmbeddingFile:
    """Open a folder of shards, or a file in the format that its first bytes tell."""
    if is_shard_folder(path):
        return ShardFolder(path)
    require_file(path)
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
