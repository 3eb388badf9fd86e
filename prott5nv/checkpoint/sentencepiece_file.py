"""Reader of SentencePiece files, and comparison of the one in a checkpoint with ProtT5nv's vocabulary.

A model that was trained with another vocabulary would give wrong results with ours. This module parses the file itself,
because the SentencePiece library is native code that trusts its input.
"""

from __future__ import annotations

from collections.abc import Iterator

from prott5nv.errors import ProtT5nvError
from prott5nv.model.tokenizer import LAST_RESIDUE, VOCABULARY

MAX_SIZE = 1 << 24  # in bytes

_PIECE_FIELD = 1  # number of the field `pieces` in ModelProto, and of the field `piece` in each of these messages
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_vocabulary(model: bytes, where: str) -> None:
    """Check that a SentencePiece model has ProtT5nv's vocabulary.

    Parameters
    ----------
    model : bytes
        Content of the file, a serialized ``ModelProto``.
    where : str
        File and member for error messages.

    Raises
    ------
    ProtT5nvError
        If the file is damaged or has another vocabulary. The message shows the first token that differs.
    """
    expected = VOCABULARY[: LAST_RESIDUE + 1]
    tokens = read_tokens(model, where)
    for i in range(max(len(expected), len(tokens))):
        theirs, ours = (repr(names[i][:40]) if i < len(names) else "no token" for names in (tokens, expected))
        if theirs != ours:
            raise ProtT5nvError(f"{where}: another vocabulary: token {i} is {theirs}, ProtT5nv's is {ours}")


def read_tokens(model: bytes, where: str) -> list[str]:
    """Read the tokens of a SentencePiece model in the order of their ids.

    Parameters
    ----------
    model : bytes
        Content of the file, a serialized ``ModelProto``.
    where : str
        File and member for error messages.

    Returns
    -------
    list of str

    Raises
    ------
    ProtT5nvError
        If the file is damaged.
    """
    tokens = []
    try:
        for field, message in _fields(model):
            if field == _PIECE_FIELD:
                texts = (bytes(text).decode() for part, text in _fields(message) if part == _PIECE_FIELD)
                tokens.append(next(texts, ""))
    except (IndexError, UnicodeDecodeError):
        raise ProtT5nvError(f"{where}: damaged; expected a SentencePiece model") from None
    return tokens


def _fields(message: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Iterate over the length-delimited fields of a protocol-buffer message; numeric fields are skipped.

    Raises
    ------
    IndexError
        If the message is truncated or malformed.
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
