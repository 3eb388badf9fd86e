"""Random access to the proteins in CSV files, which are memory-mapped and never loaded as a whole.

The layout is that of BioNeMo v1: a header line ``record_id,record_name,sequence_length,sequence``, then one row for
each protein. A name that contains a comma or a quote is quoted, as in any CSV file; the other fields are not. An index
beside each file holds the start of each row in 8 bytes; it is built on first use. All workers and ranks share the files
and the indices through the page cache.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import string
from bisect import bisect_right
from collections.abc import Sequence
from io import FileIO
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from prott5nv.data import CSV_HEADER
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file
from prott5nv.io.output import check_no_link
from prott5nv.model.tokenizer import ProteinTokenizer

_BLOCK = 1 << 24  # bytes read at a time while indexing and checking
_ROW = re.compile(r'[^,"]*,("(?:[^"]|"")*"|(?!")[^,]*),[^,"]*,([^,"]+)')
_COMMA, _NEWLINE, _RETURN, _QUOTE = b',\n\r"'

# A row with another character in its sequence is parsed and checked on its own.
_RESIDUES = (string.ascii_letters + "*-").encode()


class CSVDataset:
    """The proteins of one split in one or more CSV files.

    Parameters
    ----------
    dataset_path : str or Path
        Folder that ``prott5nv prepare uniref50`` made, with a folder for each split.
    split : str
        ``train``, ``val`` or ``test``.
    files : str or sequence of str
        File names, with or without ``.csv``. ``x[000..049]`` stands for x000.csv to x049.csv, ``x*`` for all files.

    Raises
    ------
    ProtT5nvError
        If a file is missing or has another header, or if there is no record.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "train").mkdir()
    >>> text = "record_id,record_name,sequence_length,sequence\\n0,UniRef50_A,5,MSLKR\\n1,UniRef50_B,3,MKV\\n"
    >>> _ = (folder / "train" / "x000.csv").write_text(text)
    >>> proteins = CSVDataset(folder, "train", "x[000..000]")
    >>> len(proteins), proteins[0], proteins.record_name(1)
    (2, 'MSLKR', 'UniRef50_B')
    """

    def __init__(self, dataset_path: str | Path, split: str, files: str | Sequence[str]):
        self._arguments = (dataset_path, split, files)
        self.paths = _find(Path(dataset_path) / split, expand_files(files))
        self._maps: list[mmap.mmap] = []
        self._offsets: list[np.ndarray] = []
        for path in self.paths:
            with open(path, "rb") as file:
                _check_header(file, path)
                self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            self._offsets.append(open_index(path))
        # First record of each file, and the number of all records.
        self._first = list(accumulate((len(offsets) - 1 for offsets in self._offsets), initial=0))
        if len(self) == 0:
            raise ProtT5nvError(f"{self.paths[0].parent}: {', '.join(path.name for path in self.paths)} hold no record")

    def __reduce__(self) -> tuple[Any, ...]:
        # Memory maps cannot be pickled, so a worker process that was spawned opens its own.
        return CSVDataset, self._arguments

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, index: int) -> str:
        """Return the sequence of a record."""
        return self.row(index)[1]

    def record_name(self, index: int) -> str:
        """Return the name (accession) of a record."""
        return self.row(index)[0]

    def row(self, index: int) -> tuple[str, str]:
        """Return the name and the sequence of a record.

        Parameters
        ----------
        index : int

        Returns
        -------
        (str, str)

        Raises
        ------
        IndexError
            If there is no such record.
        ProtT5nvError
            If its row does not have four fields. Only the name may be quoted.
        """
        file, record, text = self._text(index)
        match = _ROW.fullmatch(text)
        if match is None:
            raise ProtT5nvError(
                f"{self.paths[file]}, line {record + 2}: not a row of {CSV_HEADER.decode()} (four fields, and only the "
                "name may be quoted); write the file with `prott5nv prepare uniref50`"
            )
        name, sequence = match.groups()
        return name[1:-1].replace('""', '"') if name.startswith('"') else name, sequence

    def _text(self, index: int) -> tuple[int, int, str]:
        """Return the number of the file, the number of the record in it, and the row without its line end."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        file = bisect_right(self._first, index) - 1
        record = index - self._first[file]
        start, end = self._offsets[file][record : record + 2].tolist()
        return file, record, self._maps[file][start:end].rstrip(b"\r\n").decode("utf-8", errors="replace")

    def check(self, first: int = 0, last: int | None = None) -> tuple[int, int]:
        """Check that records can be used, so that a bad one is found before training and not in the middle of it.

        Parameters
        ----------
        first : int, default 0
            First record to check.
        last : int, optional
            End of the records to check; by default the number of records.

        Returns
        -------
        residues : int
            Number of residues of the checked records.
        longest : int
            Number of residues of the longest of them.

        Raises
        ------
        ProtT5nvError
            If a row does not have four fields, a sequence has a character that is not a residue, or an index does not
            fit its file. The message names file and line.
        """
        residues = longest = 0
        last = len(self) if last is None else last
        for file, start_of_file in enumerate(self._first[:-1]):
            offsets = self._offsets[file]
            record, end = max(0, first - start_of_file), min(len(offsets) - 1, last - start_of_file)
            while record < end:
                # As many whole rows as fit into a block, but at least one.
                fitting = int(np.searchsorted(offsets, offsets[record] + _BLOCK, side="right")) - 1
                stop = min(max(fitting, record + 1), end)
                lengths = self._check_rows(file, record, stop)
                residues, longest = residues + int(lengths.sum()), max(longest, int(lengths.max()))
                record = stop
        return residues, longest

    def _check_rows(self, file: int, first: int, last: int) -> np.ndarray:
        """Check consecutive rows of a file, and return the number of residues of each."""
        text, starts = self._rows(file, first, last)
        # Without residues, little remains of a row, and it ends with a comma if the sequence has only residues.
        rest = np.frombuffer(text.translate(None, _RESIDUES), dtype=np.uint8)
        rest_ends = np.flatnonzero(rest == _NEWLINE)
        block = np.frombuffer(text, dtype=np.uint8)
        if len(rest_ends) != last - first or not (block[starts[1:] - 1] == _NEWLINE).all():
            raise self._damaged_index(file)
        commas_before = np.searchsorted(np.flatnonzero(rest == _COMMA), np.append(0, rest_ends))
        before_end = np.where(rest[rest_ends - 1] == _RETURN, rest_ends - 2, rest_ends - 1)
        is_plain = (np.diff(commas_before) == 3) & (rest[before_end] == _COMMA)
        is_plain[np.searchsorted(rest_ends, np.flatnonzero(rest == _QUOTE))] = False
        commas = np.append(np.flatnonzero(block == _COMMA), 0)
        ends = starts[1:] - np.where(block[starts[1:] - 2] == _RETURN, 2, 1)
        lengths = ends - commas[commas_before[1:] - 1] - 1  # only a row with commas is plain
        is_plain &= lengths > 0
        for index in np.flatnonzero(~is_plain).tolist():
            lengths[index] = self._check_record(self._first[file] + first + index)
        return lengths

    def _rows(self, file: int, first: int, last: int) -> tuple[bytes, np.ndarray]:
        """Return the text of consecutive rows, and where each row starts in it, followed by the end of the last one."""
        offsets = self._offsets[file][first : last + 1]
        start = int(offsets[0])
        text, starts = self._maps[file][start : int(offsets[-1])], offsets - start
        if last == len(self._offsets[file]) - 1:
            text = text.rstrip(b"\r\n") + b"\n"  # blank lines may follow the last row
            starts[-1] = len(text)
        follows_header = first > 0 or self._maps[file][:start].rstrip(b"\r\n") == CSV_HEADER
        if not follows_header or starts[-1] != len(text) or (np.diff(starts) <= 0).any():
            raise self._damaged_index(file)
        return text, starts

    def _damaged_index(self, file: int) -> ProtT5nvError:
        path = self.paths[file]
        return ProtT5nvError(f"{path}: the index of this file, {path.name}.idx, does not fit it; delete the index")

    def _check_record(self, index: int) -> int:
        """Check one record, and return the number of its residues."""
        name, sequence = self.row(index)
        try:
            ProteinTokenizer().encode_batch([sequence.upper()], [name])
        except ProtT5nvError as error:
            file, record, _ = self._text(index)
            raise ProtT5nvError(f"{self.paths[file]}, line {record + 2}: {error}") from None
        return len(sequence)


