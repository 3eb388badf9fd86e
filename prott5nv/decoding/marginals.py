"""Masked marginals: the distribution over amino acids at every residue of a protein while that residue is masked.

Shapes: L residues of a protein, K residues masked at once, A amino acids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from prott5nv.decoding.masking import AMINO_ACIDS, mask_residues, max_masked
from prott5nv.decoding.queries import MaskedQuery, run_queries
from prott5nv.embedding.models import Model, as_embedder
from prott5nv.embedding.proteins import ProteinLike, sequence_of
from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.model.config import ModelConfig
from prott5nv.model.finite import check_finite

# Each query holds the tokens of its window. More queries than a window has residues do not make the batches better.
_QUERIES_IN_MEMORY = 1024


def masked_log_probabilities(
    sequence: ProteinLike,
    model: Model = None,
    *,
    fraction: float = 0.0,
    name: str = "the protein",
    cleaning: Cleaning | None = DEFAULT_CLEANING,
    on_progress: Callable[[int], object] = lambda residues: None,
) -> np.ndarray:
    """Compute log-probabilities of the 20 amino acids at every residue while that residue is masked.

    Parameters
    ----------
    sequence : str, Bio.Seq, Bio.SeqRecord or Record
        A protein in one-letter code. If it is longer than the model's limit, the model sees a window around the masked
        residues.
    model : str, Path, ProtT5, Embedder or ProtT5nvInference, optional
        A ``.nemo`` file, or a loaded model, which saves time if you call the function repeatedly. The default is the
        small built-in model.
    fraction : float, default 0
        Fraction of the residues to mask at once, up to 0.5. With 0, residues are masked one at a time, and the encoder
        runs once per residue. With 0.15, as in pretraining, it runs only seven times: evenly spaced residues are masked
        together, and the decoder predicts them in order, each given the true residues before it.
    name : str
        Name of the protein in error messages.
    cleaning : Cleaning or None
        What to do with gaps and nucleotides; see :meth:`prott5nv.Embedder.embed`.
    on_progress : callable
        Called after each batch with the number of residues that the encoder processed in it.

    Returns
    -------
    ndarray, shape=(L, A), dtype=float32
        Natural logarithms; columns in the order of `prott5nv.decoding.masking.AMINO_ACIDS`. The exponentials of each
        row add up to 1.

    Raises
    ------
    ProtT5nvError
        If the protein is empty or has a character that is not a residue, `fraction` is out of range, or the model
        computes NaN or infinity.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5
    >>> log_probabilities_LA = masked_log_probabilities("MSLKR", ProtT5(ModelConfig.preset("tiny")))
    >>> log_probabilities_LA.shape, np.exp(log_probabilities_LA).sum(1).round(4).tolist()
    ((5, 20), [1.0, 1.0, 1.0, 1.0, 1.0])
    """
    sequence = sequence_of(sequence, name, cleaning)
    if not sequence:
        raise ProtT5nvError(f"{name} has no residues")
    embedder = as_embedder(model)
    (tokens_L, _) = embedder.tokenizer.encode_batch([sequence.upper()], [name])
    config = embedder.decoder_config
    groups = masking_groups(len(sequence), fraction, config)
    log_probabilities_LA = np.empty((len(sequence), len(AMINO_ACIDS)), dtype=np.float32)
    for first in range(0, len(groups), _QUERIES_IN_MEMORY):
        some = groups[first : first + _QUERIES_IN_MEMORY]
        queries = [
            MaskedQuery(mask_residues(tokens_L, indices_K, config, name), tokens_L[None, indices_K[:-1]])
            for indices_K in some
        ]
        for indices_K, result_1KA in zip(some, run_queries(embedder, queries, on_progress), strict=True):
            log_probabilities_LA[indices_K] = result_1KA[0]
    check_finite(log_probabilities_LA, name, embedder.hardware.precision)
    return log_probabilities_LA


def masking_groups(length: int, fraction: float, config: ModelConfig) -> list[np.ndarray]:
    """Divide the residues of a protein into groups that are masked together; every residue is in exactly one.

    Parameters
    ----------
    length : int
        Length of the protein.
    fraction : float
        Fraction of the residues to mask at once; 0 for one residue at a time.
    config : ModelConfig
        Architecture of the model, which sets the limits.

    Returns
    -------
    list of ndarray, shape=(K,), dtype=int64
        Indices of the residues in each group, in ascending order.

    Raises
    ------
    ProtT5nvError
        If `fraction` is out of range.

    Examples
    --------
    >>> [indices_K.tolist() for indices_K in masking_groups(5, 0.5, ModelConfig.preset("tiny"))]
    [[0, 2, 4], [1, 3]]
    """
    if not 0 <= fraction <= 0.5:
        raise ProtT5nvError(f"fraction={fraction}: it must be between 0 (one residue at a time) and 0.5")
    if not fraction:
        return list(np.arange(length)[:, None])
    limit = config.max_position_embeddings
    # In a long protein, a group spans half a window, so that the model sees residues on either side of it.
    span = length if length <= limit else limit // 2
    step = max(round(min(1 / fraction, span)), -(-span // max_masked(config)))
    groups = (
        np.arange(first + offset, min(first + span, length), step)
        for first in range(0, length, span)
        for offset in range(step)
    )
    return [indices_K for indices_K in groups if len(indices_K)]


def score_substitutions(
    sequence: ProteinLike,
    model: Model = None,
    *,
    fraction: float = 0.0,
    name: str = "the protein",
    cleaning: Cleaning | None = DEFAULT_CLEANING,
    on_progress: Callable[[int], object] = lambda residues: None,
) -> np.ndarray:
    """Score every single substitution of a protein: log p(mutant) - log p(wild type), while the residue is masked.

    A positive score means that the model finds the mutant more likely than the wild type, a negative score less likely.

    Parameters
    ----------
    sequence, model, fraction, name, cleaning, on_progress
        See :func:`prott5nv.decoding.marginals.masked_log_probabilities`.

    Returns
    -------
    ndarray, shape=(L, A), dtype=float32
        Natural-log odds; columns in the order of `prott5nv.decoding.masking.AMINO_ACIDS`. The wild type has score 0.
        A row is NaN if the wild type is not one of the 20 amino acids, for example ``X``.

    Raises
    ------
    ProtT5nvError
        If the protein is empty or has a character that is not a residue, or `fraction` is out of range.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5, score_substitutions
    >>> score_substitutions("MSLKR", ProtT5(ModelConfig.preset("tiny"))).shape
    (5, 20)
    """
    sequence = sequence_of(sequence, name, cleaning)
    log_probabilities_LA = masked_log_probabilities(
        sequence, model, fraction=fraction, name=name, cleaning=None, on_progress=on_progress
    )
    return log_probabilities_LA - _of_own_residues(sequence, log_probabilities_LA)[:, None]


class Perplexity(NamedTuple):
    """Pseudo-perplexity of a protein.

    Attributes
    ----------
    perplexity : float
        Exponential of the negative mean of `log_probabilities`. It is 1 if the model predicts every residue with
        certainty, and 20 if it guesses among the 20 amino acids. NaN if the protein has none of them.
    log_probabilities : ndarray, shape=(L,), dtype=float32
        Natural logarithm of each residue's probability among the 20 amino acids. NaN for other residues, such as
        ``X``, which do not count.
    expected : ndarray, shape=(L, A), dtype=float32
        Log-probabilities of all amino acids at each residue.
    """

    perplexity: float
    log_probabilities: np.ndarray
    expected: np.ndarray


def pseudo_perplexity(
    sequence: ProteinLike,
    model: Model = None,
    *,
    fraction: float = 0.0,
    name: str = "the protein",
    cleaning: Cleaning | None = DEFAULT_CLEANING,
    on_progress: Callable[[int], object] = lambda residues: None,
) -> Perplexity:
    """Measure how well the model predicts the residues of a protein while they are masked.

    With ``fraction=0``, a protein of L residues costs as much as embedding L proteins of that length.

    Parameters
    ----------
    sequence, model, fraction, name, cleaning, on_progress
        See :func:`prott5nv.decoding.marginals.masked_log_probabilities`.

    Returns
    -------
    Perplexity
        The pseudo-perplexity and the probabilities that it is computed from.

    Raises
    ------
    ProtT5nvError
        If the protein is empty or has a character that is not a residue, or `fraction` is out of range.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5, pseudo_perplexity
    >>> result = pseudo_perplexity("MSLKRX", ProtT5(ModelConfig.preset("tiny")))
    >>> 1 < result.perplexity < 400, np.isnan(result.log_probabilities).tolist()
    (True, [False, False, False, False, False, True])
    """
    sequence = sequence_of(sequence, name, cleaning)
    expected_LA = masked_log_probabilities(
        sequence, model, fraction=fraction, name=name, cleaning=None, on_progress=on_progress
    )
    log_probabilities_L = _of_own_residues(sequence, expected_LA)
    counted = log_probabilities_L[~np.isnan(log_probabilities_L)]
    perplexity = float(np.exp(-counted.mean(dtype=np.float64))) if len(counted) else float("nan")
    return Perplexity(perplexity, log_probabilities_L, expected_LA)


def _of_own_residues(sequence: str, log_probabilities_LA: np.ndarray) -> np.ndarray:
    """Select the column of each residue itself; NaN if it is not one of the 20 amino acids."""
    columns_L = np.array([AMINO_ACIDS.find(residue) for residue in sequence.upper()])
    own_L = log_probabilities_LA[np.arange(len(sequence)), columns_L]
    return np.where(columns_L >= 0, own_L, np.float32("nan"))
