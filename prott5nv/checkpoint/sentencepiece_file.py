"""The SentencePiece file inside a checkpoint, compared with ProtT5nv's vocabulary.

Ids mean nothing without the vocabulary that gave them, so a file trained with another one must not be embedded with
ours. The pieces are read here rather than by the SentencePiece library, which is native code that expects a friendly
file.
"""

from __future__ import annotations

from collections.abc import Iterator

from prott5nv.errors import ProtT5nvError
from prott5nv.model.tokenizer import LAST_RESIDUE, VOCABULARY

MAX_SIZE = 1 << 24

_PIECE_FIELD = 1  # ModelProto.pieces, and SentencePiece.piece in it
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check(model: bytes, where: str) -> None:
    """Refuse a SentencePiece model with other pieces than ProtT5nv's.

    Parameters
    ----------
    model : bytes
        A serialised ``ModelProto``.
    where : str
        File and member, for messages.

    Raises
    ------
    ProtT5nvError
        Showing the first piece that differs.
    """
    expected = VOCABULARY[: LAST_RESIDUE + 1]
    try:
        found = pieces(model)
    except (IndexError, UnicodeDecodeError):
        raise ProtT5nvError(f"{where}: damaged; expected a SentencePiece model") from None
    for i in range(max(len(expected), len(found))):
        theirs, ours = (repr(names[i][:40]) if i < len(names) else "no piece" for names in (found, expected))
        if theirs != ours:
            raise ProtT5nvError(f"{where}: another vocabulary: piece {i} is {theirs}, ProtT5nv's is {ours}")


def pieces(model: bytes) -> list[str]:
    """Pieces of a SentencePiece model in order of their ids."""
    names = []
    for field, message in _fields(model):
        if field == _PIECE_FIELD:
            names.append(next((bytes(text).decode() for part, text in _fields(message) if part == _PIECE_FIELD), ""))
    return names


def _fields(message: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Length-delimited fields of a protocol-buffer message; numbers are passed over.

    Raises IndexError where the message is cut short or is none.
    """
    view = memoryview(message)
    position = 0

    def varint() -> int:
        nonlocal position
        value = 0
        for shift in range(0, 70, 7):
            byte = view[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise IndexError

    while position < len(view):
        key = varint()
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            varint()
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length = varint()
            if position + length > len(view):
                raise IndexError
            yield field, view[position : position + length]
            position += length
        else:
            raise IndexError
    if position > len(view):
        raise IndexError
