"""Conversion of residues to token ids and back, with exactly one token per residue.

ProtT5nv's vocabulary has 30 tokens of a SentencePiece CHAR model, then ``<cls>`` and ``<sep>``, then the sentinels
``<extra_id_0>`` to ``<extra_id_95>`` at ids 32 to 127. The SentencePiece file is in ``prott5nv/assets/`` and in every
checkpoint. SentencePiece itself merges a run of unknown letters into one ``<unk>``, which would shift the rows of all
later residues. Therefore this module looks up each character in a table instead. Other models have other
tables: see :mod:`prott5nv.model.t5_tokenizer`.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from prott5nv.errors import ProtT5nvError, warn

RESIDUES = "LASGVERTDIPKNFQYHMCWXBZUO"  # ids 5 to 29, ordered by frequency
UNK, BOS, EOS, PAD, MASK = range(5)
FIRST_RESIDUE = 5
LAST_RESIDUE = FIRST_RESIDUE + len(RESIDUES) - 1
FIRST_SENTINEL = LAST_RESIDUE + 3  # <cls> and <sep> come in between
NUM_SENTINELS = 96
VOCABULARY = (
    *("<unk>", "<s>", "</s>", "<pad>", "<mask>"),
    *RESIDUES,
    *("<cls>", "<sep>"),
    *(f"<extra_id_{i}>" for i in range(NUM_SENTINELS)),
)

_INVALID = -1  # in a table of token ids: a character that is not a residue
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class ReplacedResidueWarning(UserWarning):
    """Some residues have no token of their own, and were read as the unknown residue."""


class ResidueTokenizer:
    """Base class of the tokenizers: it looks up each character in a table, so that each residue has exactly one token.

    Letters of both cases, ``*`` and ``-`` are accepted. All other characters are errors.

    Parameters
    ----------
    ids : dict of str to int
        Token id of each upper-case letter that has one.
    unknown : int
        Token id of all other letters, ``*`` and ``-``.
    warn_of_lowercase : bool, default True
        Whether to warn of lower-case letters.
    replacement : str, optional
        Name of the unknown token, for :meth:`warn_of_replaced`. By default characters that become the unknown token are
        not counted.

    Attributes
    ----------
    lowercase_residues : int
        Number of lower-case residues so far. They are read as upper case.
    replaced : Counter of str
        Number of times that each character became the unknown token since the last call of :meth:`warn_of_replaced`.
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        unknown: int,
        *,
        warn_of_lowercase: bool = True,
        replacement: str | None = None,
    ) -> None:
        self.lowercase_residues = 0
        self.replaced: Counter[str] = Counter()
        self._unknown = unknown
        self._known = frozenset(ids)
        self._replacement = replacement
        self._warn_of_lowercase = warn_of_lowercase
        self._table = np.full(256, _INVALID, dtype=np.int64)
        self._table[[ord("*"), ord("-")]] = unknown
        for letter in _LETTERS:
            self._table[[ord(letter), ord(letter.lower())]] = ids.get(letter, unknown)

    def encode(self, sequence: str) -> np.ndarray:
        """Convert one protein to token ids.

        Parameters
        ----------
        sequence : str
            Letters, ``*`` and ``-``. ``*``, ``-`` and letters without a token of their own become the unknown token.

        Returns
        -------
        ndarray, shape=(L,), dtype=int64
            One token id per character.

        Raises
        ------
        ProtT5nvError
            If the sequence contains any other character. The message names it and its position, counted from 1.
        """
        return self.encode_batch([sequence])[0]

    def encode_batch(
        self, sequences: Sequence[str], names: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Convert proteins to concatenated token ids.

        Parameters
        ----------
        sequences : sequence of str
            Proteins. Lower case is read as upper case; each tokenizer warns about it once.
        names : sequence of str, optional
            Names of the proteins for error messages.

        Returns
        -------
        tokens : ndarray, shape=(T,), dtype=int64
            Token ids of all residues of all proteins.
        cu_seqlens : ndarray, shape=(B + 1,), dtype=int32
            Start of each protein, followed by the end of the last one.

        Raises
        ------
        ProtT5nvError
            If a sequence contains a character that is not a residue. The message names record, position and character.
        """
        text = "".join(sequences)
        cu_seqlens = np.zeros(len(sequences) + 1, dtype=np.int32)
        np.cumsum([len(sequence) for sequence in sequences], out=cu_seqlens[1:])
        # Non-ASCII characters also become one byte each, so that the positions in the error message are right.
        characters = np.frombuffer(text.encode("ascii", errors="replace"), dtype=np.uint8)
        ids = self._table[characters]
        if ids.size and ids.min() == _INVALID:
            self._refuse(text, int(np.argmax(ids == _INVALID)), cu_seqlens, names)
        lowercase = int(np.count_nonzero(characters >= ord("a"))) if self._warn_of_lowercase else 0
        if lowercase:
            if not self.lowercase_residues:
                warn("lower-case residues are read as upper case")
            self.lowercase_residues += lowercase
        if self._replacement:
            for character in characters[ids == self._unknown]:
                if (letter := chr(character).upper()) not in self._known:
                    self.replaced[letter] += 1
        return ids, cu_seqlens

    def fresh(self) -> ResidueTokenizer:
        """Return a tokenizer with the same token ids that has not seen any residue yet."""
        tokenizer = copy.copy(self)
        tokenizer.lowercase_residues, tokenizer.replaced = 0, Counter()
        return tokenizer

    def warn_of_replaced(self) -> None:
        """Warn of the characters that became the unknown token since the last call, and set their counts to zero."""
        if self.replaced:
            count, letters = self.replaced.total(), ", ".join(sorted(self.replaced))
            self.replaced.clear()
            verb = "residues are" if count > 1 else "residue is"
            message = f"{count:,} {verb} read as {self._replacement}: {letters}"
            warn(message, ReplacedResidueWarning)

    @staticmethod
    def _refuse(text: str, offset: int, cu_seqlens: np.ndarray, names: Sequence[str] | None) -> None:
        record = int(np.searchsorted(cu_seqlens, offset, side="right")) - 1
        name = f"record {record + 1}" + (f" ({names[record]})" if names else "")
        remedy = "remove the spaces" if text[offset] == " " else "residues are letters"
        raise ProtT5nvError(
            f"{name}, position {offset - cu_seqlens[record] + 1}: {text[offset]!r} is not a residue; {remedy}"
        )


class ProteinTokenizer(ResidueTokenizer):
    """Tokenizer with ProtT5nv's vocabulary.

    Attributes
    ----------
    vocab_size : int
        Number of tokens, including the 96 sentinels.
    lowercase_residues : int
        Number of lower-case residues so far. They are read as upper case.

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

    def __init__(self) -> None:
        super().__init__({letter: FIRST_RESIDUE + index for index, letter in enumerate(RESIDUES)}, UNK)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Convert token ids to text: residues become letters, and special tokens their names.

        Parameters
        ----------
        tokens : sequence of int, shape=(L,)
            Token ids.

        Returns
        -------
        str
            The tokens without separators.

        Raises
        ------
        ProtT5nvError
            If an id is outside the vocabulary.
        """
        try:
            return "".join(VOCABULARY[_non_negative(token)] for token in tokens)
        except IndexError:
            raise ProtT5nvError(f"token ids must be 0..{self.vocab_size - 1}") from None


def _non_negative(token: int) -> int:
    if token < 0:
        raise IndexError  # a negative index would count from the end of the vocabulary
    return int(token)
