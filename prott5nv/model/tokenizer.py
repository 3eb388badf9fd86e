"""Residues to token ids and back: one token a residue, always.

The vocabulary is ProtT5nv's: 30 SentencePiece CHAR pieces (the file lives in ``prott5nv/assets/`` and travels in every
checkpoint), ``<cls>`` and ``<sep>``, and the sentinels ``<extra_id_0>`` .. ``<extra_id_95>`` at ids 32..127.
SentencePiece itself merges a run of unknown letters into one ``<unk>``, which would shift every later row, so the
mapping here is a table look-up per character.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from prott5nv.errors import ProtT5nvError

RESIDUES = "LASGVERTDIPKNFQYHMCWXBZUO"  # ids 5..29, by frequency
UNK, BOS, EOS, PAD, MASK = range(5)
FIRST_RESIDUE = 5
LAST_RESIDUE = FIRST_RESIDUE + len(RESIDUES) - 1
FIRST_SENTINEL = LAST_RESIDUE + 3  # <cls> and <sep> stand between
NUM_SENTINELS = 96
VOCABULARY = (
    *("<unk>", "<s>", "</s>", "<pad>", "<mask>"),
    *RESIDUES,
    *("<cls>", "<sep>"),
    *(f"<extra_id_{i}>" for i in range(NUM_SENTINELS)),
)

_INVALID = 255


def _character_table() -> np.ndarray:
    table = np.full(256, _INVALID, dtype=np.uint8)
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        table[[ord(letter), ord(letter.lower())]] = VOCABULARY.index(letter) if letter in RESIDUES else UNK
    table[[ord("*"), ord("-")]] = UNK
    return table


_TABLE = _character_table()


class ProteinTokenizer:
    """ProtT5nv's vocabulary.

    Attributes
    ----------
    lowercase_residues : int
        Residues that came in lower case and were read as upper case.

    Examples
    --------
    >>> tokenizer = ProteinTokenizer()
    >>> tokenizer.encode("MSLKR").tolist()
    [22, 7, 5, 16, 11]
    >>> tokenizer.encode("XBZUOJ*").tolist()
    [25, 26, 27, 28, 29, 0, 0]
    >>> tokenizer.decode([22, 7, 32])
    'MS<extra_id_0>'
    """

    vocab_size = len(VOCABULARY)

    def __init__(self):
        self.lowercase_residues = 0

    def encode(self, sequence: str) -> np.ndarray:
        """Token ids of one protein.

        Parameters
        ----------
        sequence : str
            Letters, ``*`` and ``-``. Letters without a token of their own, ``*`` and ``-`` become ``<unk>``.

        Returns
        -------
        ndarray, shape=(L,), dtype=int64

        Raises
        ------
        ProtT5nvError
            At any other character, naming it and its 1-based position.
        """
        return self.encode_batch([sequence])[0]

    def encode_batch(
        self, sequences: Sequence[str], names: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of many proteins, packed end to end.

        Parameters
        ----------
        sequences : sequence of str
            Proteins; lower case is read as upper case, with one warning a run.
        names : sequence of str, optional
            Record names for error messages.

        Returns
        -------
        tokens : ndarray, shape=(T,), dtype=int64
            All residues of all proteins.
        cu_seqlens : ndarray, shape=(B + 1,), dtype=int32
            Where each protein starts, and the end.

        Raises
        ------
        ProtT5nvError
            At a character that is no residue, naming record, position and character.
        """
        text = "".join(sequences)
        cu_seqlens = np.zeros(len(sequences) + 1, dtype=np.int32)
        np.cumsum([len(sequence) for sequence in sequences], out=cu_seqlens[1:])
        # One byte a character also where the text is not ASCII, so that positions hold in the message below.
        characters = np.frombuffer(text.encode("ascii", errors="replace"), dtype=np.uint8)
        ids = _TABLE[characters]
        if ids.size and ids.max() == _INVALID:
            self._refuse(text, int(np.argmax(ids == _INVALID)), cu_seqlens, names)
        lowercase = int(np.count_nonzero(characters >= ord("a")))
        if lowercase:
            if not self.lowercase_residues:
                warnings.warn("lower-case residues are read as upper case", stacklevel=3)
            self.lowercase_residues += lowercase
        return ids.astype(np.int64), cu_seqlens

    @staticmethod
    def _refuse(text: str, offset: int, cu_seqlens: np.ndarray, names: Sequence[str] | None) -> None:
        record = int(np.searchsorted(cu_seqlens, offset, side="right")) - 1
        name = f"record {record + 1}" + (f" ({names[record]})" if names else "")
        raise ProtT5nvError(
            f"{name}, position {offset - cu_seqlens[record] + 1}: {text[offset]!r} is not a residue; "
            "only letters, '*' and '-' can be embedded"
        )

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of token ids: residues as letters, special tokens by name.

        Parameters
        ----------
        tokens : sequence of int, shape=(L,)

        Raises
        ------
        ProtT5nvError
            If an id is outside the vocabulary.
        """
        try:
            return "".join(VOCABULARY[_natural(token)] for token in tokens)
        except IndexError:
            raise ProtT5nvError(f"token ids must be 0..{self.vocab_size - 1}") from None


def _natural(token: int) -> int:
    if token < 0:
        raise IndexError  # Python would count from the end
    return int(token)
