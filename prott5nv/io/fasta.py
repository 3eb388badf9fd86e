"""FASTA: a header line that begins with ``>``, then the sequence on any number of lines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record
from prott5nv.io.source import open_source, source_name, until_break

_BLOCK = 1 << 17  # small enough to stay in the cache of a core
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_fasta(
    path: str | os.PathLike,
    *,
    allow_empty: bool = False,
    on_read: Callable[[memoryview], object] | None = None,
) -> Iterator[Record]:
    """Stream the records of a FASTA file, gzipped or not.

    Line ends may be ``\\n`` or ``\\r\\n``; blank lines, a byte order mark and a missing final newline do no harm.
    White space at the ends of a sequence line is dropped, nothing else is changed.

    Parameters
    ----------
    path : str or PathLike
        The file, or ``-`` for standard input.
    allow_empty : bool, default False
        Yield records without a sequence, instead of refusing the file.
    on_read : callable, optional
        See `prott5nv.io.source.open_source`.

    Yields
    ------
    Record
        In the order of the file, one at a time.

    Raises
    ------
    ProtT5nvError
        The file is not readable FASTA; the message names file, line and record.

    Examples
    --------
    >>> from prott5nv.io.fasta import read_fasta
    >>> record = next(read_fasta("examples/proteins.fasta"))
    >>> record.description, len(record.sequence)
    ('sp|P69905|HBA_HUMAN Hemoglobin subunit alpha OS=Homo sapiens', 142)
    """
    with open_source(path, on_read) as stream:
        name = source_name(path)
        yield from until_break(parse_fasta(stream, name, allow_empty=allow_empty), name)


def parse_fasta(
    stream: BinaryIO, name: str, *, allow_empty: bool = False, allow_non_ascii: bool = False
) -> Iterator[Record]:
    """Stream the records of FASTA text in an open stream of bytes; `name` is what errors call it."""
    text = stream.read(_BLOCK).removeprefix(_BYTE_ORDER_MARK)
    beginning = text.lstrip()
    line = 1 + text[: len(text) - len(beginning)].count(b"\n")
    if not beginning:
        raise ProtT5nvError(f"{name}: the file holds no records")
    if not beginning.startswith(b">"):
        found = beginning.split(None, 1)[0][:20].decode("ascii", "backslashreplace")
        raise ProtT5nvError(f"{name}: line {line}: expected a header that begins with '>', found '{found}'")

    for entry in _entries(beginning[1:], stream):
        header, newline, body = entry.partition(b"\n")
        try:
            description = header.decode().strip()
        except UnicodeDecodeError as error:
            shown = header.decode("ascii", "backslashreplace").strip()[:60]
            raise ProtT5nvError(f"{name}: line {line}: header '{shown}' is not UTF-8 ({error.reason})") from None
        if not description:
            raise ProtT5nvError(f"{name}: line {line}: a header without a name follows '>'")
        record_id = description.split(None, 1)[0]

        letters = body.replace(b"\n", b"")
        line_ends = len(body) - len(letters)
        if not letters.isalpha():  # white space, CRLF, gaps, nothing, damage
            letters = b"".join([part.strip() for part in body.split(b"\n")])
            if not letters and not allow_empty:
                raise ProtT5nvError(f"{name}: line {line}: record {record_id} has no sequence")
            if not letters.isascii() and not allow_non_ascii:
                place, byte = _first_non_ascii(body, line + 1)
                raise ProtT5nvError(
                    f"{name}: line {place}: record {record_id} has the non-ASCII byte 0x{byte:02x} in its sequence"
                )
        yield Record(record_id, letters.decode("utf-8", "replace"), description, line)
        line += len(newline) + line_ends + 1  # the last one was taken by the split


def _entries(rest: bytes, stream: BinaryIO) -> Iterator[bytes]:
    """Stream the text between one ``>`` at the beginning of a line and the next."""
    # Splitting whole blocks at once is three times as fast as a loop over lines. read1, because read would lose what
    # came before a break in gzip data.
    while block := stream.read1(_BLOCK):
        *entries, rest = (rest + block).split(b"\n>")
        yield from entries
    yield from rest.split(b"\n>")


def _first_non_ascii(body: bytes, first_line: int) -> tuple[int, int]:
    """Return the line and the value of the first byte that no protein alphabet has."""
    lines = enumerate(body.split(b"\n"), first_line)
    return next((line, byte) for line, part in lines for byte in part if byte > 127)
