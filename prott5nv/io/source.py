"""Opening of input files, pipes and standard input, with or without gzip compression, and errors that name them."""

from __future__ import annotations

import gzip
import io
import os
import select
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prott5nv.errors import ProtT5nvError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from prott5nv.io.record import Record

_BUFFER = 1 << 20
#: Bytes that a small file, or one line of a text, may have.
MOST_SMALL = 1 << 26


class _FullReads(io.RawIOBase):
    """A raw stream whose reads are short only at the end of the data.

    A pipe returns what its writer has written so far, which can be a single byte, and gzip data end with each member.
    With full reads, one ``peek`` is enough to tell the format.
    """

    def __init__(self, stream: io.FileIO | _GzipStream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view):
            try:
                count = self._stream.readinto(view[filled:])
            except EOFError:  # Truncated gzip data. The next read raises this error again.
                if filled:
                    break
                raise
            if count is None:  # standard input that another program made non-blocking
                select.select([self._stream], [], [])
                continue
            if not count:
                break
            filled += count
        return filled

    def close(self) -> None:
        self._stream.close()
        super().close()


class _ObservedStream(io.RawIOBase):
    """A raw stream that passes each block of bytes to a callback as it is read."""

    def __init__(self, stream: io.BufferedReader, on_read: Callable[[memoryview], object]) -> None:
        self._stream = stream
        self._on_read = on_read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        size = self._stream.readinto(buffer)
        self._on_read(memoryview(buffer)[:size])
        return size


class _GzipStream(gzip.GzipFile):
    """A gzip stream that returns available data at once.

    If the data are truncated, the base class loses up to a whole buffer of data before the end.
    """

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self.readinto1(buffer)


def is_read_once(path: str | os.PathLike) -> bool:
    """Return whether an input can be read only once: standard input (``-``), a pipe such as ``<(...)``, or a device.

    Such an input must be opened once and read to its end. Opening it again loses data or waits forever.
    """
    if str(path) == "-":
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def require_file(path: str | os.PathLike) -> None:
    """Raise an error for an input that can be read only once, where a format needs a file.

    Parameters
    ----------
    path : str or PathLike
        The input.

    Raises
    ------
    ProtT5nvError
        If the input is standard input, a pipe or a device.
    """
    if is_read_once(path):
        raise ProtT5nvError(f"{source_name(path)}: this format cannot be read from a pipe: give the name of a file")


