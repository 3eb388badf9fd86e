"""Reading of protein files in any supported format: FASTA, CSV, TSV and Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice

from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning, clean_records
from prott5nv.io.delimited import parse_table
from prott5nv.io.fasta import other_format, parse_fasta
from prott5nv.io.inputs import Input, InputFiles, input_name
from prott5nv.io.parquet import is_parquet, read_parquet
from prott5nv.io.record import Record, location
from prott5nv.io.source import name_truncation, open_source, source_name
from prott5nv.io.text import counted

#: Remedy for an error of single records, where the command has this option.
SKIPPING = "--on-error skip leaves such records out and lists them"

_LINES_SHOWN = 5
_MOST_COUNTED = 100_000


def read_records(
    path: Input,
    *,
    id_column: str | None = None,
    sequence_column: str | None = None,
    cleaning: Cleaning = DEFAULT_CLEANING,
) -> Iterator[Record]:
    """Stream the proteins of a FASTA, CSV, TSV or Parquet file. All but Parquet may be compressed with gzip.

    The format is detected from the content, not from the file name. A text file that begins with ``>`` is FASTA, and
    one whose first line has commas or tabs is a table. A table with semicolons is refused.

    Parameters
    ----------
    path : str, PathLike or InputFiles
        File to read, ``-`` for standard input, or several of these; see :mod:`prott5nv.io.inputs`.
    id_column, sequence_column : str, optional
        Names of the columns to read, for tables without the usual column names (see :mod:`prott5nv.io.delimited`).
    cleaning : Cleaning
        What to do with gaps and nucleotides; see :mod:`prott5nv.io.cleaning`.

    Yields
    ------
    Record
        One record at a time, in the order of the file. Memory does not grow with the file.

    Raises
    ------
    ProtT5nvError
        If the file cannot be read, has no records, or has a malformed record. The message names file, line and id.

    Warns
    -----
    InputWarning
        If sequences were changed; see :func:`prott5nv.io.cleaning.clean_records`.

    Examples
    --------
    >>> from prott5nv.io.reader import read_records
    >>> next(read_records("examples/proteins.fasta")).id
    'sp|P69905|HBA_HUMAN'
    """
    records = _read(path, id_column, sequence_column, cleaning, allow_non_ascii=False)
    for record, fault in records:
        if fault:
            error = ProtT5nvError(f"{location(record, input_name(path))}: {record.id}: {fault}")
            raise with_others_counted(error, (record.line if fault else None for record, fault in records))
        yield record


def read_records_and_faults(
    path: Input,
    *,
    id_column: str | None = None,
    sequence_column: str | None = None,
    cleaning: Cleaning = DEFAULT_CLEANING,
) -> Iterator[tuple[Record, str | None]]:
    """Stream the proteins of a file together with the reason why one cannot be used, so that the caller can skip it.

    Parameters
    ----------
    path, id_column, sequence_column, cleaning
        As for :func:`read_records`.

    Yields
    ------
    record : Record
        One record at a time, in the order of the file. Its sequence may have characters that are not residues.
    fault : str or None
        Why the record cannot be used; None if cleaning found no reason.

    Raises
    ------
    ProtT5nvError
        If the file cannot be read, has no records, or is damaged.
    """
    return _read(path, id_column, sequence_column, cleaning, allow_non_ascii=True)


def _read(
    path: Input,
    id_column: str | None,
    sequence_column: str | None,
    cleaning: Cleaning,
    *,
    allow_non_ascii: bool,
) -> Iterator[tuple[Record, str | None]]:
    if isinstance(path, InputFiles):
        for file in path:
            records_of_file = _read(file, id_column, sequence_column, cleaning, allow_non_ascii=allow_non_ascii)
            for record, fault in records_of_file:
                yield record._replace(source=source_name(file)), fault
        return
    name = source_name(path)
    if is_parquet(path):
        records = read_parquet(path, id_column=id_column, sequence_column=sequence_column)
        yield from clean_records(records, name, cleaning)
        return
    with open_source(path) as stream:
        beginning = stream.peek().removeprefix(b"\xef\xbb\xbf").lstrip()
        first_line = beginning.partition(b"\n")[0]
        # A line that begins with a semicolon is a comment in old FASTA files, which is refused there.
        is_table = any(separator in first_line[1:] for separator in (b",", b"\t", b";"))
        if is_table and not first_line.startswith((b">", b";")) and not other_format(first_line):
            records = parse_table(
                stream,
                name,
                id_column=id_column,
                sequence_column=sequence_column,
                allow_non_ascii=allow_non_ascii,
            )
        else:
            records = parse_fasta(stream, name, allow_empty=True, allow_non_ascii=allow_non_ascii)
        yield from clean_records(name_truncation(records, name), name, cleaning)


def with_others_counted(error: ProtT5nvError, following: Iterable[int | None], remedy: str = "") -> ProtT5nvError:
    """Return the error for a record with the number and the lines of the following records that have an error, too.

    Parameters
    ----------
    error : ProtT5nvError
        The error.
    following : iterable of int or None
        For each of the following records, its line if it has an error, otherwise None. At most 100,000 are read.
    remedy : str, default ""
        End of the message: what to do.

    Returns
    -------
    ProtT5nvError

    Examples
    --------
    >>> print(with_others_counted(ProtT5nvError("a.fasta: line 3: P1: there is no sequence"), [None, 7, 9]))
    a.fasta: line 3: P1: there is no sequence; 2 more records cannot be used, on lines 7, 9
    """
    read: list[int | None] = []
    # An error of the file that ends the counting comes after this one.
    with suppress(ProtT5nvError, EOFError):
        for line in islice(following, _MOST_COUNTED):
            read.append(line)
    lines = [line for line in read if line is not None]
    others = ""
    if lines:
        least = "at least " if len(read) == _MOST_COUNTED else ""
        shown = ", ".join(map(str, lines[:_LINES_SHOWN])) + (", ..." if len(lines) > _LINES_SHOWN else "")
        on_lines = "on line" if len(lines) == 1 else "on lines"
        others = f"; {least}{counted(len(lines), 'more record')} cannot be used, {on_lines} {shown}"
    return ProtT5nvError(f"{error}{others}{remedy and '; '}{remedy}")
