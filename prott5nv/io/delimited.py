"""Reader of CSV and TSV tables, which have a header line and one protein per row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record

# The first of these columns that the table has is used; upper and lower case are the same. `record_name` is the name in
# ProtT5nv's pretraining data and `entry` is UniProt's.
ID_COLUMNS = ("record_name", "id", "accession", "entry", "name")
SEQUENCE_COLUMNS = ("sequence", "seq")


def parse_csv(
    stream: io.BufferedReader,
    name: str,
    *,
    id_column: str | None = None,
    sequence_column: str | None = None,
    allow_empty: bool = False,
    allow_non_ascii: bool = False,
) -> Iterator[Record]:
    """Stream the proteins of a table. A table with tabs in its header line is TSV, any other is CSV.

    Parameters
    ----------
    stream : BufferedReader
        The open table.
    name : str
        Name of the input for error messages.
    id_column, sequence_column : str, optional
        Names of the columns to read. By default these are the first of `ID_COLUMNS` and the first of
        `SEQUENCE_COLUMNS` that the table has.
    allow_empty, allow_non_ascii : bool, default False
        As for :func:`prott5nv.io.reader.read_records`.

    Yields
    ------
    Record
        One protein per row, in the order of the table. Blank lines are skipped.

    Raises
    ------
    ProtT5nvError
        If a column is missing, a row is too short, or an id or sequence is empty or not text. The message names file
        and line.
    """
    header_line = stream.peek().lstrip().partition(b"\n")[0]
    # Undecodable bytes become lone surrogates. These are refused below, in an error message with the line number.
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


def find_column(columns: Sequence[str], chosen: str | None, usual: tuple[str, ...], what: str, name: str) -> int:
    """Find a column of a table by name, regardless of upper and lower case.

    Parameters
    ----------
    columns : sequence of str
        Names of the table's columns.
    chosen : str, optional
        Name of the column to find. By default the first of the usual names that the table has is used.
    usual : tuple of str
        Usual names in lower case.
    what : str
        Content of the column for error messages, such as ``"id"``.
    name : str
        Name of the input for error messages.

    Returns
    -------
    int
        Index of the column.

    Raises
    ------
    ProtT5nvError
        If there is no such column. The message lists the columns of the table.

    Examples
    --------
    >>> find_column(["Entry", "Sequence"], None, ID_COLUMNS, "id", "proteins.tsv")
    0
    """
    lower = [column.strip().lower() for column in columns]
    candidates = usual if chosen is None else (chosen.lower(),)
    for candidate in candidates:
        if candidate in lower:
            return lower.index(candidate)
    listed = ", ".join(columns) or "none"
    raise ProtT5nvError(
        f"{name}: no {what} column named {' or '.join(candidates)}; the columns are: {listed}. "
        f"Choose one with --{what}-column ({what}_column in Python). A FASTA file must begin with '>'"
    )


def _record(row: list[str], id_index: int, sequence_index: int, columns: int, where: str, line: int) -> Record:
    """Convert a row to a record; `where` is file and line for error messages."""
    if len(row) <= max(id_index, sequence_index):
        raise ProtT5nvError(f"{where}: the row has {len(row)} of {columns} columns")
    record_id, sequence = row[id_index].strip(), row[sequence_index].strip()
    if not record_id:
        raise ProtT5nvError(f"{where}: the id is empty")
    if not record_id.isprintable():  # it has control characters or bytes that are not UTF-8
        raise ProtT5nvError(f"{where}: the id {record_id!a} is not UTF-8 text")
    sequence = sequence.encode(errors="surrogateescape").decode(errors="replace")
    return Record(record_id, sequence, record_id, line)