def read_small(path: str | os.PathLike, most: int = MOST_SMALL) -> bytes:
    """Read a file that is small if a program of this package has written it.

    Parameters
    ----------
    path : str or PathLike
        The file, which may come from a stranger.
    most : int
        Largest number of bytes.

    Returns
    -------
    bytes

    Raises
    ------
    ProtT5nvError
        If it is a pipe or a device, or larger.
    OSError
        If it cannot be opened.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ProtT5nvError(f"{path}: this is no plain file")
        content = file.read(most + 1)
    if len(content) > most:
        raise ProtT5nvError(f"{path}: this file has more than {most:,} bytes, so it is damaged or of another program")
    return content


def _open_at_once(path: str, flags: int) -> int:
    """Open a pipe without waiting for its other end: for the parameter `opener` of ``open``."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def plain_lines(path: str | os.PathLike) -> Iterator[str]:
    """Read the lines of a text file that may come from a stranger.

    Parameters
    ----------
    path : str or PathLike

    Yields
    ------
    str
        A line, with its line break.

    Raises
    ------
    ProtT5nvError
        If it is a pipe or a device, is not in UTF-8, or has a line that is larger than a small file.
    """
    with open(path, encoding="utf-8", newline="", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ProtT5nvError(f"{path}: this is no plain file")
        try:
            while line := file.readline(MOST_SMALL):
                if len(line) == MOST_SMALL:
                    raise ProtT5nvError(f"{path}: a line has more than {MOST_SMALL:,} characters")
                yield line
        except UnicodeDecodeError:
            raise ProtT5nvError(f"{path}: this is not a text file in UTF-8") from None


def source_name(path: str | os.PathLike) -> str:
    """Return the name of an input for messages, which is its path, or ``standard input`` for ``-``."""
    return "standard input" if str(path) == "-" else str(path)


@contextmanager
def open_source(
    path: str | os.PathLike, on_read: Callable[[memoryview], object] | None = None
) -> Iterator[io.BufferedReader]:
    """Open a text file or pipe to read its bytes. Gzip compression is detected from the content, not from the name.

    Parameters
    ----------
    path : str or PathLike
        File to open, or ``-`` for standard input.
    on_read : callable, optional
        Function that gets each block of bytes as they are in the file, before decompression. It serves progress bars
        and checksums.

    Yields
    ------
    BufferedReader
        The decompressed bytes. Its ``peek`` returns the beginning without consuming it.

    Raises
    ------
    ProtT5nvError
        If the file is missing, unreadable, empty or binary, or its gzip data are damaged or truncated. Errors while
        reading inside the ``with`` block are converted to this error, too.
    """
    name = source_name(path)
    try:
        standard_input = str(path) == "-"
        raw = io.FileIO(0 if standard_input else path, closefd=not standard_input)
        file: io.BufferedReader[Any] = io.BufferedReader(_FullReads(raw), _BUFFER)
        with file:
            stream = file if on_read is None else io.BufferedReader(_ObservedStream(file, on_read), _BUFFER)
            if stream.peek(2)[:2] == b"\x1f\x8b":
                stream = io.BufferedReader(_FullReads(_GzipStream(fileobj=stream)), _BUFFER)
            beginning = stream.peek(_BUFFER)
            if not beginning:
                raise ProtT5nvError(f"{name}: the file is empty")
            if beginning.startswith(b"PAR1"):
                raise ProtT5nvError(f"{name}: Parquet can be read only from an uncompressed file, not from a pipe")
            if _is_spreadsheet(beginning):
                raise _spreadsheet_error(name)
            if b"\0" in beginning:
                raise ProtT5nvError(f"{name}: this is a binary file, not FASTA or CSV text")
            yield stream
    except EOFError:
        raise _truncated(name) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ProtT5nvError(f"{name}: the gzip data are damaged ({error}); copy or download the file again") from None
    except OSError as error:
        raise ProtT5nvError(f"{name}: {error.strerror or error}") from None


def refuse_spreadsheet(path: str | os.PathLike) -> None:
    """Raise an error for a name such as ``table.xlsx``, before such a file is taken for something else.

    Parameters
    ----------
    path : str or PathLike
        Name of an input.

    Raises
    ------
    ProtT5nvError
        If the name has the suffix of Excel or LibreOffice.
    """
    if os.fspath(path).lower().endswith((".xlsx", ".xls", ".ods")):
        raise _spreadsheet_error(source_name(path))


def _spreadsheet_error(name: str) -> ProtT5nvError:
    return ProtT5nvError(f"{name}: this is a file of a spreadsheet program; save the table as CSV")


def _is_spreadsheet(beginning: bytes) -> bool:
    """Return whether a file begins like one of Excel (.xlsx, .xls) or LibreOffice (.ods)."""
    is_zip = beginning.startswith(b"PK\3\4")
    is_zipped_table = any(part in beginning for part in (b"[Content_Types].xml", b"xl/", b"opendocument.spreadsheet"))
    return beginning.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") or (is_zip and is_zipped_table)


def _truncated(name: str, where: str = "") -> ProtT5nvError:
    return ProtT5nvError(f"{name}: the gzip data are truncated{where}; copy or download the file again")


def name_truncation(records: Iterator[Record], name: str) -> Iterator[Record]:
    """Stream records, and convert the error for truncated gzip data to one that names the last complete record.

    Parameters
    ----------
    records : iterator of Record
        Records of a parser.
    name : str
        Name of the input for the error message.

    Yields
    ------
    Record
        The given records.

    Raises
    ------
    ProtT5nvError
        If the gzip data of the input are truncated.
    """
    record = None
    try:
        for record in records:
            yield record
    except EOFError:
        raise _truncated(name, f" after line {record.line}, record {record.id}" if record else "") from None
