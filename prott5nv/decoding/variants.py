"""Scores of variants: masked-marginal log-odds of the mutant against the wild type.

Shapes: L residues of a protein, K masked residues, A amino acids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from prott5nv.decoding.masking import AMINO_ACID_TOKENS, AMINO_ACIDS, mask_residues
from prott5nv.decoding.queries import MaskedQuery, run_queries
from prott5nv.embedding.models import Model, as_embedder
from prott5nv.embedding.proteins import ProteinLike, sequence_of
from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.model.finite import check_finite

_SUBSTITUTION = re.compile(r"([A-Za-z])([0-9]+)([A-Za-z])")
_SEPARATOR = re.compile(r"[:;,/+\s]+")


class Variant(NamedTuple):
    """One or several substitutions in the same protein.

    Attributes
    ----------
    indices : tuple of int, length=K
        Indices of the substituted residues, counted from 0, in ascending order.
    wild_type, mutant : str, length=K
        Residues of the wild type and of the mutant, one letter for each index.
    """

    indices: tuple[int, ...]
    wild_type: str
    mutant: str

    def __str__(self) -> str:
        """Return the usual notation, such as ``V39A`` or ``D40G:V54L``, where positions count from 1."""
        return ":".join(f"{wild}{index + 1}{new}" for index, wild, new in zip(*self, strict=True))


class VariantScore(NamedTuple):
    """Natural-log odds of the mutant against the wild type.

    A positive score means that the model finds the mutant more likely than the wild type, a negative score less likely.

    Attributes
    ----------
    variant : Variant
        The variant that is scored.
    additive : float
        Sum of the scores of the substitutions, each with only its own residue masked.
    joint : float
        Score with all substituted residues masked at once. It equals `additive` for a single substitution.
    """

    variant: Variant
    additive: float
    joint: float


def parse_variant(text: str, sequence: str, name: str = "the protein") -> Variant:
    """Parse the notation of a variant, such as ``V39A`` or ``D40G:V54L``, and check it against the protein.

    Parameters
    ----------
    text : str
        Wild-type residue, position counted from 1, mutant residue. Several substitutions are separated by ``:``, by any
        of ``;,/+``, or by white space.
    sequence : str
        The wild-type protein.
    name : str
        Name of the protein in error messages.

    Returns
    -------
    Variant

    Raises
    ------
    ProtT5nvError
        If the text is not a variant, a position is outside the protein, the protein has another residue there, or a
        residue is not one of the 20 amino acids.

    Examples
    --------
    >>> parse_variant("K4R:S2A", "MSLKR")
    Variant(indices=(1, 3), wild_type='SK', mutant='AR')
    >>> str(parse_variant("K4R:S2A", "MSLKR"))
    'S2A:K4R'
    """
    substitutions: dict[int, tuple[str, str]] = {}
    for part in _SEPARATOR.split(text.strip()):
        match = _SUBSTITUTION.fullmatch(part)
        if not match:
            raise ProtT5nvError(
                f"{text!r} is not a variant: write V39A, or D40G:V54L for several substitutions; other changes, such "
                "as deletions, cannot be scored"
            )
        wild, position, new = match[1].upper(), int(match[2]), match[3].upper()
        if not 1 <= position <= len(sequence):
            raise ProtT5nvError(f"{text}: {name} has no residue {position}, only 1 to {len(sequence)}")
        actual = sequence[position - 1].upper()
        if wild != actual:
            raise ProtT5nvError(f"{text}: residue {position} of {name} is {actual}, not {wild}; positions count from 1")
        for letter in (wild, new):
            if letter not in AMINO_ACIDS:
                raise ProtT5nvError(f"{text}: {letter} is not one of the 20 amino acids {AMINO_ACIDS}")
        if position in substitutions:
            raise ProtT5nvError(f"{text}: residue {position} is substituted twice")
        substitutions[position] = wild, new
    positions = sorted(substitutions)
    wild_type, mutant = ("".join(substitutions[position][i] for position in positions) for i in (0, 1))
    return Variant(tuple(position - 1 for position in positions), wild_type, mutant)


def score_variants(
    sequence: ProteinLike,
    variants: Iterable[str | Variant],
    model: Model = None,
    *,
    name: str = "the protein",
    cleaning: Cleaning | None = DEFAULT_CLEANING,
    on_progress: Callable[[int], object] = lambda residues: None,
) -> list[VariantScore]:
    """Score variants by masked marginals.

    The substituted residues are masked, and the decoder gives the probability of the mutant's and of the wild type's
    residues in their place. The score is log p(mutant) - log p(wild type). With several substitutions, p is the product
    of the probabilities of the masked residues, in ascending order. Each probability is conditioned on the masked
    residues before it: on those of the mutant in p(mutant), and on those of the wild type in p(wild type). Variants
    that mask the same residues share one run of the encoder.

    If the protein is longer than the model's limit, the model sees a window around the substituted residues.

    Parameters
    ----------
    sequence : str, Bio.Seq, Bio.SeqRecord or Record
        The wild-type protein in one-letter code.
    variants : iterable of str or Variant
        Variants such as ``["V39A", "D40G:V54L"]``; see :func:`prott5nv.decoding.variants.parse_variant`.
    model : str, Path, ProtT5, Embedder or ProtT5nvInference, optional
        A ``.nemo`` file, or a loaded model, which saves time if you call the function repeatedly. The default is the
        small built-in model.
    name : str
        Name of the protein in error messages.
    cleaning : Cleaning or None
        What to do with gaps and nucleotides; see :meth:`prott5nv.Embedder.embed`. Positions count the residues of the
        clean sequence.
    on_progress : callable
        Called after each batch with the number of residues that the encoder processed in it.

    Returns
    -------
    list of VariantScore
        One score per variant, in the order of `variants`. A positive score means that the model finds the mutant more
        likely than the wild type.

    Raises
    ------
    ProtT5nvError
        If a variant cannot be parsed, does not fit the protein, or has substitutions too far apart for one window, or
        if the model computes NaN or infinity.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5, score_variants
    >>> scores = score_variants("MSLKR", ["S2A", "S2A:K4R", "S2S"], ProtT5(ModelConfig.preset("tiny")))
    >>> scores[0].additive == scores[0].joint, scores[2].additive
    (True, 0.0)
    """
    sequence = sequence_of(sequence, name, cleaning)
    parsed = _parsed(variants, sequence, name)
    embedder = as_embedder(model)
    tokens_L = embedder.tokenizer.encode(sequence.upper())

    rows = _rows_of_hypotheses(parsed)
    queries = [
        MaskedQuery(
            mask_residues(tokens_L, indices, embedder.decoder_config, name), _tokens(hypotheses, len(indices) - 1)
        )
        for indices, hypotheses in rows.items()
    ]
    results = dict(zip(rows, run_queries(embedder, queries, on_progress), strict=True))
    for result_RKA in results.values():
        check_finite(result_RKA, name, embedder.hardware.precision)

    def log_probability(indices: tuple[int, ...], residues: str) -> float:
        result_KA = results[indices][rows[indices][residues[:-1]]]
        return float(sum(row_A[AMINO_ACIDS.index(residue)] for row_A, residue in zip(result_KA, residues, strict=True)))

    def log_odds(indices: tuple[int, ...], wild_type: str, mutant: str) -> float:
        return log_probability(indices, mutant) - log_probability(indices, wild_type)

    return [
        VariantScore(
            variant,
            additive=sum(log_odds((index,), wild, new) for index, wild, new in zip(*variant, strict=True)),
            joint=log_odds(*variant),
        )
        for variant in parsed
    ]


def _parsed(variants: object, sequence: str, name: str) -> list[Variant]:
    """Return the variants that the user passed, after checking that they are variants."""
    if isinstance(variants, str | Variant):
        raise ProtT5nvError("variants is a single variant: pass a list, such as [variant]")
    kind = type(variants).__name__
    if isinstance(variants, bytes | Mapping) or hasattr(variants, "columns"):
        raise ProtT5nvError(f"variants is a {kind}: pass a list of texts, such as V39A")
    try:
        collection = list(variants)  # type: ignore[call-overload]  # the check is for users without a type checker
    except TypeError:
        raise ProtT5nvError(f"variants is a {kind}: pass a list of texts, such as V39A") from None
    parsed = []
    for number, variant in enumerate(collection, 1):
        if not isinstance(variant, str | Variant):
            raise ProtT5nvError(f"variant {number} is a {type(variant).__name__}: write it as a text, such as V39A")
        parsed.append(parse_variant(str(variant), sequence, name))
    return parsed


def _rows_of_hypotheses(variants: Sequence[Variant]) -> dict[tuple[int, ...], dict[str, int]]:
    """Return the queries that variants need.

    For each set of indices that is masked, the result holds the hypotheses about all of these residues but the last,
    each with its row in the result of the query.
    """
    rows: dict[tuple[int, ...], dict[str, int]] = {}
    for variant in variants:
        for index in variant.indices:
            rows.setdefault((index,), {"": 0})
        hypotheses = rows.setdefault(variant.indices, {})
        for residues in (variant.wild_type, variant.mutant):
            hypotheses.setdefault(residues[:-1], len(hypotheses))
    return rows


def _tokens(hypotheses: dict[str, int], known: int) -> np.ndarray:
    """Tokens of the residues in each hypothesis: ndarray, shape=(R, known), dtype=int64."""
    columns = np.array([[AMINO_ACIDS.index(letter) for letter in residues] for residues in hypotheses], dtype=int)
    return AMINO_ACID_TOKENS[columns.reshape(len(hypotheses), known)]
