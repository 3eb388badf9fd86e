"""CSV and TSV: a table with a header line, one protein a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO

from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record

# Looked for in this order and in any case: `record_name` is ProtT5nv's own layout, `entry` UniProt's.
ID_COLUMNS = ("record_name", "id", "accession", "entry", "name")
SEQUENCE_COLUMNS = ("sequence", "seq")


def parse_csv(
    stream: BinaryIO,
    name: str,
    *,
    id_column: str | None = None,
    sequence_column: str | None = None,
    allow_empty: bool = False,
    allow_non_ascii: bool = False,
) -> Iterator[Record]:
    """Stream the proteins of a table in an open stream of bytes; tabs in the header line mean TSV.

    Parameters
    ----------
    stream : binary file
    name : str
        What errors call it.
    id_column, sequence_column : str, optional
        Names of the columns to read; by default the first of `ID_COLUMNS` and of `SEQUENCE_COLUMNS` that is there.
    allow_empty, allow_non_ascii : bool, default False
        As for :func:`prott5nv.io.reader.read_records`.

    Raises
    ------
    ProtT5nvError
        A column is missing, a row is short, an id or a sequence is empty or not text; the message names file and line.
    """
    header_line = stream.peek().lstrip().partition(b"\n")[0]
    # Undecodable bytes become lone surrogates, which are refused below with the line they stand in.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(text, delimiter="\t" if b"\t" in header_line else ",")
    try:
        columns = next((row for row in rows if row), [])
        id_index = find_column(columns, id_column, ID_COLUMNS, "id", name)
        sequence_index = find_column(columns, sequence_column, SEQUENCE_COLUMNS, "sequence", name)
        line = rows.line_num + 1
        empty = True
        for row in rows:
            if row:
                record = _record(row, id_index, sequence_index, len(columns), f"{name}: line {line}", line)
                if not record.sequence and not allow_empty:
                    raise ProtT5nvError(f"{name}: line {line}: record {record.id} has no sequence")
                if not record.sequence.isascii() and not allow_non_ascii:
                    raise ProtT5nvError(
                        f"{name}: line {line}: record {record.id} has a non-ASCII character in its sequence"
                    )
                yield record
                empty = False
            line = rows.line_num + 1
    except csv.Error as error:
        raise ProtT5nvError(f"{name}: line {rows.line_num}: not a readable table ({error})") from None
    if empty:
        raise ProtT5nvError(f"{name}: the table has a header line and no rows")


def find_column(columns: list[str], wanted: str | None, usual: tuple[str, ...], what: str, name: str) -> int:
    """Return the index of the column asked for, or else of the first usual one."""
    lower = [column.strip().lower() for column in columns]
    candidates = usual if wanted is None else (wanted.lower(),)
    for candidate in candidates:
        if candidate in lower:
            return lower.index(candidate)
    found = ", ".join(columns) or "none"
    raise ProtT5nvError(
        f"{name}: no {what} column named {' or '.join(candidates)}; the columns are: {found}. "
        f"Name it with --{what}-column, {what}_column in Python (a FASTA file would begin with '>')"
    )


def _record(row: list[str], id_index: int, sequence_index: int, columns: int, place: str, line: int) -> Record:
    if len(row) <= max(id_index, sequence_index):
        raise ProtT5nvError(f"{place}: the row has {len(row)} of {columns} columns")
    record_id, sequence = row[id_index].strip(), row[sequence_index].strip()
    if not record_id:
        raise ProtT5nvError(f"{place}: the id is empty")
    if not record_id.isprintable():  # control characters, or bytes that are not UTF-8
        raise ProtT5nvError(f"{place}: the id {record_id!a} is not UTF-8 text")
    sequence = sequence.encode(errors="surrogateescape").decode(errors="replace")
    return Record(record_id, sequence, record_id, line)
