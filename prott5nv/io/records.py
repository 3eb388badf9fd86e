"""Records: a protein's name and letters, streamed from whatever kind of text file holds them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from prott5nv.io.source import broken_off, is_parquet, open_source, source_name


class Record(NamedTuple):
    """One protein as its file gives it.

    Attributes
    ----------
    id : str
        The first word of the FASTA header, or the CSV file's id column.
    sequence : str
        The letters, unchanged: case, gaps and unknown letters are the tokenizer's business.
    description : str
        The whole FASTA header without its ``>``; the id for CSV.
    line : int
        The line of the file on which the record begins, counted from 1.
    """

    id: str
    sequence: str
    description: str
    line: int


def accession(record_id: str) -> str:
    """Return the accession within a UniProt identifier; any other identifier is returned unchanged.

    >>> accession("sp|P69905|HBA_HUMAN"), accession("UniRef50_A0A007")
    ('P69905', 'UniRef50_A0A007')
    """
    database, _, rest = record_id.partition("|")
    if database in ("sp", "tr") and rest:
        return rest.partition("|")[0] or record_id
    return record_id


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
        The columns of a table, where their names are not among the usual ones (see `prott5nv.io.csv`).
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
    >>> from prott5nv.io.records import read_records
    >>> next(read_records("examples/proteins.fasta")).id
    'sp|P69905|HBA_HUMAN'
    """
    # These two modules make Records, so they can only be imported once this one is complete.
    from prott5nv.io.csv import parse_csv
    from prott5nv.io.fasta import parse_fasta

    name = source_name(path)
    if is_parquet(path):
        from prott5nv.io.parquet import read_parquet

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


def until_break(records: Iterator[Record], name: str) -> Iterator[Record]:
    """Stream records; if gzip data break off, say after which of them."""
    record = None
    try:
        for record in records:
            yield record
    except EOFError:
        raise broken_off(name, f" after line {record.line}, record {record.id}" if record else "") from None
