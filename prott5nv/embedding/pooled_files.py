"""Readers of ``.npz`` and ``.parquet`` files, with the methods of :class:`prott5nv.io.hdf5.HDF5File`.

Both formats hold pooled vectors. A Parquet file that is a shard can also hold one row per residue; see
:func:`parquet_fields`. A file can come from a stranger. No code from it is run, and what is read at once is limited by
the size of the file.

Shapes: N proteins, L residues of a protein, D hidden size.
"""

from __future__ import annotations

import os
import re
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from prott5nv.embedding.formats import DTYPES
from prott5nv.errors import ProtT5nvError
from prott5nv.io.hdf5 import Dataset
from prott5nv.io.parquet import check_footer, check_parquet, open_parquet, pyarrow_parquet
from prott5nv.io.text import parse_json

_FORMAT = np.lib.format
_MOST_BYTES = 1 << 30  # of the vectors that are read from a Parquet file at once
_DTYPE, _COLUMNS = "dtype", "columns"  # metadata of a column of bytes


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
            attributes = parse_json(self._archive.comment)
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


def parquet_fields(pooling: str, dtype: str, hidden_size: int) -> list[Any]:
    """Return the columns of a Parquet file of embeddings.

    Arrow needs 20 times as long to write rows per residue as nested lists than as bytes, so a protein of L residues is
    one value of bytes: the numbers of an array of shape (L, D), row by row, in little-endian byte order.

    Parameters
    ----------
    pooling : str
        Name of the pooling; ``"none"`` for one row per residue.
    dtype : str
        Data type of the embeddings.
    hidden_size : int

    Returns
    -------
    list of pyarrow.Field
    """
    pyarrow_parquet()
    import pyarrow

    fields = [
        pyarrow.field("accession", pyarrow.string()),
        pyarrow.field("original_id", pyarrow.string()),
        pyarrow.field("truncated_from", pyarrow.int64()),
    ]
    if pooling == "none":
        layout = {_DTYPE: dtype, _COLUMNS: str(hidden_size)}
        return [
            *fields,
            pyarrow.field("residues", pyarrow.int64()),
            pyarrow.field("embedding", pyarrow.binary(), metadata=layout),
        ]
    number = pyarrow.float16() if dtype == "float16" else pyarrow.float32()
    return [*fields, pyarrow.field("embedding", pyarrow.list_(number, hidden_size))]


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
        with _reported(self._path):
            check_footer(path)
            with open_parquet(path) as file:
                schema = file.schema_arrow
            metadata = schema.metadata or {}
            self.attributes = {
                key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"
            }
        self._dtype, self._hidden_size, self._is_pooled = _layout(path, schema)
        self._described = ["accession", "original_id", "truncated_from", *([] if self._is_pooled else ["residues"])]
        check_parquet(path, [*self._described, "embedding"])
        with _reported(self._path):
            # Bytes that many rows share are held once. Otherwise a small file could fill the memory.
            self._file = open_parquet(path, read_dictionary=None if self._is_pooled else ["embedding"])
        layout = self._file.metadata
        groups = [layout.row_group(group) for group in range(layout.num_row_groups)]
        if layout.num_rows > os.path.getsize(path) or any(group.total_byte_size > _MOST_BYTES for group in groups):
            raise ProtT5nvError(f"{path}: not a file of embeddings (it declares more rows than it can hold)")
        # First row of each group, and the number of all rows.
        self._first = list(accumulate((group.num_rows for group in groups), initial=0))
        self._group: tuple[int, Any] | None = None  # the group that was read last

    @cached_property
    def _rows(self) -> dict[str, _Row]:
        """Position and description of each protein, by key."""
        with _reported(self._path):
            table = self._file.read(columns=self._described).to_pydict()
        keys = table["accession"]
        residues = table.get("residues", [0] * len(keys))
        if None in keys or None in table["original_id"] or len(set(keys)) < len(keys):
            raise ProtT5nvError(f"{self._path}: not a file of embeddings (an accession is missing or occurs twice)")
        if None in residues or min(residues, default=0) < 0:
            raise ProtT5nvError(f"{self._path}: not a file of embeddings (a number of residues is missing or negative)")
        values = zip(range(len(keys)), table["original_id"], table["truncated_from"], residues, strict=True)
        return {key: _Row(*value) for key, value in zip(keys, values, strict=True)}

    def names(self) -> list[str]:
        """Return the keys of all proteins in their order."""
        return list(self._rows)

    def describe(self, *names: str) -> list[Dataset | None]:
        """Describe embeddings without reading them; None where there is no such key."""
        described: list[Dataset | None] = []
        for name in names:
            if name not in self._rows:
                described.append(None)
                continue
            row = self._rows[name]
            length = {} if row.truncated_from is None else {"truncated_from": row.truncated_from}
            shape = (self._hidden_size,) if self._is_pooled else (row.residues, self._hidden_size)
            described.append(Dataset(self._dtype, shape, None, {"original_id": row.original_id, **length}))
        return described

    def read(self, name: str, dataset: Dataset) -> np.ndarray:
        """Read an embedding."""
        row = self._rows[name].number
        group = bisect_right(self._first, row) - 1
        if self._group is None or self._group[0] != group:
            self._group = group, self._read_group(group)
        content = self._group[1]
        number = row - self._first[group]
        if self._is_pooled:
            return content[number].copy()
        value = content.dictionary[content.indices[number].as_py()].as_buffer()
        if value.size != np.prod(dataset.shape, dtype=object) * self._dtype.itemsize:
            raise ProtT5nvError(
                f"{self._path}: {name} has {value.size:,} bytes, which are not its {dataset.shape} numbers"
            )
        return np.frombuffer(value, dtype=self._dtype).reshape(dataset.shape).copy()

    def blocks(self) -> Iterator[tuple[list[str], np.ndarray]] | None:
        """Return an iterator over keys and pooled vectors, of shape (N, D), of many proteins at once.

        None stands for a file of rows per residue, whose proteins are read one by one.
        """
        return self._groups() if self._is_pooled else None

    def _groups(self) -> Iterator[tuple[list[str], np.ndarray]]:
        names = self.names()
        for group, (start, end) in enumerate(pairwise(self._first)):
            yield names[start:end], self._read_group(group)

    def _read_group(self, group: int) -> Any:
        """Read the embeddings of a row group: ndarray, shape=(N, D), or a ``pyarrow.DictionaryArray`` of bytes."""
        with _reported(self._path):
            column = self._file.read_row_group(group, columns=["embedding"]).column("embedding").combine_chunks()
            if column.null_count or (self._is_pooled and column.flatten().null_count):
                raise ProtT5nvError(f"{self._path}: not a file of embeddings (numbers are missing)")
            return column.flatten().to_numpy().reshape(-1, self._hidden_size) if self._is_pooled else column

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Row(NamedTuple):
    number: int
    original_id: str
    truncated_from: int | None
    residues: int


