"""Reader of Parquet tables with one protein per row."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from prott5nv.errors import ProtT5nvError
from prott5nv.extras import require_extra
from prott5nv.io.delimited import ID_COLUMNS, SEQUENCE_COLUMNS, checked_id, find_column
from prott5nv.io.record import Record

_ROWS_PER_BATCH = 10_000
_MAX_RATIO = 1000
_RATIO_FREE_BYTES = 1 << 26


def read_parquet(
    path: str | os.PathLike, *, id_column: str | None = None, sequence_column: str | None = None
) -> Iterator[Record]:
    """Stream the proteins of a Parquet file.

    Parameters
    ----------
    path : str or PathLike
        File to read.
    id_column, sequence_column : str, optional
        Names of the columns to read. By default these are the first usual names that the table has, as in
        :mod:`prott5nv.io.delimited`.

    Yields
    ------
    Record
        One record at a time, in the order of the file. Its `line` is the row, counted from 1. Its sequence may be
        empty.

    Raises
    ------
    ProtT5nvError
        If pyarrow is not installed, the file is damaged, a column is missing, a row has no id, or a value is not text.
        An integer or bytes in UTF-8 can be an id; a floating-point number cannot, because it may have been rounded.
    """
    reader = pyarrow_parquet()
    from pyarrow import ArrowException

    row = 0
    try:
        with reader.ParquetFile(path) as file:
            names = file.schema_arrow.names
            id_name = names[find_column(names, id_column, ID_COLUMNS, "id", str(path))]
            sequence_name = names[find_column(names, sequence_column, SEQUENCE_COLUMNS, "sequence", str(path))]
            _check_sizes(file.metadata, str(path))
            shared = [name for name in (id_name, sequence_name) if _is_text(file.schema_arrow.field(name).type)]
        # A text that many rows share is held once. Otherwise a small file could fill the memory.
        with reader.ParquetFile(path, read_dictionary=shared, page_checksum_verification=True) as file:
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=[id_name, sequence_name]):
                columns = _values(batch.column(id_name)), _values(batch.column(sequence_name))
                for id_value, sequence_value in zip(*columns, strict=True):
                    row += 1
                    where = f"{path}: row {row}"
                    is_number = isinstance(id_value, int) and not isinstance(id_value, bool)
                    record_id = checked_id(str(id_value) if is_number else _text(id_value, f"{where}: the id"), where)
                    sequence = _text(sequence_value, f"{where}: the sequence of {record_id}").strip()
                    yield Record(record_id, sequence, record_id, row)
    except (ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        raise ProtT5nvError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())[:200]})") from None
    if not row:
        raise ProtT5nvError(f"{path}: the table has no rows")


def _check_sizes(metadata: Any, name: str) -> None:
    """Refuse a file that unpacks to far more than any table of proteins."""
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            unpacked, packed = chunk.total_uncompressed_size, chunk.total_compressed_size
            if unpacked > max(_RATIO_FREE_BYTES, _MAX_RATIO * packed):
                raise ProtT5nvError(f"{name}: {packed:,} bytes of column {column + 1} unpack to {unpacked:,}")


def _is_text(kind: Any) -> bool:
    """Return whether a column holds texts or bytes."""
    from pyarrow import types

    return any(test(kind) for test in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary))


def _values(column: Any) -> list[object]:
    """Return the values of a column, in which equal texts of a dictionary are one object."""
    if not hasattr(column, "dictionary"):
        return list(column.to_pylist())
    indices = column.indices.unique().drop_null()
    text_of_index = dict(zip(indices.to_pylist(), column.dictionary.take(indices).to_pylist(), strict=True))
    return [text_of_index.get(index) for index in column.indices.to_pylist()]


def _text(value: object, what: str) -> str:
    """Return a text, or bytes as text; a missing value is empty. `what` names the value in error messages."""
    if value is None or value != value:  # NaN is not equal to itself
        return ""
    try:
        if isinstance(value, bytes):
            return value.decode()
    except UnicodeDecodeError:
        raise ProtT5nvError(f"{what} is not UTF-8 text") from None
    if not isinstance(value, str):
        raise ProtT5nvError(f"{what} is {value!r:.40}, not text")
    return value


def is_parquet(path: str | os.PathLike) -> bool:
    """Return whether a file begins with Parquet's signature.

    Standard input and pipes are never Parquet, because that format cannot be read as a stream. Nothing is read of them.
    """
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False


def pyarrow_parquet() -> ModuleType:
    """Return the module ``pyarrow.parquet``.

    Raises
    ------
    ProtT5nvError
        If pyarrow is not installed.
    """
    require_extra("parquet", "Parquet")
    import pyarrow.parquet

    return pyarrow.parquet
