"""Tables written as CSV files."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence

from prott5nv.io.atomic import whole_file


def write_table(path: str | os.PathLike, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> int:
    """Write a CSV file: a header line and rows.

    Parameters
    ----------
    path : str or PathLike
    columns : sequence of str
    rows : iterable of sequence
        Streamed; whatever is raised on the way leaves `path` as it was.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    ProtT5nvError
        If the file cannot be written.
    """
    count = 0
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        for row in rows:
            table.writerow(row)
            count += 1
    return count