def expand_files(files: str | Sequence[str]) -> list[str]:
    """Expand ranges such as ``x[000..049]`` to file names. BioNeMo v1's ``x_OP_000..049_CL_`` means the same.

    Parameters
    ----------
    files : str or sequence of str
        As in the setting ``model.data.dataset.train``.

    Returns
    -------
    list of str

    Raises
    ------
    ProtT5nvError
        If a range runs backwards.

    Examples
    --------
    >>> expand_files("x[008..010]")
    ['x008.csv', 'x009.csv', 'x010.csv']
    >>> expand_files("x_OP_008..009_CL_")
    ['x008.csv', 'x009.csv']
    >>> expand_files(["x000", "x001.csv"])
    ['x000.csv', 'x001.csv']
    """
    if not isinstance(files, str):
        return [name for part in files for name in expand_files(part)]
    bounds = re.search(r"(?:\[|_OP_)(\d+)\.\.(\d+)(?:\]|_CL_)", files)
    if not bounds:
        return [files if files.endswith(".csv") else f"{files}.csv"]
    first, last = bounds.groups()
    if int(last) < int(first):
        raise ProtT5nvError(f"{files}: the range runs backwards; write x[000..049] for x000.csv to x049.csv")
    numbers = (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))
    return [name for n in numbers for name in expand_files(files[: bounds.start()] + n + files[bounds.end() :])]