def _layout(path: Path, schema: Any) -> tuple[np.dtype, int, bool]:
    """Check the columns of a file; return data type and hidden size of its embeddings, and whether they are pooled."""
    from pyarrow import types

    expected: dict[str, Callable[[Any], bool]] = {
        "accession": types.is_string,
        "original_id": types.is_string,
        "truncated_from": types.is_int64,
        "embedding": lambda kind: (
            types.is_binary(kind) or (types.is_fixed_size_list(kind) and types.is_floating(kind.value_type))
        ),
    }
    is_bytes = "embedding" in schema.names and types.is_binary(schema.field("embedding").type)
    if is_bytes:
        expected["residues"] = types.is_int64
    for column, is_expected in expected.items():
        if column not in schema.names or not is_expected(schema.field(column).type):
            raise ProtT5nvError(f"{path}: not a file of embeddings (no column {column} of the expected type)")
    field = schema.field("embedding")
    if not is_bytes:
        return np.dtype(field.type.value_type.to_pandas_dtype()), field.type.list_size, True
    metadata = field.metadata or {}
    dtype, columns = (metadata.get(key.encode(), b"").decode(errors="replace") for key in (_DTYPE, _COLUMNS))
    if dtype not in DTYPES or not re.fullmatch("[1-9][0-9]{0,8}", columns):
        raise ProtT5nvError(f"{path}: not a file of embeddings (the shape of the embeddings is missing)")
    return np.dtype(dtype), int(columns), False
