"""Reader of Parquet tables with one protein per row."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from prott5nv.errors import ProtT5nvError
from prott5nv.extras import require_extra
from prott5nv.io.delimited import ID_COLUMNS, SEQUENCE_COLUMNS, checked_id, find_column
from prott5nv.io.guarded import start_guarded
from prott5nv.io.record import Record

_ROWS_PER_BATCH = 10_000
_MAX_FOOTER = 1 << 24  # bytes; Apache Arrow needs about 40 times as much to parse it
_PROGRAM = Path(__file__).with_name("parquet_process.py")
_DAMAGED = "Apache Arrow crashes on it, or needs too much time or memory"


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
    pyarrow_parquet()
    from pyarrow import ArrowException

    row = 0
    try:
        check_footer(path)
        with open_parquet(path) as file:
            names = file.schema_arrow.names
        id_name = names[find_column(names, id_column, ID_COLUMNS, "id", str(path))]
        sequence_name = names[find_column(names, sequence_column, SEQUENCE_COLUMNS, "sequence", str(path))]
        check_parquet(path, [id_name, sequence_name])
        for batch in batches(path, [id_name, sequence_name]):
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


def parquet_columns(path: str | os.PathLike) -> list[str]:
    """Return the names of the columns of a Parquet file; none if its footer cannot be read.

    Parameters
    ----------
    path : str or PathLike

    Returns
    -------
    list of str
    """
    pyarrow_parquet()
    from pyarrow import ArrowException

    check_footer(path)
    try:
        with open_parquet(path) as file:
            return file.schema_arrow.names
    except (ArrowException, OSError):
        return []


def check_footer(path: str | os.PathLike) -> None:
    """Refuse a file whose footer, which describes its columns, is too large to be parsed.

    Parameters
    ----------
    path : str or PathLike
        A Parquet file.

    Raises
    ------
    ProtT5nvError
        If the footer is too large.
    """
    length = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(max(0, length - 8))
        size = int.from_bytes(file.read(4), "little")
    if _MAX_FOOTER < size < length:  # Arrow refuses a larger one without parsing it
        raise ProtT5nvError(f"{path}: the footer has {size:,} bytes; at most {_MAX_FOOTER:,} are read")


def check_parquet(path: str | os.PathLike, columns: Sequence[str]) -> None:
    """Refuse a file that makes Apache Arrow crash, hang or use much memory.

    Another process reads the file first, with limits on time and memory. A file that was checked is not read again.

    Parameters
    ----------
    path : str or PathLike
        File to check.
    columns : sequence of str
        Names of the columns to read.

    Raises
    ------
    ProtT5nvError
        If the file is damaged or hostile.
    """
    status = os.stat(path)
    fault = _find_fault(os.path.abspath(path), (status.st_ino, status.st_size, status.st_mtime_ns), tuple(columns))
    if fault is not None:
        raise ProtT5nvError(f"{path}: not a readable Parquet file ({fault})")


@lru_cache(maxsize=64)
def _find_fault(path: str, identity: tuple[int, ...], columns: tuple[str, ...]) -> str | None:
    environment = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    with start_guarded(_PROGRAM, path, *columns, environment=environment) as process:
        try:
            answer = process.communicate()[0].decode(errors="replace").strip()
        except BaseException:
            process.kill()
            raise
    return None if answer == "sound" else answer or _DAMAGED


def open_parquet(path: str | os.PathLike, **options: Any) -> Any:
    """Open a file as ``pyarrow.parquet.ParquetFile``, which itself opens no path that is not UTF-8.

    Parameters
    ----------
    path : str or PathLike
        The file.
    **options : Any
        Options of ``ParquetFile``.

    Returns
    -------
    pyarrow.parquet.ParquetFile
    """
    reader = pyarrow_parquet()
    from pyarrow import OSFile

    return reader.ParquetFile(OSFile(os.fsencode(path)), **options)


def batches(path: str | os.PathLike, columns: Sequence[str]) -> Iterator[Any]:
    """Stream columns of a file as ``pyarrow.RecordBatch`` objects."""
    with open_parquet(path) as file:
        shared = [name for name in columns if _is_text(file.schema_arrow.field(name).type)]
    # A text that many rows share is held once. Otherwise a small file could fill the memory.
    with open_parquet(path, read_dictionary=shared, page_checksum_verification=True) as file:
        yield from file.iter_batches(_ROWS_PER_BATCH, columns=list(columns), use_threads=False)


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
