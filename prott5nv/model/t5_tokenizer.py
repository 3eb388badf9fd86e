"""Token ids of protein T5 models: ProtT5, ProstT5 and Ankh.

The vocabulary of such a model comes with its checkpoint, and :mod:`prott5nv.checkpoint.t5_vocabulary` reads it. The
models were trained with a token behind each protein, ``</s>``, and some also with one before it. These tokens do not
occur in the output of the tokenizer: the network adds them, so that rows are residues everywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from prott5nv.errors import ProtT5nvError
from prott5nv.model.tokenizer import ResidueTokenizer

AMINO_ACIDS = "ALGVSREDTIPKFQNYMHWC"  # in the order of ProtT5's token ids
ANY_RESIDUE = "X"
#: Kinds of input, with the letters that have tokens: amino acids, and Foldseek's structural states.
INPUTS = {"aa": AMINO_ACIDS + ANY_RESIDUE, "3di": AMINO_ACIDS}

_MAX_CONTEXT = 8  # tokens before or behind a protein


@dataclass(frozen=True)
class T5Vocabulary:  # numpydoc ignore=PR02
    """The token ids that a model needs, for one kind of input.

    Parameters
    ----------
    input : {"aa", "3di"}
        Kind of the input: amino acids, or structural states of Foldseek.
    ids : tuple of int
        Token ids of the letters ``INPUTS[input]``.
    unknown : int
        Token id of letters that have none of their own.
    unknown_name : str
        Name of that token.
    prefix, suffix : tuple of int
        Tokens before and behind each protein.

    Raises
    ------
    ProtT5nvError
        If a value is invalid.
    """

    input: str
    ids: tuple[int, ...]
    unknown: int
    unknown_name: str
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("ids", "prefix", "suffix"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple):
                raise ProtT5nvError(f"{name} must be a list of token ids")
            object.__setattr__(self, name, tuple(value))
        if self.input not in INPUTS or not isinstance(self.unknown_name, str) or len(self.unknown_name) > 40:
            raise ProtT5nvError(f"input must be one of {', '.join(INPUTS)}, and unknown_name a name")
        if any(type(token) is not int or token < 0 for token in self.all_ids):
            raise ProtT5nvError("token ids must be integers from 0")
        if len(self.ids) != len(INPUTS[self.input]) or len(set(self.ids)) != len(self.ids):
            raise ProtT5nvError(f"ids must be {len(INPUTS[self.input])} different token ids")
        if max(len(self.prefix), len(self.suffix)) > _MAX_CONTEXT:
            raise ProtT5nvError(f"prefix and suffix must have at most {_MAX_CONTEXT} tokens")

    @classmethod
    def from_dict(cls, values: Any) -> T5Vocabulary:
        """Create a vocabulary from parsed JSON, which may hold anything; errors are raised as `ProtT5nvError`."""
        if not isinstance(values, dict) or values.keys() != {field.name for field in fields(cls)}:
            raise ProtT5nvError(f"a vocabulary must have the keys {', '.join(field.name for field in fields(cls))}")
        return cls(**values)

    @property
    def all_ids(self) -> tuple[int, ...]:
        """All token ids of the vocabulary."""
        return (*self.ids, self.unknown, *self.prefix, *self.suffix)


class T5Tokenizer(ResidueTokenizer):
    """Tokenizer of a protein T5 model: one token per residue.

    Amino acids other than the 20 standard ones, ``*`` and ``-`` are read as ``X``, as in the scripts of ProtTrans. This
    includes letters that have a token, because these were rare in training. A `ReplacedResidueWarning` counts them.

    Parameters
    ----------
    vocabulary : T5Vocabulary

    Attributes
    ----------
    vocabulary : T5Vocabulary
        The given vocabulary.

    Examples
    --------
    >>> vocabulary = T5Vocabulary("aa", tuple(range(3, 24)), unknown=23, unknown_name="X", prefix=(), suffix=(1,))
    >>> T5Tokenizer(vocabulary).encode("MSLKRX").tolist()
    [19, 7, 4, 14, 8, 23]
    """

    def __init__(self, vocabulary: T5Vocabulary) -> None:
        self.vocabulary = vocabulary
        super().__init__(
            dict(zip(INPUTS[vocabulary.input], vocabulary.ids, strict=True)),
            vocabulary.unknown,
            warn_of_lowercase=vocabulary.input == "aa",
            replacement=vocabulary.unknown_name,
        )
