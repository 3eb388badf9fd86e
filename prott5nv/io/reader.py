"""One function that reads every kind of protein file: FASTA, CSV, TSV and Parquet."""

from __future__ import annotations

import os
from collections.abc import Iterator

from prott5nv.io.delimited import parse_csv
from prott5nv.io.fasta import parse_fasta
from prott5nv.io.parquet import is_parquet, read_parquet
from prott5nv.io.record import Record
from prott5nv.io.source import open_source, source_name, until_break


def read_records(
    path: str | os.PathLike,
    *,
    id_column: str | None = None,
    sequence_column: str | None = None,
    allow_empty: bool = False,
    allow_non_ascii: bool = False,
) -> Iterator[Record]:
    """Stream the proteins of a FASTA, CSV or TSV file, gzipped or not, or of a Parquet file.

    The content decides: a file whose first character is ``>`` is FASTA, one whose first line has commas or tabs is a
    table.

    Parameters
    ----------
    path : str or PathLike
        The file, or ``-`` for standard input.
    id_column, sequence_column : str, optional
        The columns of a table, where their names are not among the usual ones (see `prott5nv.io.delimited`).
    allow_empty : bool, default False
        Yield records without a sequence, instead of refusing the file.
    allow_non_ascii : bool, default False
        Yield sequences with characters that no protein alphabet has, instead of refusing the file.

    Yields
    ------
    Record
        In the order of the file, one at a time: memory does not grow with the file.

    Raises
    ------
    ProtT5nvError
        The file cannot be read, holds no records, or one of them is malformed; the message names file, line and id.

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
    allowed = {"allow_empty": allow_empty, "allow_non_ascii": allow_non_ascii}
    with open_source(path) as stream:
        beginning = stream.peek().removeprefix(b"\xef\xbb\xbf").lstrip()
        first_line = beginning.partition(b"\n")[0]
        if not first_line.startswith(b">") and (b"," in first_line or b"\t" in first_line):
            columns = {"id_column": id_column, "sequence_column": sequence_column}
            records = parse_csv(stream, name, **columns, **allowed)
        else:
            records = parse_fasta(stream, name, **allowed)
        yield from until_break(records, name)
