"""FLIP's own files, in a folder, in the ``splits.zip`` archives of a checkout, or at a web address."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast
from urllib.error import URLError
from urllib.request import urlopen

from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import Cleaning, clean_labelled, refuse_missing, select
from prott5nv.io.delimited import DelimitedTable
from prott5nv.io.fasta import parse_fasta
from prott5nv.io.record import Record
from prott5nv.io.source import open_source

# Names of the columns in FLIP's tables and in those of BioNeMo v1.
TARGET_COLUMNS = ("target", "3state", "conservation", "label")
MASK_COLUMNS = ("mask", "resolved")
_ARCHIVE = "splits.zip"


class LabelledRow(NamedTuple):
    """One protein of a labelled file, unchanged.

    Attributes
    ----------
    id : str
    sequence : str
        Empty if the file holds labels only.
    target : str
    set : str
        ``train``, ``val`` or ``test``.
    mask : str or None
        One character per residue: ``1`` if its label is scored.
    where : str
        File and line for error messages.
    """

    id: str
    sequence: str
    target: str
    set: str
    mask: str | None = None
    where: str = ""


class FlipFile(NamedTuple):
    """A file, or a member of a zip archive.

    Attributes
    ----------
    path : Path
    member : str or None
        Name within the archive.
    """

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """Name for error messages."""
        return f"{self.path}: {self.member}" if self.member else str(self.path)

    @property
    def is_table(self) -> bool:
        """Whether it is a CSV table; otherwise it is FASTA."""
        return ".csv" in Path(self.member or self.path).suffixes

    @contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """Open the file, uncompressed, for reading bytes."""
        if self.member is None:
            with open_source(self.path) as stream:
                yield stream
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            yield io.BufferedReader(cast(io.RawIOBase, stream))

    def records(self) -> Iterator[Record]:
        """Stream the FASTA records."""
        with self.open() as stream:
            yield from parse_fasta(stream, self.name)

    def git_hash(self) -> str:
        """Return the hash that git computes for the file on disk, which identifies FLIP's own archives."""
        content = self.path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class FlipSource:
    """The place of FLIP's files; use it as a context manager.

    Parameters
    ----------
    location : str or PathLike
        A folder with one folder for each task, the folder of a single task, a checkout of FLIP, or the web address of
        such a folder. Files from the web are downloaded to a temporary folder, which is removed at the end.

    Raises
    ------
    ProtT5nvError
        If there is no such folder.
    """

    def __init__(self, location: str | os.PathLike[str]):
        self.location = str(location)
        is_web = self.location.startswith(("http://", "https://"))
        self._downloads = tempfile.TemporaryDirectory() if is_web else None
        if not is_web and not Path(location).is_dir():
            raise ProtT5nvError(f"{location}: no such folder; --from takes a folder of FLIP's files or its web address")

    def __enter__(self) -> FlipSource:
        return self

    def __exit__(self, *_: object) -> None:
        if self._downloads is not None:
            self._downloads.cleanup()

    def find(self, task: str, stem: str, suffixes: tuple[str, ...] = (".fasta", ".csv")) -> FlipFile | None:
        """Find a file of a task, gzipped or not, or a member of its archive.

        Parameters
        ----------
        task : str
        stem : str
            Name of the file without suffix.
        suffixes : tuple of str
            Suffixes to look for, in this order.

        Returns
        -------
        FlipFile or None
            None if there is no such file.

        Raises
        ------
        ProtT5nvError
            If an archive is damaged or a download fails.
        """
        if self._downloads is not None:
            return self._download(Path(self._downloads.name), task, stem, suffixes)
        root = Path(self.location)
        folders = [folder for folder in (root / task, root / "splits" / task, root) if folder.is_dir()]
        for folder in folders:
            for suffix in suffixes:
                for path in (folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.gz"):
                    if path.is_file():
                        return FlipFile(path)
            if (folder / _ARCHIVE).is_file():
                member = _find_member(folder / _ARCHIVE, stem, suffixes)
                if member:
                    return member
        return None

    def tables(self, task: str) -> dict[str, list[FlipFile]]:
        """Find the CSV tables of a task in the layout of BioNeMo v1: folders ``train``, ``val`` and ``test``.

        Parameters
        ----------
        task : str

        Returns
        -------
        dict of str to list of FlipFile
            The tables of each set; empty if there is no such layout.
        """
        if self._downloads is not None:
            return {}
        for folder in (Path(self.location) / task, Path(self.location)):
            paths_by_set = {name: sorted((folder / name).glob("*.csv*")) for name in ("train", "val", "test")}
            if all(paths_by_set.values()):
                return {name: [FlipFile(path) for path in paths] for name, paths in paths_by_set.items()}
        return {}

    def _download(self, folder: Path, task: str, stem: str, suffixes: tuple[str, ...]) -> FlipFile | None:
        for suffix in suffixes:
            address = f"{self.location.rstrip('/')}/{task}/{stem}{suffix}"
            path = folder / f"{task}-{stem}{suffix}"
            try:
                with urlopen(address, timeout=60) as response:
                    path.write_bytes(response.read())
                return FlipFile(path)
            except URLError as error:
                if getattr(error, "code", None) != 404:
                    raise ProtT5nvError(f"{address}: {error}; is the address right?") from None
        return None


def read_labelled(file: FlipFile) -> Iterator[LabelledRow]:
    """Stream the proteins of a FASTA file with ``TARGET= SET= VALIDATION=`` in its headers, or of FLIP's CSV.

    If the headers have no ``TARGET``, the lines below them are labels, one letter per residue.

    Parameters
    ----------
    file : FlipFile

    Yields
    ------
    LabelledRow

    Raises
    ------
    ProtT5nvError
        If a record has no valid set; the message names file and line.
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
        where = f"{file.name}: line {record.line}"
        if "TARGET" in values:
            yield LabelledRow(record.id, record.sequence, values["TARGET"], part, where=where)
        else:
            yield LabelledRow(record.id, "", record.sequence, part, where=where)


def read_table(file: FlipFile, part: str | None = None) -> Iterator[LabelledRow]:
    """Stream the proteins of a CSV file.

    Parameters
    ----------
    file : FlipFile
        With the columns ``sequence``, the target and, unless `part` is given, ``set``.
    part : str, optional
        Set of all proteins in the file.

    Yields
    ------
    LabelledRow

    Raises
    ------
    ProtT5nvError
        If a column is missing, in which case the message names the existing ones; or if a set is blank or unknown.
    """
    with file.open() as stream:
        table = DelimitedTable(stream, file.name)
        columns = table.columns
        target = next((name for name in TARGET_COLUMNS if name in columns), None)
        mask = next((name for name in MASK_COLUMNS if name in columns), None)
        if target is None or "sequence" not in columns or (part is None and "set" not in columns):
            expected = f"sequence, {' or '.join(TARGET_COLUMNS)}" + ("" if part else ", set")
            raise ProtT5nvError(f"{file.name}: expected columns {expected}; found {', '.join(columns) or 'none'}")
        rows = list(table.dictionaries())
        if part is None:
            refuse_missing(((f"{file.name}: line {line}", row["set"]) for line, row in rows), "set")
        for number, (line, row) in enumerate(rows):
            part_of_row = part or _part(row["set"].strip(), row.get("validation"))
            if part_of_row not in ("train", "val", "test"):
                raise ProtT5nvError(f"{file.name}: line {line}: set {row['set']!r}: expected one of train, val, test")
            yield LabelledRow(
                row.get("id") or f"Sequence{number}",
                row["sequence"].strip(),
                row[target].strip(),
                part_of_row,
                row[mask] if mask else None,
                f"{file.name}: line {line}",
            )


def clean_rows(rows: list[LabelledRow], level: str, name: str, cleaning: Cleaning) -> list[LabelledRow]:
    """Clean the sequences of rows; see :mod:`prott5nv.io.cleaning`. Targets and masks of residues are cleaned alike.

    Parameters
    ----------
    rows : list of LabelledRow
        Rows with a sequence.
    level : str
        ``residue`` if a target has one character per residue.
    name : str
        Name of the input in messages.
    cleaning : Cleaning
        What to do with gaps and nucleotides.

    Returns
    -------
    list of LabelledRow

    Raises
    ------
    ProtT5nvError
        If a sequence or a target is missing, or a sequence cannot be used; the message names file, line and protein.
    """
    refuse_missing(((f"{row.where}: {row.id}", row.target) for row in rows), "target")
    refuse_missing(((f"{row.where}: {row.id}", row.sequence) for row in rows), "sequence")
    cleaned = []
    sequences = clean_labelled([(f"{row.where}: {row.id}", row.sequence) for row in rows], name, cleaning)
    for row, (sequence, kept) in zip(rows, sequences, strict=True):
        if kept is not None:
            length = len(row.sequence)
            target = "".join(select(row.target, kept, length)) if level == "residue" else row.target
            mask = row.mask and "".join(select(row.mask, kept, length))
            row = row._replace(sequence=sequence, target=target, mask=mask)
        cleaned.append(row)
    return cleaned


def header_values(description: str) -> dict[str, str]:
    """Return the ``KEY=value`` words of a FASTA header.

    >>> header_values("1es5-A SET=train VALIDATION=False")
    {'SET': 'train', 'VALIDATION': 'False'}
    """
    return dict(word.split("=", 1) for word in description.split()[1:] if "=" in word)


def _part(name: str, validation: str | None) -> str:
    return "val" if name == "train" and (validation or "").lower() == "true" else name


def _find_member(archive: Path, stem: str, suffixes: tuple[str, ...]) -> FlipFile | None:
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
