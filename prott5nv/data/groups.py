"""Groups of proteins that a split keeps together: a key in the headers, or a table of clusters."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from typing import Protocol

from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record, accession
from prott5nv.io.source import open_source, source_name
from prott5nv.io.text import counted, shortened

_CACHE_KILOBYTES = 256_000


class Groups(Protocol):
    """A division of proteins into groups."""

    def group_of(self, record: Record) -> str:
        """Return the name of a protein's group."""
        ...

    def check(self, name: str) -> None:
        """Raise an error, after all proteins, if the groups do not fit the input `name`."""
        ...


class HeaderGroups:
    """Groups by a key in the headers, such as ``c50`` for ``c50=G0SA20``.

    A protein without the key belongs to the group that is named like its id.

    Parameters
    ----------
    key : str
        The key.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._marker = f" {key}="
        self._num_proteins = self._num_with_key = 0

    def group_of(self, record: Record) -> str:
        """Return the name of a protein's group."""
        words = record.description.partition(self._marker)[2].split(None, 1)
        self._num_proteins += 1
        self._num_with_key += len(words) > 0
        return words[0] if words else record.id

    def check(self, name: str) -> None:
        """Raise an error if no header had the key."""
        if self._num_proteins and not self._num_with_key:
            raise ProtT5nvError(f"{name}: no header has {self._key}=...; check group_by (--group-by {self._key})")


class ClusterTable:
    """Groups by a table of clusters, as MMseqs2 and DIAMOND write it: representative, tab, member.

    These programs shorten ids such as ``sp|P69905|HBA_HUMAN``. An id that is not in the table is therefore looked up by
    its accession and by its parts between ``|``. The table is kept in a temporary file, which disappears with the
    process.

    Parameters
    ----------
    path : str or PathLike
        The table, gzipped or not.

    Attributes
    ----------
    sha256 : str
        Checksum of the file.

    Raises
    ------
    ProtT5nvError
        If a line does not have two cells, or a member is in two clusters.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._name = source_name(path)
        self._num_proteins = self._num_missing = 0
        self._first_missing = ""
        self._database = sqlite3.connect("", isolation_level=None)
        # No process opens the file again, so its changes need no protection against a crash.
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KILOBYTES}")
        self._database.execute("CREATE TABLE clusters (member TEXT PRIMARY KEY, representative TEXT) WITHOUT ROWID")
        self._database.execute("BEGIN")
        checksum = hashlib.sha256()
        try:
            with open_source(path, checksum.update) as stream:
                for number, line in enumerate(stream, 1):
                    self._add(line, number)
        except sqlite3.OperationalError as error:
            raise ProtT5nvError(
                f"{self._name}: no room for this table in the folder of temporary files ({error}): set SQLITE_TMPDIR "
                "to a folder with more space"
            ) from None
        self.sha256 = checksum.hexdigest()

    def _add(self, line: bytes, number: int) -> None:
        try:
            cells = line.decode().rstrip("\r\n").split("\t")
        except UnicodeDecodeError:
            raise ProtT5nvError(f"{self._name}: line {number}: the text is not UTF-8") from None
        if len(cells) != 2 or not all(cells):
            raise ProtT5nvError(
                f"{self._name}: line {number}: not two ids with a tab between them, the representative of a cluster "
                "and a member"
            )
        representative, member = cells
        values = member, representative
        if self._database.execute("INSERT OR IGNORE INTO clusters VALUES (?, ?)", values).rowcount:
            return
        if (before := self._find(member)) != representative:
            raise ProtT5nvError(
                f"{self._name}: line {number}: {shortened(member)} is also a member of the cluster of "
                f"{shortened(before or '')}"
            )

    def group_of(self, record: Record) -> str:
        """Return the representative of a protein's cluster. A protein that is in none is counted."""
        self._num_proteins += 1
        for name in dict.fromkeys((record.id, accession(record.id), *record.id.split("|"))):
            if (representative := self._find(name)) is not None:
                return representative
        self._num_missing += 1
        self._first_missing = self._first_missing or record.id
        return record.id

    def check(self, name: str) -> None:
        """Raise an error if proteins are in no cluster."""
        if self._num_missing:
            raise ProtT5nvError(
                f"{self._name}: {self._num_missing:,} of {counted(self._num_proteins, 'protein')} of {name} are in no "
                f"cluster, {shortened(self._first_missing)} first; cluster the same file"
            )

    def _find(self, member: str) -> str | None:
        found = self._database.execute("SELECT representative FROM clusters WHERE member = ?", (member,)).fetchone()
        return found and found[0]
