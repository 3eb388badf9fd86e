"""Readers of pooled vectors in ``.npz`` and ``.parquet`` files, with the methods of :class:`prott5nv.io.hdf5.HDF5File`.

A file can come from a stranger. No code from it is run, and what is read at once is limited by the size of the file.

Shapes: N proteins, D hidden size.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from prott5nv.errors import ProtT5nvError
from prott5nv.io.hdf5 import Dataset
from prott5nv.io.parquet import check_footer, check_parquet, pyarrow_parquet

_FORMAT = np.lib.format
_MOST_BYTES = 1 << 30  # of the vectors that are read from a Parquet file at once


class EmbeddingFile(Protocol):
    """What a store needs of an open file; see :class:`prott5nv.io.hdf5.HDF5File`."""

    attributes: dict[str, Any]

    def names(self) -> list[str]:
        """Return the keys of all proteins in their order."""
        ...

    def describe(self, *names: str) -> list[Dataset | None]:
        """Describe embeddings without reading them; None where there is no such key."""
        ...

    def read(self, name: str, dataset: Dataset) -> np.ndarray:
        """Read an embedding."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Convert the errors of zipfile, NumPy and pyarrow to an error message of one line."""
    try:
        yield
    except ProtT5nvError:
        raise
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "pyarrow":  # which may not be installed
            raise
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> ProtT5nvError:
    return ProtT5nvError(f"{path}: not a readable file of embeddings ({' '.join(str(error).split())})")


