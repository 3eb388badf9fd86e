"""Tables about proteins, such as those that UniProt offers for download, matched to given proteins."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prott5nv.errors import ProtT5nvError
from prott5nv.io.delimited import DelimitedTable
from prott5nv.io.record import accession, protein_names
from prott5nv.io.source import open_source, source_name

_UNIREF = re.compile(r"UniRef\d+_(\w+)")  # a cluster, named after its representative


class AnnotatedRow(NamedTuple):
    """A row of a table that is about a given protein.

    Attributes
    ----------
    line : int
        Line of the file, counted from 1.
    protein : int
        Index of the protein.
    name : str
        What the row calls the protein.
    cells : list of str
        The cells of all columns except the column of names.
    """

    line: int
    protein: int
    name: str
    cells: list[str]


@dataclass
class Annotations:
    """The rows of a table that are about given proteins.

    Attributes
    ----------
    columns : list of str
        Headers of all columns except the column of names.
    rows : list of AnnotatedRow
        Rows in the order of the table. A protein can have none or several.
    """

    columns: list[str]
    rows: list[AnnotatedRow]

    def merged(self) -> dict[int, list[str]]:
        """Return the cells of each protein that has rows. Those of several rows are joined with semicolons."""
        parts: dict[int, list[dict[str, None]]] = {}
        for row in self.rows:
            of_protein = parts.setdefault(row.protein, [{} for _ in self.columns])
            for distinct, cell in zip(of_protein, row.cells, strict=True):
                distinct[cell] = None
        return {
            protein: ["; ".join(cell for cell in distinct if cell) for distinct in columns]
            for protein, columns in parts.items()
        }


def read_annotations(path: str | os.PathLike[str], proteins: Sequence[tuple[str, str]]) -> Annotations:
    """Read the rows of a TSV or CSV file, gzipped or not, that are about given proteins.

    The file has a header line. The names are in the column that names most of the proteins: by accession, by entry name
    such as ``HBA_HUMAN``, by full id, or by the accession in an id of UniRef.

    Parameters
    ----------
    path : str or PathLike
        The file or pipe, or ``-`` for standard input.
    proteins : sequence of tuple of (str, str)
        Accession and original id of each protein.

    Returns
    -------
    Annotations
        It has no rows if no column names any of the proteins.

    Raises
    ------
    ProtT5nvError
        If the file is not a readable table of two or more columns.
    """
    name = source_name(path)
    number_of_name = _numbers_by_name(proteins)
    # Of a large table, only rows that may be about one of the proteins are kept.
    rows: list[tuple[int, list[str]]] = []
    with open_source(path) as stream:
        table = DelimitedTable(stream, name)
        if len(table.columns) < 2:
            raise ProtT5nvError(f"{name}: line {table.header_line} has no second column; separate columns with a tab")
        for line, cells in table:
            if any(_find(cell, number_of_name) is not None for cell in cells):
                rows.append((line, cells))
    matches = [
        len({_find(cells[index], number_of_name) for _, cells in rows} - {None}) for index in range(len(table.columns))
    ]
    names = matches.index(max(matches))
    annotated = [
        AnnotatedRow(line, number, cells[names], cells[:names] + cells[names + 1 :])
        for line, cells in rows
        if (number := _find(cells[names], number_of_name)) is not None
    ]
    return Annotations(table.columns[:names] + table.columns[names + 1 :], annotated)


def _numbers_by_name(proteins: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the number of each protein by accession, full id, entry name and the accession in a UniRef id."""
    numbers = {key: number for number, (key, _) in enumerate(proteins)}
    for number, (_, original_id) in enumerate(proteins):
        numbers.setdefault(original_id, number)
        if entry_name := protein_names(original_id)[1]:
            numbers.setdefault(entry_name, number)
        if cluster := _UNIREF.fullmatch(original_id):
            numbers.setdefault(cluster[1], number)
    return numbers


def _find(cell: str, number_of_name: dict[str, int]) -> int | None:
    """Return the number of the protein that a cell names; None if it names none."""
    number = number_of_name.get(cell)
    return number if number is not None else number_of_name.get(accession(cell))
