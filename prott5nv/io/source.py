"""Opening what a user names: a file, a gzip file or standard input, with errors that name it."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prott5nv.errors import ProtT5nvError

if TYPE_CHECKING:
    from prott5nv.io.record import Record

_BUFFER = 1 << 20


class _Watched(io.RawIOBase):
    """A raw stream that shows every block of bytes to a listener as it is read."""

    def __init__(self, stream, listener: Callable[[memoryview], object]):
        self._stream = stream
        self._listener = listener

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        size = self._stream.readinto(buffer)
        self._listener(memoryview(buffer)[:size])
        return size


class _Unzipped(gzip.GzipFile):
    """Gives what it has at each call; the usual one loses up to a whole buffer where the data break off."""

    def readinto(self, buffer) -> int:
        return self.readinto1(buffer)


def source_name(path: str | os.PathLike) -> str:
    """Return the name by which messages call an input: its path, or ``standard input`` for ``-``."""
    return "standard input" if str(path) == "-" else str(path)


@contextmanager
def open_source(
    path: str | os.PathLike, on_read: Callable[[memoryview], object] | None = None
) -> Iterator[io.BufferedReader]:
    """Open a text file for reading bytes; gzip is recognised by its content, whatever the file is called.

    Parameters
    ----------
    path : str or PathLike
        A file, or ``-`` for standard input.
    on_read : callable, optional
        Called with each block of the bytes on disk (compressed, if they are), for a progress bar or a checksum.

    Yields
    ------
    io.BufferedReader
        The decompressed bytes; ``peek`` shows the beginning without consuming it.

    Raises
    ------
    ProtT5nvError
        The file is missing, unreadable, empty, binary, or its gzip data is damaged or breaks off. Errors met while
        reading inside the ``with`` block are turned into this one too.
    """
    name = source_name(path)
    try:
        standard_input = str(path) == "-"
        with open(0 if standard_input else path, "rb", _BUFFER, closefd=not standard_input) as file:
            stream = file if on_read is None else io.BufferedReader(_Watched(file, on_read), _BUFFER)
            if stream.peek(2)[:2] == b"\x1f\x8b":
                stream = io.BufferedReader(_Unzipped(fileobj=stream), _BUFFER)
            beginning = stream.peek(_BUFFER)
            if not beginning:
                raise ProtT5nvError(f"{name}: the file is empty")
            if b"\0" in beginning:
                raise ProtT5nvError(f"{name}: this is a binary file, not FASTA or CSV text")
            yield stream
    except EOFError:
        raise broken_off(name) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ProtT5nvError(f"{name}: the gzip data are damaged ({error}); copy or download the file again") from None
    except OSError as error:
        raise ProtT5nvError(f"{name}: {error.strerror or error}") from None


def broken_off(name: str, where: str = "") -> ProtT5nvError:
    """The error for gzip data without an end."""
    return ProtT5nvError(f"{name}: the gzip data break off{where}; copy or download the file again")


def until_break(records: Iterator[Record], name: str) -> Iterator[Record]:
    """Stream records; if gzip data break off, say after which of them."""
    record = None
    try:
        for record in records:
            yield record
    except EOFError:
        raise broken_off(name, f" after line {record.line}, record {record.id}" if record else "") from None
