"""Keys met so far, of any number, in a few megabytes of memory."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from prott5nv.errors import ProtT5nvError


class Holder(NamedTuple):
    """The record that a key belongs to.

    Attributes
    ----------
    id : str
    line : int
        On which it begins.
    """

    id: str
    line: int


class KeyRegister:
    """Who came first with a key.

    A dictionary of UniRef50's 50 million keys would take 10 GB. This is a database in a temporary file without a name,
    so that nothing is left of it however the process ends; SQLite keeps 2 MB of it in memory.

    Examples
    --------
    >>> register = KeyRegister()
    >>> register.claim("P69905", Holder("sp|P69905|HBA_HUMAN", 1))
    >>> register.claim("P69905", Holder("P69905", 5))
    Holder(id='sp|P69905|HBA_HUMAN', line=1)
    """

    def __init__(self):
        self._database = sqlite3.connect("", isolation_level=None)
        # Nobody opens the file again, so that no change in it has to be safe.
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE holders (key TEXT PRIMARY KEY, id TEXT, line INTEGER) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def claim(self, key: str, holder: Holder) -> Holder | None:
        """Note the holder of a new key, or find that of a known one.

        Raises
        ------
        ProtT5nvError
            If the disk of temporary files is full.
        """
        try:
            row = self._database.execute("INSERT OR IGNORE INTO holders VALUES (?, ?, ?)", (key, *holder))
            if row.rowcount:
                return None
            return Holder(*self._database.execute("SELECT id, line FROM holders WHERE key = ?", (key,)).fetchone())
        except sqlite3.OperationalError as error:
            raise ProtT5nvError(
                f"no room for the list of ids in the folder of temporary files ({error}): "
                "set SQLITE_TMPDIR to a folder with more"
            ) from None
