"""Writing of tables: CSV or TSV into files, pipes and standard output."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from prott5nv.errors import ProtT5nvError, warn
from prott5nv.io.atomic import whole_file
from prott5nv.io.output import is_standard_output, is_stream
from prott5nv.io.source import source_name
from prott5nv.io.text import counted

# Cells that a spreadsheet program computes. A sign without a call or a reference, as in -0.5 and -HHE, is harmless.
_FORMULA = re.compile(r"[=@]|[+-].*[(|!=]")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_NUMBERS = re.compile(rf"{_NUMBER}(?:[ :]{_NUMBER})*", re.ASCII)
_MOST_DIGITS = 15  # that spreadsheet programs keep
_CRLF = "\r\n"
_NOT_IN_TSV = str.maketrans("\t\r\n", "   ")


def spreadsheet_safe_cell(cell: object) -> object:
    """Return a cell that a spreadsheet program does not compute.

    Parameters
    ----------
    cell : object
        Value of a cell.

    Returns
    -------
    object
        The cell. A text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return, or that has more
        digits than spreadsheet programs keep, gets an apostrophe in front, by which these programs know text. Other
        numbers, also several with spaces or colons between them, stay as they are.

    Examples
    --------
    >>> [spreadsheet_safe_cell(cell) for cell in ("=1+2", "-HHE", "-0.5", -0.5, "P1", "0123456789012345")]
    ["'=1+2", "'-HHE", '-0.5', -0.5, 'P1', "'0123456789012345"]
    """
    if not isinstance(cell, str):
        return cell
    is_formula = cell.startswith(_FORMULA_STARTS) and not _NUMBERS.fullmatch(cell)
    is_long_number = len(cell) > _MOST_DIGITS and cell.isdecimal()
    return f"'{cell}" if is_formula or is_long_number else cell


def write_table(
    path: str | os.PathLike[str],
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    spreadsheet_safe: bool = False,
) -> int:
    """Write a CSV or TSV file with a header line. If an exception occurs, an existing file stays as it was.

    Parameters
    ----------
    path : str or PathLike
        File to write. An existing file of that name is replaced. A name that ends in ``.tsv`` means TSV, any other CSV.
        ``-`` is standard output. A pipe and standard output get each row at once.
    columns : sequence of str
        Names of the columns.
    rows : iterable of sequence
        Values of each row. They are written one row at a time, so memory does not grow with their number.
    spreadsheet_safe : bool, default False
        Whether to pass all cells through :func:`spreadsheet_safe_cell`. By default texts are written unchanged, so that
        ids stay the same, and there is a warning if a spreadsheet program would compute some of them as formulas.

    Returns
    -------
    int
        Number of rows, without the header line.

    Raises
    ------
    ProtT5nvError
        If the file cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_table(f"{folder}/scores.csv", ["id", "score"], [["P1", 0.5], ["P2", 0.25]])
    2
    """
    count, formulas, first = 0, 0, ""
    with _opened(path) as file:
        write_row = _row_writer(file, is_tsv=os.fspath(path).endswith(".tsv"))
        write_row(columns)
        for row in rows:
            if spreadsheet_safe:
                row = [spreadsheet_safe_cell(cell) for cell in row]
            write_row(row)
            count += 1
            for cell in row:
                if isinstance(cell, str) and _FORMULA.match(cell):
                    formulas += 1
                    first = first or cell
    if formulas:
        warn(
            f"{source_name(path)}: a spreadsheet program would compute {counted(formulas, 'cell')} of this table, "
            f"such as {first[:40]!r}; import all columns as text there, or write the table with --spreadsheet-safe"
        )
    return count


def _row_writer(file: TextIO, *, is_tsv: bool) -> Callable[[Sequence[object]], object]:
    if is_tsv:
        return lambda row: file.write(tsv_line(row))
    return csv.writer(_LineFeeds(file), lineterminator=_CRLF).writerow


class _LineFeeds:
    """A text file for ``csv.writer``, whose lines end with a line feed.

    ``csv.writer`` quotes a carriage return in a cell only if it is in the line terminator.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix(_CRLF) + "\n")


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Open standard output, a pipe, or a temporary file that is moved to its name at the end."""
    if is_standard_output(path):
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="strict")  # in every locale, as in a file
        yield sys.stdout
        sys.stdout.flush()
    elif is_stream(path):
        try:
            with open(path, "w", newline="", encoding="utf-8") as pipe:
                yield pipe
        except OSError as error:
            raise ProtT5nvError(f"{path}: {error.strerror or error}") from None
    else:
        with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            yield file


def tsv_line(cells: Iterable[object]) -> str:
    """Return a line of a TSV table, with its line end. A quote is an ordinary character, as readers of TSV expect.

    Parameters
    ----------
    cells : iterable
        Values. Tabs and line ends in them become spaces, because TSV cannot contain them.

    Returns
    -------
    str

    Examples
    --------
    >>> tsv_line(["P1", 12, "5'"])
    "P1\\t12\\t5'\\n"
    """
    return "\t".join(str(cell).translate(_NOT_IN_TSV) for cell in cells) + "\n"
