"""The HDF5 file of embeddings: one dataset per protein, named by its accession, as in UniProt's own files.

The datasets are not compressed. In a measurement, gzip saved 7 % of the size and made writing 35 times slower.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from prott5nv.errors import ProtT5nvError
from prott5nv.io.source import require_file

_METADATA_BYTES = 1 << 20


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
    # Without track_order, readers would see the proteins in alphabetical order.
    with h5py.File(path, "w", track_order=True) as file:
        _limit_metadata_cache(file)
        file.attrs.update(attributes)
        for protein in proteins:
            dataset = file.create_dataset(protein.key, data=protein.rows)
            dataset.attrs["original_id"] = protein.original_id
            if protein.truncated_from is not None:
                dataset.attrs["truncated_from"] = protein.truncated_from


def _limit_metadata_cache(file: h5py.File) -> None:
    """Give HDF5's cache of names and headers a fixed size; by default it grows with the number of datasets."""
    cache = file.id.get_mdc_config()
    cache.set_initial_size = True
    cache.initial_size = cache.min_size = cache.max_size = _METADATA_BYTES
    cache.incr_mode = cache.flash_incr_mode = cache.decr_mode = 0
    file.id.set_mdc_config(cache)


class EmbeddingStore(Mapping[str, np.ndarray]):
    """Embeddings in an HDF5 file, by accession. Each access reads one protein from the disk.

    Parameters
    ----------
    path : str or PathLike
        A file that ``prott5nv embed`` wrote, or any HDF5 file with one dataset per protein.

    Attributes
    ----------
    path : Path
        The file.
    attributes : dict
        Attributes of the whole file, such as ``model_sha256``, ``layer``, ``pooling``, ``dtype`` and ``precision``.

    Raises
    ------
    ProtT5nvError
        If the file does not exist, or it is not an HDF5 file.

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
        require_file(path)
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
        """Return the first word of the protein's FASTA header."""
        return self._dataset(accession).attrs.get("original_id", accession)

    def truncated_from(self, accession: str) -> int | None:
        """Return the number of residues of the whole protein if only its first residues were embedded, else None."""
        length = self._dataset(accession).attrs.get("truncated_from")
        return None if length is None else int(length)

    def close(self) -> None:
        """Close the file. Arrays that were read stay valid."""
        self._file.close()

    def __enter__(self) -> EmbeddingStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.path)!r}): {len(self)} proteins"

    def _dataset(self, accession: str) -> h5py.Dataset:
        try:
            return self._file[accession]
        except KeyError:
            raise KeyError(f"{self.path} has no protein {accession!r}; keys are accessions, such as P69905") from None