def open_index(path: Path) -> np.ndarray:
    """Open the index of a CSV file, or build it.

    The index is beside the file, or below ``$XDG_CACHE_HOME/prott5nv`` if that folder cannot be written. An existing
    index is used only if the size and the modification time of the CSV file have not changed. The index is written
    atomically, so any number of processes may build it at the same time.

    Parameters
    ----------
    path : Path
        The CSV file.

    Returns
    -------
    ndarray, shape=(records + 1,), dtype=int64
        Start of each row and end of the last one, in bytes. Memory-mapped.
    """
    beside = path.with_name(f"{path.name}.idx")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prott5nv" / "index"
    elsewhere = cache / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.idx"
    for index_path in (beside, elsewhere):
        if (offsets := _read_index(index_path, path)) is not None:
            return offsets
    if os.access(path.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return _build_index(path, beside)
    cache.mkdir(parents=True, exist_ok=True)
    return _build_index(path, elsewhere)


# An index file holds little-endian int64 numbers: the modification time of the CSV file in ns, the start of each row,
# and the size of the file.


def _read_index(index_path: Path, path: Path) -> np.ndarray | None:
    """Read the offsets, or return None if there is no complete index of the CSV file as it is now."""
    if not index_path.is_file():  # Opening a pipe would wait for its other end.
        return None
    try:
        index = np.memmap(index_path, dtype="<i8", mode="r").view(np.ndarray)
    except (FileNotFoundError, ValueError):
        return None
    stat = path.stat()
    return index[1:] if index[0] == stat.st_mtime_ns and index[-1] == stat.st_size else None


def _build_index(path: Path, index_path: Path) -> np.ndarray:
    check_no_link(index_path)
    with whole_file(index_path) as temporary, open(temporary, "wb") as index, open(path, "rb", buffering=0) as file:
        stat = os.fstat(file.fileno())
        np.array([stat.st_mtime_ns], dtype="<i8").tofile(index)
        end = _end_of_last_row(file)
        block = np.empty(_BLOCK, dtype=np.uint8)
        start = file.seek(0)
        while count := file.readinto(block.data):
            newlines = np.flatnonzero(block[:count] == ord("\n")) + start
            (newlines[newlines < end] + 1).astype("<i8").tofile(index)
            start += count
        np.array([stat.st_size], dtype="<i8").tofile(index)
    return np.memmap(index_path, dtype="<i8", mode="r").view(np.ndarray)[1:]


def _end_of_last_row(file: FileIO) -> int:
    """Return where the text ends, without blank lines at the end."""
    size = file.seek(0, os.SEEK_END)
    tail_start = file.seek(max(0, size - 4096))
    return tail_start + len(file.read().rstrip(b"\r\n"))


def _check_header(file: BinaryIO, path: Path) -> None:
    header = file.readline(len(CSV_HEADER) + 2).rstrip(b"\r\n")
    if header != CSV_HEADER:
        raise ProtT5nvError(
            f"{path}, line 1: the header must be {CSV_HEADER.decode()}; write the file with `prott5nv prepare uniref50`"
        )


def _find(folder: Path, patterns: list[str]) -> list[Path]:
    if not patterns:
        raise ProtT5nvError(
            f"{folder}: no file is named; write model.data.dataset.{folder.name}='x*' for all files of the folder"
        )
    names = [name for pattern in patterns for name in sorted(path.name for path in folder.glob(pattern)) or [pattern]]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        if not folder.parent.is_dir():
            makes = f"`prott5nv prepare uniref50 FASTA -o {folder.parent}` makes it"
            raise ProtT5nvError(f"{folder.parent}: no such folder; {makes}")
        if packed := sorted(folder.glob(f"{missing[0]}.gz")):
            raise ProtT5nvError(f"{packed[0]}: pretraining reads uncompressed files only; unpack a copy of this folder")
        raise ProtT5nvError(
            f"{folder}: {len(missing)} of {len(names)} files missing, {missing[0]} first; make them with "
            f"`prott5nv prepare uniref50 FASTA -o {folder.parent}`, or name existing files in model.data.dataset"
        )
    return [folder / name for name in names]
