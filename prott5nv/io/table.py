"""Files that appear only when they are complete."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prott5nv.errors import ProtT5nvError


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary name beside `path`, whose file takes the name of `path` unless something is raised.

    Raises
    ------
    ProtT5nvError
        If the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ProtT5nvError(f"{path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


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
