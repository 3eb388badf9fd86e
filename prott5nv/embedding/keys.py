"""Keys under which embeddings are stored, and detection of duplicates among any number of them in little memory."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from typing import NamedTuple

from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record, accession


def _accession(record: Record) -> str:
    """P69905 for sp|P69905|HBA_HUMAN, and the first word of any other header."""
    return accession(record.id)


def _safe(record: Record) -> str:
    """The same with _ in place of /, which HDF5 does not allow in a name."""
    return accession(record.id).replace("/", "_")


def _biotrainer(record: Record) -> str:
    """The hash that biotrainer computes of a sequence and its length."""
    return hashlib.sha256(f"{record.sequence}_{len(record.sequence)}".encode()).hexdigest()


#: Functions that make the key of a protein, by name. The docstrings are part of the command's help.
KEYS: dict[str, Callable[[Record], str]] = {"accession": _accession, "safe": _safe, "biotrainer": _biotrainer}


class Owner(NamedTuple):
    """The record that a key belongs to.

    Attributes
    ----------
    id : str
        Id of the record.
    line : int
        Line on which the record starts.
    source : str
        Name of the file if the input has several files; otherwise empty.
    """

    id: str
    line: int
    source: str = ""


class KeyRegister:
    """Registers keys and remembers which record used a key first.

    A dictionary of UniRef50's 50 million keys would take 10 GB. This register is a SQLite database in an unnamed
    temporary file, which disappears with the process. SQLite keeps 2 MB of it in memory.

    Examples
    --------
    >>> register = KeyRegister()
    >>> register.claim("P69905", Owner("sp|P69905|HBA_HUMAN", 1))
    >>> register.claim("P69905", Owner("P69905", 5))
    Owner(id='sp|P69905|HBA_HUMAN', line=1, source='')
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        # No process opens the file again, so its changes need no protection against a crash.
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE owners (key TEXT PRIMARY KEY, id TEXT, line INTEGER, source TEXT) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

    def claim(self, key: str, owner: Owner) -> Owner | None:
        """Register a key, unless it is already registered.

        Parameters
        ----------
        key : str
        owner : Owner
            Record that uses the key.

        Returns
        -------
        Owner or None
            The record that registered the key first; None if the key is new.

        Raises
        ------
        ProtT5nvError
            If the disk with temporary files is full.
        """
        try:
            inserted = self._database.execute("INSERT OR IGNORE INTO owners VALUES (?, ?, ?, ?)", (key, *owner))
            if inserted.rowcount:
                return None
            found = self._database.execute("SELECT id, line, source FROM owners WHERE key = ?", (key,))
            return Owner(*found.fetchone())
        except sqlite3.OperationalError as error:
            raise ProtT5nvError(
                f"no room for the list of ids in the folder of temporary files ({error}): "
                "set SQLITE_TMPDIR to a folder with more space"
            ) from None
