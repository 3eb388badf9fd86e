"""A CSV file that appears only when it is complete."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from prott5nv.errors import ProtT5nvError


def write_table(path: str | os.PathLike, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> int:
    """Write a header line and rows, to a temporary file beside `path` that takes its name at the end.

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
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    count = 0
    try:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(columns)
            for row in rows:
                table.writerow(row)
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ProtT5nvError(f"{path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return count
