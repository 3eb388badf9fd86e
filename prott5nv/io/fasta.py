"""Reader of FASTA files: each record is a header line that begins with ``>`` and any number of sequence lines."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator

from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record
from prott5nv.io.source import name_truncation, open_source, source_name

_BLOCK = 1 << 17  # small enough for the cache of a CPU core
_LONGEST_RECORD = 100_000_000
_LIMIT_VARIABLE = "PROTT5NV_LONGEST_RECORD"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_FORMATS = {
    b"ID   ": "UniProt or EMBL text format",
    b"LOCUS ": "GenBank format",
    b"CLUSTAL": "Clustal format",
    b"# STOCKHOLM": "Stockholm format",
}


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
        If the file is not readable FASTA, or a record has more than 100 MB, or than the environment variable
        ``PROTT5NV_LONGEST_RECORD`` allows. The message names file, line and record.

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
    text = stream.read1(_BLOCK).removeprefix(_BYTE_ORDER_MARK)
    line = 1
    while not (beginning := text.lstrip()):
        line += text.count(b"\n")
        text = stream.read1(_BLOCK)
        if not text:
            raise ProtT5nvError(f"{name}: the file holds no records")
    line += text[: len(text) - len(beginning)].count(b"\n")
    if not beginning.startswith(b">"):
        if other := other_format(beginning):
            raise ProtT5nvError(f"{name}: line {line}: this file is in {other}; save or convert it as FASTA")
        found = beginning.split(None, 1)[0][:20].decode("ascii", "backslashreplace")
        raise ProtT5nvError(f"{name}: line {line}: expected a header that begins with '>', found '{found}'")

    limit = _longest_record()
    for entry in _entries(beginning[1:], stream, limit):
        header, newline, body = entry.partition(b"\n")
        if len(entry) - entry.endswith(b"\n") > limit:
            shown = header.decode("ascii", "backslashreplace").strip()[:60]
            raise ProtT5nvError(
                f"{name}: line {line}: record {shown} has more than {limit:,} bytes, so the file is probably damaged; "
                f"to read it all the same, set the environment variable {_LIMIT_VARIABLE} to a larger number of bytes"
            )
        try:
            description = header.decode().strip()
        except UnicodeDecodeError as error:
            shown = header.decode("ascii", "backslashreplace").strip()[:60]
            raise ProtT5nvError(f"{name}: line {line}: header '{shown}' is not UTF-8 ({error.reason})") from None
        if not description:
            raise ProtT5nvError(f"{name}: line {line}: a header without a name follows '>'")
        record_id = description.split(None, 1)[0]
        if "\0" in description or not record_id.isprintable():
            raise ProtT5nvError(f"{name}: line {line}: header {description[:60]!a} has control characters")

        letters = body.replace(b"\n", b"")
        line_ends = len(body) - len(letters)
        if not letters.isalpha():  # it has white space, line ends of Windows, gaps or damage, or is empty
            parts = [part.strip() for part in body.split(b"\n")]
            letters = b"".join(parts)
            _check_lines(parts, letters, f"{name}: line {{}}: record {record_id}", line + 1)
            if not letters and not allow_empty:
                raise ProtT5nvError(f"{name}: line {line}: record {record_id} has no sequence")
            if not letters.isascii() and not allow_non_ascii:
                bad_line, byte = _first_non_ascii(body, line + 1)
                raise ProtT5nvError(
                    f"{name}: line {bad_line}: record {record_id} has the non-ASCII byte 0x{byte:02x} in its sequence"
                )
        yield Record(record_id, letters.decode("utf-8", "replace"), description, line)
        line += len(newline) + line_ends + 1  # splitting at the next header removed one more line end


def other_format(beginning: bytes) -> str | None:
    """Return the name of the format of proteins, other than FASTA, that a file begins like; None if there is none.

    Examples
    --------
    >>> other_format(b"ID   HBA_HUMAN   Reviewed;   142 AA."), other_format(b"ID,sequence")
    ('UniProt or EMBL text format', None)
    """
    return next((name for start, name in _OTHER_FORMATS.items() if beginning.startswith(start)), None)


def _longest_record() -> int:
    """Return the most bytes of a record, which the user can raise."""
    value = os.environ.get(_LIMIT_VARIABLE, "")
    if not value:
        return _LONGEST_RECORD
    if not re.fullmatch("[0-9]{1,18}", value) or not int(value):
        raise ProtT5nvError(f"{_LIMIT_VARIABLE}={value}: must be a number of bytes")
    return int(value)


def _entries(block: bytes, stream: io.BufferedReader, limit: int) -> Iterator[bytes]:
    """Stream the text of each record without its ``>``. The stream ends with the first record longer than `limit`.

    `block` is text that was already read from the stream.
    """
    # Splitting whole blocks is three times as fast as a loop over lines. The blocks of a long record are joined once,
    # so the time is linear in its length. For truncated gzip data, read1 returns all data before the end, and read
    # would lose some of them.
    parts: list[bytes] = []
    size = 0
    while True:
        if block.startswith(b">") and parts and parts[-1].endswith(b"\n"):  # the separator is on two blocks
            yield b"".join(parts)[:-1]
            parts, size, block = [], 0, block[1:]
        first, *others = block.split(b"\n>")
        parts.append(first)
        size += len(first)
        if others:
            yield b"".join(parts)
            yield from others[:-1]
            parts, size = [others[-1]], len(others[-1])
        if size > limit + 1:  # one more for the line end of the last line
            break
        block = stream.read1(_BLOCK)
        if not block:
            break
    yield b"".join(parts)


def _check_lines(parts: list[bytes], letters: bytes, where: str, first_line: int) -> None:
    """Refuse damaged sequence lines. `where` is file, line and record for error messages, with ``{}`` for the line."""
    if b"\0" in letters:
        number = next(index for index, part in enumerate(parts) if b"\0" in part)
        raise ProtT5nvError(f"{where.format(first_line + number)} has a NUL byte; the file is damaged")
    if b"--" in parts and letters.strip(b"-") and letters.count(b"-") == 2 * parts.count(b"--"):
        line = first_line + parts.index(b"--")
        raise ProtT5nvError(
            f"{where.format(line)} has the line '--', which grep -A writes between matches; remove these lines, for "
            "example with grep --no-group-separator"
        )


def _first_non_ascii(body: bytes, first_line: int) -> tuple[int, int]:
    """Return the line number and the value of the first non-ASCII byte."""
    lines = enumerate(body.split(b"\n"), first_line)
    return next((line, byte) for line, part in lines for byte in part if byte > 127)
