"""Reader of FASTA files: each record is a header line that begins with ``>`` and any number of sequence lines."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator

from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record
from prott5nv.io.source import name_truncation, open_source, source_name

_BLOCK = 1 << 17  # small enough for the cache of a CPU core
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_fasta(
    path: str | os.PathLike,
    *,
    allow_empty: bool = False,
    on_read: Callable[[memoryview], object] | None = None,
) -> Iterator[Record]:
    """Stream the records of a FASTA file, which may be compressed with gzip.

    Lines may end with ``\\n`` or ``\\r\\n``. Blank lines, a byte order mark and a missing final newline are accepted.
    White space at both ends of a sequence line is removed. All other characters stay as they are.

    Parameters
    ----------
    path : str or PathLike
        File to read, or ``-`` for standard input.
    allow_empty : bool, default False
        Whether to yield records without a sequence. By default they are an error.
    on_read : callable, optional
        As for :func:`prott5nv.io.source.open_source`.

    Yields
    ------
    Record
        One record at a time, in the order of the file.

    Raises
    ------
    ProtT5nvError
        If the file is not readable FASTA. The message names file, line and record.

    Examples
    --------
    >>> from prott5nv.io.fasta import read_fasta
    >>> record = next(read_fasta("examples/proteins.fasta"))
    >>> record.description, len(record.sequence)
    ('sp|P69905|HBA_HUMAN Hemoglobin subunit alpha OS=Homo sapiens', 142)
    """
    with open_source(path, on_read) as stream:
        name = source_name(path)
        yield from name_truncation(parse_fasta(stream, name, allow_empty=allow_empty), name)


def parse_fasta(
    stream: io.BufferedReader, name: str, *, allow_empty: bool = False, allow_non_ascii: bool = False
) -> Iterator[Record]:
    """Stream the records of an open FASTA file.

    Parameters
    ----------
    stream : BufferedReader
        The open file.
    name : str
        Name of the input for error messages.
    allow_empty, allow_non_ascii : bool, default False
        As for :func:`prott5nv.io.reader.read_records`.

    Yields
    ------
    Record
        One record at a time, in the order of the file.

    Raises
    ------
    ProtT5nvError
        If the text is not FASTA. The message names file, line and record.
    """
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
        if not letters.isalpha():  # it has white space, line ends of Windows, gaps or damage, or is empty
            letters = b"".join([part.strip() for part in body.split(b"\n")])
            if not letters and not allow_empty:
                raise ProtT5nvError(f"{name}: line {line}: record {record_id} has no sequence")
            if not letters.isascii() and not allow_non_ascii:
                bad_line, byte = _first_non_ascii(body, line + 1)
                raise ProtT5nvError(
                    f"{name}: line {bad_line}: record {record_id} has the non-ASCII byte 0x{byte:02x} in its sequence"
                )
        yield Record(record_id, letters.decode("utf-8", "replace"), description, line)
        line += len(newline) + line_ends + 1  # splitting at the next header removed one more line end


def _entries(rest: bytes, stream: io.BufferedReader) -> Iterator[bytes]:
    """Stream the text of each record without its ``>``; `rest` is text that was already read from the stream."""
    # Splitting whole blocks is three times as fast as a loop over lines. For truncated gzip data, read1 returns all
    # data before the end, and read would lose some of them.
    while block := stream.read1(_BLOCK):
        *entries, rest = (rest + block).split(b"\n>")
        yield from entries
    yield from rest.split(b"\n>")


def _first_non_ascii(body: bytes, first_line: int) -> tuple[int, int]:
    """Return the line number and the value of the first non-ASCII byte."""
    lines = enumerate(body.split(b"\n"), first_line)
    return next((line, byte) for line, part in lines for byte in part if byte > 127)