class NpzFile:
    """An ``.npz`` file with one uncompressed array per protein.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    attributes : dict
        Attributes of the whole file; empty if another program wrote it.

    Raises
    ------
    ProtT5nvError
        If the file is damaged, or an array is compressed or does not consist of plain numbers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _reported(self._path):
            self._archive = zipfile.ZipFile(path)
        self._names = [name.removesuffix(".npy") for name in self._archive.namelist()]
        self.attributes = self._attributes()

    def _attributes(self) -> dict[str, Any]:
        if not self._archive.comment:
            return {}
        with _reported(self._path):
            attributes = json.loads(self._archive.comment)
        if not isinstance(attributes, dict) or not all(isinstance(value, str) for value in attributes.values()):
            raise ProtT5nvError(f"{self._path}: not a file of embeddings (its attributes are not texts)")
        return attributes

    def names(self) -> list[str]:
        """Return the keys of all proteins in their order."""
        return self._names

    def describe(self, *names: str) -> list[Dataset | None]:
        """Describe embeddings without reading them; None where there is no such key."""
        return [self._describe(name) for name in names]

    def _describe(self, name: str) -> Dataset | None:
        try:
            member = self._archive.getinfo(f"{name}.npy")
        except KeyError:
            return None
        if member.compress_type != zipfile.ZIP_STORED:
            raise ProtT5nvError(
                f"{self._path}: {name} is compressed; write the file with prott5nv embed or numpy.savez"
            )
        with _reported(self._path), self._archive.open(member) as file:
            version = _FORMAT.read_magic(file)
            is_first = version == (1, 0)
            shape, _, dtype = (_FORMAT.read_array_header_1_0 if is_first else _FORMAT.read_array_header_2_0)(file)
            is_plain = dtype.kind in "fiu" and all(type(length) is int and length >= 0 for length in shape)
            if not is_plain or int(np.prod(shape, dtype=object)) * dtype.itemsize != member.file_size - file.tell():
                raise ProtT5nvError(f"{self._path}: {name} is not an array of plain numbers, or it is damaged")
        original_id, _, length = member.comment.decode(errors="replace").partition("\t")
        attributes: dict[str, Any] = {"original_id": original_id} if original_id else {}
        if re.fullmatch("[0-9]{1,18}", length):
            attributes["truncated_from"] = int(length)
        return Dataset(dtype, tuple(shape), None, attributes)

    def read(self, name: str, dataset: Dataset) -> np.ndarray:
        """Read an embedding."""
        with _reported(self._path), self._archive.open(f"{name}.npy") as file:
            return _FORMAT.read_array(file, allow_pickle=False)

    def close(self) -> None:
        """Close the file."""
        self._archive.close()


class ParquetFile:
    """A ``.parquet`` file with one row per protein, as ``prott5nv embed`` writes it.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    attributes : dict
        Attributes of the whole file.

    Raises
    ------
    ProtT5nvError
        If the file is damaged or has other columns, or pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        reader = pyarrow_parquet()
        from pyarrow import types

        with _reported(self._path):
            check_footer(path)
            self._file = reader.ParquetFile(path)
            schema = self._file.schema_arrow
            metadata = schema.metadata or {}
            self.attributes = {
                key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"
            }
        expected: dict[str, Callable[[Any], bool]] = {
            "accession": types.is_string,
            "original_id": types.is_string,
            "truncated_from": types.is_int64,
            "embedding": lambda kind: types.is_fixed_size_list(kind) and types.is_floating(kind.value_type),
        }
        for column, is_expected in expected.items():
            if column not in schema.names or not is_expected(schema.field(column).type):
                raise ProtT5nvError(f"{path}: not a file of embeddings (no column {column} of the expected type)")
        check_parquet(path, list(expected))
        layout = self._file.metadata
        groups = [layout.row_group(group) for group in range(layout.num_row_groups)]
        if layout.num_rows > os.path.getsize(path) or any(group.total_byte_size > _MOST_BYTES for group in groups):
            raise ProtT5nvError(f"{path}: not a file of embeddings (it declares more rows than it can hold)")
        # First row of each group, and the number of all rows.
        self._first = list(accumulate((group.num_rows for group in groups), initial=0))
        self._vectors: tuple[int, np.ndarray] | None = None  # the group that was read last

    @cached_property
    def _rows(self) -> dict[str, tuple[int, str, int | None]]:
        """Number of the row, original id and length of each truncated protein, by key."""
        with _reported(self._path):
            table = self._file.read(columns=["accession", "original_id", "truncated_from"]).to_pydict()
        keys = table["accession"]
        if None in keys or None in table["original_id"] or len(set(keys)) < len(keys):
            raise ProtT5nvError(f"{self._path}: not a file of embeddings (an accession is missing or occurs twice)")
        values = zip(range(len(keys)), table["original_id"], table["truncated_from"], strict=True)
        return dict(zip(keys, values, strict=True))

    def names(self) -> list[str]:
        """Return the keys of all proteins in their order."""
        return list(self._rows)

    def describe(self, *names: str) -> list[Dataset | None]:
        """Describe embeddings without reading them; None where there is no such key."""
        kind = self._file.schema_arrow.field("embedding").type
        dtype = np.dtype(kind.value_type.to_pandas_dtype())
        described: list[Dataset | None] = []
        for name in names:
            if name not in self._rows:
                described.append(None)
                continue
            _, original_id, truncated_from = self._rows[name]
            length = {} if truncated_from is None else {"truncated_from": truncated_from}
            described.append(Dataset(dtype, (kind.list_size,), None, {"original_id": original_id, **length}))
        return described

    def read(self, name: str, dataset: Dataset) -> np.ndarray:
        """Read an embedding."""
        row = self._rows[name][0]
        group = bisect_right(self._first, row) - 1
        vectors = self._vectors
        if vectors is None or vectors[0] != group:
            self._vectors = vectors = group, self._read_group(group, dataset)
        return vectors[1][row - self._first[group]].copy()

    def _read_group(self, group: int, dataset: Dataset) -> np.ndarray:
        """Read the vectors of a row group: ndarray, shape=(N, D)."""
        with _reported(self._path):
            column = self._file.read_row_group(group, columns=["embedding"]).column("embedding").combine_chunks()
            if column.null_count or column.flatten().null_count:
                raise ProtT5nvError(f"{self._path}: not a file of embeddings (numbers are missing)")
            return column.flatten().to_numpy().reshape(-1, *dataset.shape)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
