"""Reader of CSV and TSV tables. All tables that the package reads go through :class:`DelimitedTable`.

Python's ``csv`` module is not used for reading: it lets a quote in a TSV cell swallow the rows that follow, accepts
quotes that are never closed and rows of any length, and limits cells to 131,072 characters.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record
from prott5nv.io.text import shortened

# The first of these columns that the table has is used; upper and lower case are the same. `record_name` is the name in
# ProtT5nv's pretraining data, `entry` is UniProt's, and `protein` is that of the tables that this package writes.
ID_COLUMNS = ("record_name", "id", "accession", "entry", "protein", "name")
SEQUENCE_COLUMNS = ("sequence", "seq")

# The most characters of a quoted cell, so that an unclosed quote does not read a huge file into memory.
_LONGEST_QUOTED_CELL = 1 << 28
_QUOTED = re.compile('"[^"]*"')


class Row(NamedTuple):
    """A row of a table.

    Attributes
    ----------
    line : int
        Line of the file on which the row begins, counted from 1.
    cells : list of str
        As many cells as the table has columns.
    """

    line: int
    cells: list[str]


class DelimitedTable:
    """A CSV or TSV table with a header line. Iterating yields its rows once; memory does not grow with their number.

    A table with tabs in its header line is TSV: cells are everything between tabs, and a quote is an ordinary
    character. Empty cells at the end of a row may be absent, because editors remove tabs at the end of a line.

    Any other table is CSV: a cell that begins with ``"`` ends at the next ``"``, may contain commas and line ends, and
    contains ``""`` for a quote. In both, blank lines are skipped, and a byte order mark is accepted. A table whose
    header line has only semicolons is refused.

    Parameters
    ----------
    stream : BufferedReader
        The open table, such as :func:`prott5nv.io.source.open_source` gives it.
    name : str
        Name of the input for error messages.
    keep_undecodable : bool, default False
        Whether to accept text that is not UTF-8. Its bytes become lone surrogates, which the caller has to refuse in
        the cells that it uses. By default such text is an error.

    Attributes
    ----------
    columns : list of str
        Names of the columns; empty if there is no header line.
    header_line : int
        Line of the header, counted from 1.

    Raises
    ------
    ProtT5nvError
        If the columns seem to be separated by semicolons, a row has another number of cells than the header line, a
        quote is not closed, text follows a closing quote, or there is text that is not UTF-8 or a NUL byte. The message
        names file and line. Iterating raises it, too.

    Examples
    --------
    >>> text = b'id,note\\nP1,"alpha, adult"\\nP2,5\\'-"end"\\n'
    >>> table = DelimitedTable(io.BufferedReader(io.BytesIO(text)), "notes.csv")
    >>> table.columns, [row.cells for row in table]
    (['id', 'note'], [['P1', 'alpha, adult'], ['P2', '5\\'-"end"']])
    """

    def __init__(self, stream: io.BufferedReader, name: str, *, keep_undecodable: bool = False) -> None:
        self._name = name
        self._keep_undecodable = keep_undecodable
        self._line = 0
        self._lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._is_tsv = False
        header = self._next_line()
        self._is_tsv = "\t" in header
        self.header_line = self._line
        unquoted = _QUOTED.sub("", header)
        if ";" in unquoted and "," not in unquoted and not self._is_tsv:
            raise ProtT5nvError(
                f"{name}: line {self._line}: the columns seem to be separated by semicolons; save the table with "
                "commas or tabs between the columns"
            )
        self.columns: list[str] = self._split(header) if header else []

    def __iter__(self) -> Iterator[Row]:
        while text := self._next_line():
            line = self._line
            cells = self._split(text)
            if self._is_tsv and 1 < len(cells) < len(self.columns):
                cells += [""] * (len(self.columns) - len(cells))
            if len(cells) != len(self.columns):
                raise ProtT5nvError(
                    f"{self._name}: line {line}: the row has {len(cells)} of {len(self.columns)} columns"
                )
            yield Row(line, cells)

    def dictionaries(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the line and the cells by column of each row.

        Raises
        ------
        ProtT5nvError
            If two columns have the same name, or as for iterating over the table.
        """
        for column in self.columns:
            if self.columns.count(column) > 1:
                raise ProtT5nvError(f"{self._name}: two columns are named {column!r}; rename one of them")
        for line, cells in self:
            yield line, dict(zip(self.columns, cells, strict=True))

    def _next_line(self) -> str:
        """Return the next line that is not blank, or an empty string at the end."""
        while text := self._read_line():
            if text.strip(" \r\n"):
                return text
        return ""

    def _read_line(self) -> str:
        text = next(self._lines, "")
        self._line += 1
        if "\0" in text:
            raise ProtT5nvError(f"{self._name}: line {self._line}: a NUL byte, so this is a binary or a damaged file")
        if not self._keep_undecodable and not text.isascii() and has_undecodable(text):
            raise ProtT5nvError(f"{self._name}: line {self._line}: the text is not UTF-8; save the table as UTF-8")
        return text

    def _split(self, text: str) -> list[str]:
        """Return the cells of the row that begins with a line. A quoted cell may continue on the lines that follow."""
        if self._is_tsv:
            return text.rstrip("\r\n").split("\t")
        if '"' not in text:
            return text.rstrip("\r\n").split(",")
        cells = []
        position = 0
        while True:
            if text.startswith('"', position):
                cell, text, position = self._quoted_cell(text, position + 1)
                cells.append(cell)
                ending = text[position:]
                if not ending.strip("\r\n"):
                    return cells
                if not ending.startswith(","):
                    raise ProtT5nvError(
                        f"{self._name}: line {self._line}: text after a closing quote, {ending.rstrip()[:20]!r}; "
                        'write a quote within a quoted cell as ""'
                    )
                position += 1
            else:
                end = text.find(",", position)
                if end < 0:
                    return [*cells, text[position:].rstrip("\r\n")]
                cells.append(text[position:end])
                position = end + 1

    def _quoted_cell(self, text: str, position: int) -> tuple[str, str, int]:
        """Return the cell that begins after a quote, the line on which it ends, and the position after its end."""
        opened_on = self._line
        parts = []
        size = 0
        while True:
            end = text.find('"', position)
            if end < 0:
                parts.append(text[position:])
                size += len(text) - position
                text, position = self._read_line(), 0
                if not text or size > _LONGEST_QUOTED_CELL:
                    raise ProtT5nvError(f"{self._name}: line {opened_on}: a quote opens here and is not closed")
                continue
            parts.append(text[position:end])
            position = end + 1
            if not text.startswith('"', position):
                return "".join(parts), text, position
            parts.append('"')
            position += 1


def has_undecodable(text: str) -> bool:
    """Return whether a text contains lone surrogates, which stand for bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def parse_table(
    stream: io.BufferedReader,
    name: str,
    *,
    id_column: str | None = None,
    sequence_column: str | None = None,
    allow_non_ascii: bool = False,
) -> Iterator[Record]:
    """Stream the proteins of a CSV or TSV table.

    Parameters
    ----------
    stream : BufferedReader
        The open table.
    name : str
        Name of the input for error messages.
    id_column, sequence_column : str, optional
        Names of the columns to read. By default these are the first of `ID_COLUMNS` and the first of
        `SEQUENCE_COLUMNS` that the table has.
    allow_non_ascii : bool, default False
        Whether to yield sequences with non-ASCII characters. By default they are an error. Bytes that are not UTF-8
        become U+FFFD.

    Yields
    ------
    Record
        One protein per row, in the order of the table. Its sequence may be empty.

    Raises
    ------
    ProtT5nvError
        If a column is missing, an id is empty or not text, or the table is malformed; see :class:`DelimitedTable`. The
        message names file and line.
    """
    table = DelimitedTable(stream, name, keep_undecodable=True)
    id_index = find_column(table.columns, id_column, ID_COLUMNS, "id", name)
    sequence_index = find_column(table.columns, sequence_column, SEQUENCE_COLUMNS, "sequence", name)
    empty = True
    for line, cells in table:
        record_id = checked_id(cells[id_index], f"{name}: line {line}")
        sequence = cells[sequence_index].strip().encode(errors="surrogateescape").decode(errors="replace")
        if not allow_non_ascii and not sequence.isascii():
            raise ProtT5nvError(f"{name}: line {line}: record {record_id} has a non-ASCII character in its sequence")
        yield Record(record_id, sequence, record_id, line)
        empty = False
    if empty:
        raise ProtT5nvError(f"{name}: the table has a header line and no rows")


def checked_id(text: str, where: str) -> str:
    """Return an id without white space at its ends.

    Parameters
    ----------
    text : str
        Content of an id column.
    where : str
        File and line for error messages.

    Raises
    ------
    ProtT5nvError
        If the id is empty, or has control characters or bytes that are not UTF-8.
    """
    record_id = text.strip()
    if not record_id:
        raise ProtT5nvError(f"{where}: the id is empty")
    if has_undecodable(record_id):
        raise ProtT5nvError(f"{where}: the id {record_id!a} is not UTF-8 text; save the table as UTF-8")
    if not record_id.isprintable():
        character = next(character for character in record_id if not character.isprintable())
        what = "a line break" if character in "\r\n" else f"the character {character!a}, which cannot be printed"
        raise ProtT5nvError(f"{where}: the id {shortened(record_id)!a} has {what}; remove it from the id")
    return record_id


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
        If there is no such column, or several. The message lists the columns of the table.

    Examples
    --------
    >>> find_column(["Entry", "Sequence"], None, ID_COLUMNS, "id", "proteins.tsv")
    0
    """
    names = [column.strip() for column in columns]
    lower = _lower_names(columns)
    listed = ", ".join(columns) or "none"
    if chosen is not None and names.count(chosen) == 1:
        return names.index(chosen)
    candidates = usual if chosen is None else (chosen.lower(),)
    for candidate in candidates:
        if lower.count(candidate) > 1:
            raise ProtT5nvError(f"{name}: several columns are named {candidate}; the columns are: {listed}")
        if candidate in lower:
            return lower.index(candidate)
    raise ProtT5nvError(
        f"{name}: no {what} column named {' or '.join(candidates)}; the columns are: {listed}. "
        f"Choose one with --{what}-column ({what}_column in Python). A FASTA file must begin with '>'"
    )


def first_usual_column(columns: Sequence[str], usual: Sequence[str]) -> int | None:
    """Return the index of the first of the usual names, in lower case, that a table has; None if it has none.

    Examples
    --------
    >>> first_usual_column(["Name", "Entry"], ID_COLUMNS), first_usual_column(["sequence"], ID_COLUMNS)
    (1, None)
    """
    lower = _lower_names(columns)
    return next((lower.index(name) for name in usual if name in lower), None)


def _lower_names(columns: Sequence[str]) -> list[str]:
    return [column.strip().lower() for column in columns]
