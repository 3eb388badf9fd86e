"""Embeddings on disk: HDF5 with one dataset per accession, as UniProt's own files have, and a lazy reader.

Without compression: gzip made writing 35 times slower for 7 % of the size.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from prott5nv.errors import ProtT5nvError

_METADATA_BYTES = 1 << 20


class StoredProtein(NamedTuple):
    """One dataset to be.

    Attributes
    ----------
    key : str
        The dataset's name, the accession.
    original_id : str
        The whole first word of the header.
    truncated_from : int or None
        Residues of the whole protein, where only a part of it was embedded.
    rows : ndarray, shape=(L, D) or (D,)
    """

    key: str
    original_id: str
    truncated_from: int | None
    rows: np.ndarray


def write_embeddings(path: str | os.PathLike, proteins: Iterable[StoredProtein], attributes: Mapping[str, str]) -> None:
    """Write a whole file.

    Parameters
    ----------
    path : str or PathLike
    proteins : iterable of StoredProtein
        In the order that readers will see; keys are unique.
    attributes : mapping
        What holds for the whole file: model, precision, pooling ...

    Raises
    ------
    OSError
        If the disk is full; what stands at `path` is then not to be used.
    """
    # track_order: readers see the order of the input, not of the alphabet.
    with h5py.File(path, "w", track_order=True) as file:
        _bound_metadata(file)
        file.attrs.update(attributes)
        for protein in proteins:
            dataset = file.create_dataset(protein.key, data=protein.rows)
            dataset.attrs["original_id"] = protein.original_id
            if protein.truncated_from is not None:
                dataset.attrs["truncated_from"] = protein.truncated_from


def _bound_metadata(file: h5py.File) -> None:
    """HDF5 would let its cache of names and headers grow with their number."""
    cache = file.id.get_mdc_config()
    cache.set_initial_size = True
    cache.initial_size = cache.min_size = cache.max_size = _METADATA_BYTES
    cache.incr_mode = cache.flash_incr_mode = cache.decr_mode = 0
    file.id.set_mdc_config(cache)


class EmbeddingStore(Mapping):
    """Read embeddings by accession; nothing is loaded until it is asked for.

    Parameters
    ----------
    path : str or PathLike
        What ``prott5nv embed`` wrote, or any HDF5 file with one dataset per protein.

    Attributes
    ----------
    attributes : dict
        What holds for the whole file: ``model_sha256``, ``layer``, ``pooling``, ``dtype``, ``precision`` ...

    Raises
    ------
    ProtT5nvError
        If there is no such file or it is not HDF5.

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

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise ProtT5nvError(f"{path}: there is no such file")
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise ProtT5nvError(f"{path}: not a readable HDF5 file ({error})") from None
        self.attributes = dict(self._file.attrs)

    def __getitem__(self, accession: str) -> np.ndarray:
        return self._dataset(accession)[()]

    def __contains__(self, accession: object) -> bool:
        return accession in self._file

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)

    def original_id(self, accession: str) -> str:
        """The whole first word of the protein's header."""
        return self._dataset(accession).attrs.get("original_id", accession)

    def truncated_from(self, accession: str) -> int | None:
        """Residues of the whole protein, where only its beginning was embedded."""
        length = self._dataset(accession).attrs.get("truncated_from")
        return None if length is None else int(length)

    def close(self) -> None:
        """Close the file; arrays already read stay valid."""
        self._file.close()

    def __enter__(self) -> EmbeddingStore:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.path)!r}): {len(self)} proteins"

    def _dataset(self, accession: str) -> h5py.Dataset:
        try:
            return self._file[accession]
        except KeyError:
            raise KeyError(f"{self.path} has no protein {accession!r}; keys are accessions, such as P69905") from None
