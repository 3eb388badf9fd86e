"""Reader of Parquet tables with one protein per row."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType

from prott5nv.errors import ProtT5nvError
from prott5nv.io.delimited import ID_COLUMNS, SEQUENCE_COLUMNS, find_column
from prott5nv.io.record import Record


def read_parquet(
    path: str | os.PathLike,
    *,
    id_column: str | None = None,
    sequence_column: str | None = None,
    allow_empty: bool = False,
) -> Iterator[Record]:
    """Stream the proteins of a Parquet file.

    Parameters
    ----------
    path : str or PathLike
        File to read.
    id_column, sequence_column : str, optional
        Names of the columns to read. By default these are the first usual names that the table has, as in
        :mod:`prott5nv.io.delimited`.
    allow_empty : bool, default False
        Whether to yield records without a sequence. By default they are an error.

    Yields
    ------
    Record
        One record at a time, in the order of the file. Its `line` is the row, counted from 1.

    Raises
    ------
    ProtT5nvError
        If pyarrow is not installed, the file is damaged, a column is missing, or a row has no id or no sequence.
    """
    reader = pyarrow_parquet()
    from pyarrow import ArrowException

    row = 0
    try:
        with reader.ParquetFile(path) as file:
            names = file.schema_arrow.names
            id_name = names[find_column(names, id_column, ID_COLUMNS, "id", str(path))]
            sequence_name = names[find_column(names, sequence_column, SEQUENCE_COLUMNS, "sequence", str(path))]
            for batch in file.iter_batches(1000, columns=[id_name, sequence_name]):
                columns = batch.column(id_name).to_pylist(), batch.column(sequence_name).to_pylist()
                for record_id, sequence in zip(*columns, strict=True):
                    row += 1
                    record_id = "" if record_id is None else str(record_id).strip()
                    sequence = "" if sequence is None else str(sequence).strip()
                    if not record_id:
                        raise ProtT5nvError(f"{path}: row {row}: the id is empty")
                    if not sequence and not allow_empty:
                        raise ProtT5nvError(f"{path}: row {row}: record {record_id} has no sequence")
                    yield Record(record_id, sequence, record_id, row)
    except (ArrowException, OSError) as error:
        raise ProtT5nvError(f"{path}: not a readable Parquet file ({error})") from None
    if not row:
        raise ProtT5nvError(f"{path}: the table has no rows")


def is_parquet(path: str | os.PathLike) -> bool:
    """Return whether a file begins with Parquet's signature.

    Standard input (``-``) is never Parquet, because that format cannot be read as a stream.
    """
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
    try:
        import pyarrow.parquet
    except ImportError:
        raise ProtT5nvError("Parquet needs pyarrow: pip install 'prott5nv[parquet]'") from None
    return pyarrow.parquet
