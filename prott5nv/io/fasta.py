"""FASTA: a header line that begins with ``>``, then the sequence on any number of lines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

from prott5nv.errors import ProtT5nvError
from prott5nv.io.records import Record
from prott5nv.io.source import open_source, source_name

_BLOCK = 1 << 20
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
        yield from parse_fasta(stream, source_name(path), allow_empty=allow_empty)


def parse_fasta(stream: BinaryIO, name: str, *, allow_empty: bool = False) -> Iterator[Record]:
    """Stream the records of FASTA text in an open stream of bytes; `name` is what errors call it."""
    text = stream.read(_BLOCK).removeprefix(_BYTE_ORDER_MARK)
    body = text.lstrip()
    line = 1 + text[: len(text) - len(body)].count(b"\n")
    if not body:
        raise ProtT5nvError(f"{name}: the file holds no records")
    if not body.startswith(b">"):
        found = body.split(None, 1)[0][:20].decode("ascii", "backslashreplace")
        raise ProtT5nvError(f"{name}: line {line}: expected a header that begins with '>', found {found!r}")

    # A record ends where a line begins with '>'. Whole blocks are split at once: a loop over lines is 3 times slower.
    rest = body[1:]
    while block := stream.read(_BLOCK):
        *entries, rest = (rest + block).split(b"\n>")
        for entry in entries:
            yield _record(entry, line, name, allow_empty)
            line += entry.count(b"\n") + 1
    for entry in rest.split(b"\n>"):
        yield _record(entry, line, name, allow_empty)
        line += entry.count(b"\n") + 1


def _record(entry: bytes, line: int, name: str, allow_empty: bool) -> Record:
    header, _, body = entry.partition(b"\n")
    try:
        description = header.decode().strip()
    except UnicodeDecodeError as error:
        shown = header.decode("ascii", "backslashreplace").strip()[:60]
        raise ProtT5nvError(f"{name}: line {line}: header {shown!r} is not UTF-8 ({error.reason})") from None
    if not description:
        raise ProtT5nvError(f"{name}: line {line}: a header without a name follows '>'")
    record_id = description.split(None, 1)[0]

    letters = body.translate(None, b"\r\n")
    if not letters.isalpha():  # anything but ASCII letters: white space, gaps, an empty or a damaged sequence
        letters = b"".join([part.strip() for part in body.splitlines()])
        if not letters and not allow_empty:
            raise ProtT5nvError(f"{name}: line {line}: record {record_id} has no sequence")
        if not letters.isascii():
            raise ProtT5nvError(f"{name}: {_first_non_ascii(body, line + 1, record_id)}")
    return Record(record_id, letters.decode("ascii"), description, line)


def _first_non_ascii(body: bytes, line: int, record_id: str) -> str:
    """Say where a sequence has a byte that is no letter of any protein alphabet."""
    for number, part in enumerate(body.splitlines(), line):
        for byte in part:
            if byte > 127:
                return f"line {number}: record {record_id} has the non-ASCII byte 0x{byte:02x} in its sequence"
    raise AssertionError("called for a sequence that is ASCII")
