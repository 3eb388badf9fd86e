"""Records that cannot be used: the first one ends the work, or all of them are skipped and listed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile

from prott5nv.embedding.commits import Skipped, write_skipped
from prott5nv.embedding.formats import skipped_listing
from prott5nv.embedding.survey import residue_fault
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import remove_file, whole_file
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.io.inputs import Input, input_name
from prott5nv.io.output import check_no_link
from prott5nv.io.reader import SKIPPING, read_records_and_faults, with_others_counted
from prott5nv.io.record import Record, location
from prott5nv.io.table import spreadsheet_safe_cell, tsv_line

_MOST_BYTES_IN_MEMORY = 1 << 20


class Skips:
    """The choice what to do with a record that cannot be used, and the records that were skipped.

    Parameters
    ----------
    skip_errors : bool, default False
        Whether to skip such records. By default the first one is an error.

    Attributes
    ----------
    count : int
        Number of skipped records. Iterating yields line, id and reason of each.

    Notes
    -----
    There can be millions of such records, so they are kept in a temporary file.

    Examples
    --------
    >>> skips = Skips(skip_errors=True)
    >>> skips.add(ProtT5nvError("proteins.fasta: line 3: P1: there is no sequence"), 3, "P1")
    >>> [skipped.id for skipped in skips]
    ['P1']
    """

    def __init__(self, skip_errors: bool = False) -> None:
        self.skip_errors = skip_errors
        self.count = 0
        self._lines = SpooledTemporaryFile(  # noqa: SIM115 (used by all methods, and removed with this object)
            _MOST_BYTES_IN_MEMORY, "w+", encoding="utf-8", newline=""
        )

    def add(self, error: ProtT5nvError, line: int, id: str) -> None:
        """Raise the error for a record, or note that the record is skipped.

        Parameters
        ----------
        error : ProtT5nvError
            Names file, line and id.
        line : int
            Line of the record.
        id : str
            Id of the record.

        Raises
        ------
        ProtT5nvError
            If errors are not skipped.
        """
        if not self.skip_errors:
            raise error
        self._lines.write(tsv_line(Skipped(line, id, str(error))))
        self.count += 1

    def __iter__(self) -> Iterator[Skipped]:
        self._lines.seek(0)
        for text in self._lines:
            line, id, reason = text.rstrip("\n").split("\t")
            yield Skipped(int(line), id, reason)

    def write(self, output: str | os.PathLike[str], *, spreadsheet_safe: bool = False) -> Path:
        """List the skipped records beside an output. If there are none, an older list is removed.

        Parameters
        ----------
        output : str or PathLike
            The output that lacks these records.
        spreadsheet_safe : bool, default False
            See :func:`prott5nv.io.table.write_table`.

        Returns
        -------
        Path
            The list.
        """
        listing = skipped_listing(Path(output))
        if not self.count:
            remove_file(listing)
            return listing
        check_no_link(listing)
        with whole_file(listing) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            write_skipped(file, (map(spreadsheet_safe_cell, each) if spreadsheet_safe else each for each in self))
        return listing


def checked_records(
    source: Input,
    skips: Skips,
    cleaning: Cleaning = DEFAULT_CLEANING,
    *,
    is_wanted: Callable[[Record], bool] = lambda record: True,
    find_fault: Callable[[Record], str | None] = lambda record: residue_fault(record.sequence),
) -> Iterator[Record]:
    """Stream the proteins of a file that can be used.

    Parameters
    ----------
    source : str, PathLike or InputFiles
        The file or pipe, ``-`` for standard input, or several of these.
    skips : Skips
        What to do with a protein that cannot be used.
    cleaning : Cleaning
        What to do with gaps and nucleotides; see :mod:`prott5nv.io.cleaning`.
    is_wanted : callable, optional
        Returns whether a record is used at all. Other records are not checked.
    find_fault : callable, optional
        Returns why a record cannot be used, or None. By default all characters must be residues.

    Yields
    ------
    Record
        Proteins in the order of the file.

    Raises
    ------
    ProtT5nvError
        If the file cannot be read, or a protein cannot be used and errors are not skipped. The message names file, line
        and id.
    """
    records = read_records_and_faults(source, cleaning=cleaning)
    checked = ((record, fault or find_fault(record)) for record, fault in records if is_wanted(record))
    for record, reason in checked:
        if not reason:
            yield record
            continue
        error = ProtT5nvError(f"{location(record, input_name(source))}: {record.id}: {reason}")
        if not skips.skip_errors:
            others = (other.line if fault else None for other, fault in checked)
            error = with_others_counted(error, others, SKIPPING)
        skips.add(error, record.line, record.id)
