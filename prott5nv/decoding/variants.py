"""What a change of residues does to a protein's plausibility: masked-marginal log-odds.

Shapes: L residues of a protein, K hidden ones, A amino acids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from prott5nv.decoding.masking import AMINO_ACID_TOKENS, AMINO_ACIDS, mask_residues
from prott5nv.decoding.queries import MaskedQuery, run_queries
from prott5nv.embedding.embedder import Model, as_embedder
from prott5nv.errors import ProtT5nvError

_SUBSTITUTION = re.compile(r"([A-Za-z])([0-9]+)([A-Za-z])")
_SEPARATOR = re.compile(r"[:;,/+\s]+")


class Variant(NamedTuple):
    """Substitutions that are made together.

    Attributes
    ----------
    places : tuple of int
        Changed residues, counted from 0, in ascending order.
    wild_type, mutant : str
        One letter each.
    """

    places: tuple[int, ...]
    wild_type: str
    mutant: str

    def __str__(self) -> str:
        """``V39A``, or ``D40G:V54L``; positions count from 1."""
        return ":".join(f"{wild}{place + 1}{new}" for place, wild, new in zip(*self, strict=True))


class VariantScore(NamedTuple):
    """Natural-log odds of the mutant against the wild type; above 0, the model finds the mutant more likely.

    Attributes
    ----------
    variant : Variant
    additive : float
        Sum over the substitutions, each with only its own residue hidden.
    joint : float
        All changed residues hidden at once; the same as `additive` for a single substitution.
    """

    variant: Variant
    additive: float
    joint: float


def parse_variant(text: str, sequence: str, name: str = "the protein") -> Variant:
    """Read ``V39A`` or ``D40G:V54L`` and check it against the protein.

    Parameters
    ----------
    text : str
        Wild-type residue, position counted from 1, mutant residue; several are separated by ``:``, or by any of
        ``;,/+`` and white space.
    sequence : str
    name : str
        What error messages call the protein.

    Raises
    ------
    ProtT5nvError
        If the text cannot be read, a position is not in the protein, another residue stands there, or a residue is
        none of the 20 amino acids, which are all that the model is asked for.

    Examples
    --------
    >>> parse_variant("K4R:S2A", "MSLKR")
    Variant(places=(1, 3), wild_type='SK', mutant='AR')
    >>> str(parse_variant("K4R:S2A", "MSLKR"))
    'S2A:K4R'
    """
    found = {}
    for part in _SEPARATOR.split(text.strip()):
        match = _SUBSTITUTION.fullmatch(part)
        if not match:
            raise ProtT5nvError(f"{text!r} is not a variant: write V39A, or D40G:V54L for several substitutions")
        wild, position, new = match[1].upper(), int(match[2]), match[3].upper()
        if not 1 <= position <= len(sequence):
            raise ProtT5nvError(f"{text}: {name} has no residue {position}, only 1 to {len(sequence)}")
        there = sequence[position - 1].upper()
        if wild != there:
            raise ProtT5nvError(f"{text}: residue {position} of {name} is {there}, not {wild}; positions count from 1")
        for letter in (wild, new):
            if letter not in AMINO_ACIDS:
                raise ProtT5nvError(f"{text}: {letter} is none of the 20 amino acids {AMINO_ACIDS}")
        if position in found:
            raise ProtT5nvError(f"{text}: residue {position} is changed twice")
        found[position] = wild, new
    positions = sorted(found)
    wild_type, mutant = ("".join(found[position][i] for position in positions) for i in (0, 1))
    return Variant(tuple(position - 1 for position in positions), wild_type, mutant)


def score_variants(
    sequence: str,
    variants: Sequence[str | Variant],
    model: Model = None,
    *,
    name: str = "the protein",
    on_progress: Callable[[int], object] = lambda residues: None,
) -> list[VariantScore]:
    """Score substitutions by masked marginals.

    The changed residues are hidden behind sentinels, and the decoder says how likely the mutant's residues are there,
    and how likely the wild type's: the score is log p(mutant) - log p(wild type). With several substitutions at once,
    p is a product over the hidden residues in ascending order, each given those before it: the mutant's residues in
    p(mutant), the wild type's in p(wild type). Proteins that share what is hidden share its encoding.

    Proteins longer than the model sees at once are seen through a window round the changed residues.

    Parameters
    ----------
    sequence : str
        The wild type, in one-letter code.
    variants : sequence of str or Variant
        Such as ``["V39A", "D40G:V54L"]``; see :func:`parse_variant`.
    model : str, Path, ProtT5, Embedder or ProtT5nvInference, optional
        A ``.nemo`` file, or a model that is loaded already, which saves time from the second call on.
        By default the small model inside this package.
    name : str
        What error messages call the protein.
    on_progress : callable
        Called now and then with the number of residues that the encoder has seen since.

    Returns
    -------
    list of VariantScore
        In input order.

    Raises
    ------
    ProtT5nvError
        If a variant cannot be read, does not fit the protein, or changes residues too far apart for the model.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5, score_variants
    >>> scores = score_variants("MSLKR", ["S2A", "S2A:K4R", "S2S"], ProtT5(ModelConfig.preset("tiny")))
    >>> scores[0].additive == scores[0].joint, scores[2].additive
    (True, 0.0)
    """
    if isinstance(variants, str):
        raise ProtT5nvError("variants is one string: pass a list, [variant] for one")
    parsed = [
        variant if isinstance(variant, Variant) else parse_variant(variant, sequence, name) for variant in variants
    ]
    inference = as_embedder(model)
    tokens_L = inference.tokenizer.encode(sequence.upper())

    # What is hidden -> the combinations of residues to ask for, each with its row in the answer.
    asked: dict[tuple[int, ...], dict[str, int]] = {}
    for variant in parsed:
        for place in variant.places:
            asked.setdefault((place,), {"": 0})
        combinations = asked.setdefault(variant.places, {})
        for residues in (variant.wild_type, variant.mutant):
            combinations.setdefault(residues[:-1], len(combinations))
    questions = [
        MaskedQuery(mask_residues(tokens_L, places, inference.config, name), _tokens(combinations, len(places) - 1))
        for places, combinations in asked.items()
    ]
    answers = dict(zip(asked, run_queries(inference, questions, on_progress), strict=True))

    def log_probability(places: tuple[int, ...], residues: str) -> float:
        found_KA = answers[places][asked[places][residues[:-1]]]
        return float(sum(row_A[AMINO_ACIDS.index(residue)] for row_A, residue in zip(found_KA, residues, strict=True)))

    def odds(places: tuple[int, ...], wild_type: str, mutant: str) -> float:
        return log_probability(places, mutant) - log_probability(places, wild_type)

    return [
        VariantScore(
            variant,
            additive=sum(odds((place,), wild, new) for place, wild, new in zip(*variant, strict=True)),
            joint=odds(*variant),
        )
        for variant in parsed
    ]


def _tokens(combinations: dict[str, int], known: int) -> np.ndarray:
    letters = np.array([[AMINO_ACIDS.index(letter) for letter in residues] for residues in combinations], dtype=int)
    return AMINO_ACID_TOKENS[letters.reshape(len(combinations), known)]
