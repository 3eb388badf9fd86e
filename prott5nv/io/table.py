"""Writer of CSV tables."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence

from prott5nv.io.atomic import whole_file


def write_table(path: str | os.PathLike, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> int:
    """Write a CSV file with a header line. If an exception occurs, an existing file stays as it was.

    Parameters
    ----------
    path : str or PathLike
        File to write. An existing file of that name is replaced.
    columns : sequence of str
        Names of the columns.
    rows : iterable of sequence
        Values of each row. They are written one row at a time, so memory does not grow with their number.

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
    count = 0
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        for row in rows:
            table.writerow(row)
            count += 1
    return count
