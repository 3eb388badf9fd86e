"""Reading of protein files in any supported format: FASTA, CSV, TSV and Parquet."""

from __future__ import annotations

import os
from collections.abc import Iterator

from prott5nv.io.delimited import parse_csv
from prott5nv.io.fasta import parse_fasta
from prott5nv.io.parquet import is_parquet, read_parquet
from prott5nv.io.record import Record
from prott5nv.io.source import name_truncation, open_source, source_name


def read_records(
    path: str | os.PathLike,
    *,
    id_column: str | None = None,
    sequence_column: str | None = None,
    allow_empty: bool = False,
    allow_non_ascii: bool = False,
) -> Iterator[Record]:
    """Stream the proteins of a FASTA, CSV, TSV or Parquet file. All but Parquet may be compressed with gzip.

    The format is detected from the content, not from the file name. A text file that begins with ``>`` is FASTA, and
    one whose first line has commas or tabs is a table.

    Parameters
    ----------
    path : str or PathLike
        File to read, or ``-`` for standard input.
    id_column, sequence_column : str, optional
        Names of the columns to read, for tables without the usual column names (see :mod:`prott5nv.io.delimited`).
    allow_empty : bool, default False
        Whether to yield records without a sequence. By default they are an error.
    allow_non_ascii : bool, default False
        Whether to yield sequences with non-ASCII characters. By default they are an error.

    Yields
    ------
    Record
        One record at a time, in the order of the file. Memory does not grow with the file.

    Raises
    ------
    ProtT5nvError
        If the file cannot be read, has no records, or has a malformed record. The message names file, line and id.

    Examples
    --------
    >>> from prott5nv.io.reader import read_records
    >>> next(read_records("examples/proteins.fasta")).id
    'sp|P69905|HBA_HUMAN'
    """
    name = source_name(path)
    if is_parquet(path):
        yield from read_parquet(path, id_column=id_column, sequence_column=sequence_column, allow_empty=allow_empty)
        return
    with open_source(path) as stream:
        beginning = stream.peek().removeprefix(b"\xef\xbb\xbf").lstrip()
        first_line = beginning.partition(b"\n")[0]
        if not first_line.startswith(b">") and (b"," in first_line or b"\t" in first_line):
            records = parse_csv(
                stream,
                name,
                id_column=id_column,
                sequence_column=sequence_column,
                allow_empty=allow_empty,
                allow_non_ascii=allow_non_ascii,
            )
        else:
            records = parse_fasta(stream, name, allow_empty=allow_empty, allow_non_ascii=allow_non_ascii)
        yield from name_truncation(records, name)
