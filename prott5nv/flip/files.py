"""FLIP's own files wherever they lie: a folder, a checkout with its ``splits.zip`` archives, or a web address."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

from prott5nv.errors import ProtT5nvError
from prott5nv.io.fasta import parse_fasta
from prott5nv.io.record import Record
from prott5nv.io.source import open_source

# Upstream's tables call the target by the task's own word.
TARGET_COLUMNS = ("target", "3state", "conservation", "label")
MASK_COLUMNS = ("mask", "resolved")
_ARCHIVE = "splits.zip"


class LabelledRow(NamedTuple):
    """One line of a labelled file, as it stands there.

    Attributes
    ----------
    id : str
    sequence : str
        Empty where the file holds labels only.
    target : str
    set : str
        ``train``, ``val`` or ``test``.
    mask : str or None
        One character per residue, ``1`` where the label counts.
    """

    id: str
    sequence: str
    target: str
    set: str
    mask: str | None = None


class FlipFile(NamedTuple):
    """A file, or a member of an archive.

    Attributes
    ----------
    path : Path
    member : str or None
        Name within a zip archive.
    """

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.path}: {self.member}" if self.member else str(self.path)

    @property
    def is_table(self) -> bool:
        """Whether it is CSV, and not FASTA."""
        return ".csv" in Path(self.member or self.path).suffixes

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The uncompressed bytes."""
        if self.member is None:
            with open_source(self.path) as stream:
                yield stream
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            yield io.BufferedReader(stream)

    def records(self) -> Iterator[Record]:
        """Its FASTA records."""
        with self.open() as stream:
            yield from parse_fasta(stream, self.name)

    def git_hash(self) -> str:
        """What git calls the file on disk, to tell it from a changed one."""
        content = self.path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class FlipSource:
    """Where FLIP's files are.

    Parameters
    ----------
    location : str or PathLike
        A folder with one folder for each task, or of a single task; a checkout of FLIP; or the web address of such
        a folder, whose files are downloaded for as long as the source is open.

    Raises
    ------
    ProtT5nvError
        If there is no such folder.
    """

    def __init__(self, location: str | os.PathLike):
        self.location = str(location)
        self._is_web = self.location.startswith(("http://", "https://"))
        self._downloads = tempfile.TemporaryDirectory() if self._is_web else None
        if not self._is_web and not Path(location).is_dir():
            raise ProtT5nvError(f"{location}: no such folder; --from takes a folder of FLIP's files or its web address")

    def __enter__(self) -> FlipSource:
        return self

    def __exit__(self, *_) -> None:
        if self._downloads is not None:
            self._downloads.cleanup()

    def find(self, task: str, stem: str, suffixes: tuple[str, ...] = (".fasta", ".csv")) -> FlipFile | None:
        """The task's file of that name with one of the suffixes, gzipped or not, or the archive's member."""
        if self._is_web:
            return self._download(task, stem, suffixes)
        root = Path(self.location)
        folders = [folder for folder in (root / task, root / "splits" / task, root) if folder.is_dir()]
        for folder in folders:
            for suffix in suffixes:
                for path in (folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.gz"):
                    if path.is_file():
                        return FlipFile(path)
            if (folder / _ARCHIVE).is_file():
                found = _member(folder / _ARCHIVE, stem, suffixes)
                if found:
                    return found
        return None

    def tables(self, task: str) -> dict[str, list[FlipFile]]:
        """Upstream's own layout: CSV files in folders ``train``, ``val`` and ``test``; empty where it is not there."""
        if self._is_web:
            return {}
        for folder in (Path(self.location) / task, Path(self.location)):
            found = {name: sorted((folder / name).glob("*.csv*")) for name in ("train", "val", "test")}
            if all(found.values()):
                return {name: [FlipFile(path) for path in paths] for name, paths in found.items()}
        return {}

    def _download(self, task: str, stem: str, suffixes: tuple[str, ...]) -> FlipFile | None:
        for suffix in suffixes:
            address = f"{self.location.rstrip('/')}/{task}/{stem}{suffix}"
            path = Path(self._downloads.name) / f"{task}-{stem}{suffix}"
            try:
                with urlopen(address, timeout=60) as response:
                    path.write_bytes(response.read())
                return FlipFile(path)
            except URLError as error:
                if getattr(error, "code", None) != 404:
                    raise ProtT5nvError(f"{address}: {error}; is the address right?") from None
        return None


def read_labelled(file: FlipFile) -> Iterator[LabelledRow]:
    """Stream a FASTA file whose headers hold ``TARGET= SET= VALIDATION=``, or FLIP's CSV of the same columns.

    Where headers have no ``TARGET``, what stands below them are the labels, one letter per residue.

    Raises
    ------
    ProtT5nvError
        If a record says no set, naming file and line.
    """
    if file.is_table:
        yield from read_table(file)
        return
    for record in file.records():
        values = header_values(record.description)
        if "SET" not in values:
            raise ProtT5nvError(f"{file.name}: line {record.line}: {record.id} has no SET=train or SET=test")
        if values["SET"] not in ("train", "test"):
            raise ProtT5nvError(f"{file.name}: line {record.line}: SET={values['SET']} is neither train nor test")
        part = _part(values["SET"], values.get("VALIDATION"))
        if "TARGET" in values:
            yield LabelledRow(record.id, record.sequence, values["TARGET"], part)
        else:
            yield LabelledRow(record.id, "", record.sequence, part)


def read_table(file: FlipFile, part: str | None = None) -> Iterator[LabelledRow]:
    """Stream a CSV file: ``sequence``, the target, and ``set`` with ``validation`` unless `part` says the set.

    Raises
    ------
    ProtT5nvError
        If a column is missing, naming those that are there.
    """
    with file.open() as stream:
        rows = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
        columns = rows.fieldnames or []
        target = next((name for name in TARGET_COLUMNS if name in columns), None)
        mask = next((name for name in MASK_COLUMNS if name in columns), None)
        if target is None or "sequence" not in columns or (part is None and "set" not in columns):
            wanted = f"sequence, {' or '.join(TARGET_COLUMNS)}" + ("" if part else ", set")
            raise ProtT5nvError(f"{file.name}: expected columns {wanted}; found {', '.join(columns) or 'none'}")
        for number, row in enumerate(rows):
            yield LabelledRow(
                row.get("id") or f"Sequence{number}",
                row["sequence"],
                row[target],
                part or _part(row["set"], row.get("validation")),
                row[mask] if mask else None,
            )


def header_values(description: str) -> dict[str, str]:
    """The ``KEY=value`` words of a FASTA header.

    >>> header_values("1es5-A SET=train VALIDATION=False")
    {'SET': 'train', 'VALIDATION': 'False'}
    """
    return dict(word.split("=", 1) for word in description.split()[1:] if "=" in word)


def _part(name: str, validation: str | None) -> str:
    return "val" if name == "train" and (validation or "").lower() == "true" else name


def _member(archive: Path, stem: str, suffixes: tuple[str, ...]) -> FlipFile | None:
    try:
        with zipfile.ZipFile(archive) as file:
            members = [name for name in file.namelist() if "__MACOSX" not in name]
    except zipfile.BadZipFile as error:
        raise ProtT5nvError(f"{archive}: not a readable zip archive ({error}); copy or download it again") from None
    for suffix in suffixes:
        for member in members:
            if Path(member).name == f"{stem}{suffix}":
                return FlipFile(archive, member)
    return None
