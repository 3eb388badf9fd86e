"""The description that ``prepare`` writes beside a table: what its columns mean, and where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prott5nv.errors import ProtT5nvError
from prott5nv.io.checksum import file_checksum
from prott5nv.io.text import parse_json

_MAX_DESCRIPTION = 1 << 22  # bytes


def description_file(path: Path) -> Path:
    """Return the path of the JSON description that ``prepare`` writes beside a table."""
    return path.with_suffix(".json")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 hash of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return file_checksum(file)


def _beginning(path: Path) -> bytes:
    """Return as much of a file as a description can have."""
    with open(path, "rb") as file:
        return file.read(_MAX_DESCRIPTION)


def read_description(path: Path) -> dict[str, Any]:
    """Read the description that ``prepare`` wrote for exactly this table. A JSON file of another origin is ignored.

    Parameters
    ----------
    path : Path
        The table.

    Returns
    -------
    dict
        It is empty if there is no description.

    Raises
    ------
    ProtT5nvError
        If the description is damaged, or is that of another table.
    """
    file = description_file(path)
    if not file.is_file():
        return {}
    try:
        values = parse_json(_beginning(file))
    except OSError as error:
        raise ProtT5nvError(f"{file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ProtT5nvError(f"{file}: not the description of a table ({error}); prepare the task again") from None
    if not isinstance(values, dict) or "table_sha256" not in values:
        return {}
    if values["table_sha256"] != file_sha256(path):
        raise ProtT5nvError(f"{file}: describes another table than {path.name}; prepare the task again, or delete it")
    texts = [values.get(name) for name in ("level", "label", "split", "note")]
    classes = values.get("classes")
    if not isinstance(classes, list) or not all(isinstance(value, str) for value in [*texts, *classes]):
        raise ProtT5nvError(f"{file}: not the description of a table; prepare the task again")
    return values
