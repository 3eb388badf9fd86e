"""What the model expects at every residue of a protein when it does not see that residue.

Shapes: L residues of a protein, K of them hidden at once, A amino acids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from prott5nv.decoding.masking import AMINO_ACIDS, mask_residues, max_masked
from prott5nv.decoding.queries import MaskedQuery, run_queries
from prott5nv.embedding.embedder import Model, as_embedder
from prott5nv.errors import ProtT5nvError
from prott5nv.model.config import ModelConfig


def masked_log_probabilities(
    sequence: str,
    model: Model = None,
    *,
    fraction: float = 0.0,
    name: str = "the protein",
    on_progress: Callable[[int], object] = lambda residues: None,
) -> np.ndarray:
    """Log-probabilities of the 20 amino acids at every residue, which is hidden while it is asked for.

    Parameters
    ----------
    sequence : str
        In one-letter code. Of a protein longer than the model sees at once, it sees a window round what is hidden.
    model : str, Path, ProtT5, Embedder or ProtT5nvInference, optional
        A ``.nemo`` file, or a model that is loaded already, which saves time from the second call on.
        By default the small model inside this package.
    fraction : float
        Of the residues to hide at once. By default 0: each residue is hidden alone, and the encoder runs once for
        every residue. With 0.15, the share in pretraining, it runs seven times: evenly spaced residues are hidden
        and asked for in order, each in the light of the true ones before it.
    name : str
        What error messages call the protein.
    on_progress : callable
        Called now and then with the number of residues that the encoder has seen since.

    Returns
    -------
    ndarray, shape=(L, A), dtype=float32
        Natural logarithms, columns in the order of `AMINO_ACIDS`; their exponentials add up to 1 in each row.

    Raises
    ------
    ProtT5nvError
        If the protein is empty or holds something that is no residue.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5
    >>> found_LA = masked_log_probabilities("MSLKR", ProtT5(ModelConfig.preset("tiny")))
    >>> found_LA.shape, np.exp(found_LA).sum(1).round(4).tolist()
    ((5, 20), [1.0, 1.0, 1.0, 1.0, 1.0])
    """
    if not sequence:
        raise ProtT5nvError(f"{name} has no residues")
    inference = as_embedder(model)
    (tokens_L, _) = inference.tokenizer.encode_batch([sequence.upper()], [name])
    together = masked_together(len(sequence), fraction, inference.config)
    questions = [
        MaskedQuery(mask_residues(tokens_L, places, inference.config, name), tokens_L[None, places[:-1]])
        for places in together
    ]
    found_LA = np.empty((len(sequence), len(AMINO_ACIDS)), dtype=np.float32)
    for places, answer_1KA in zip(together, run_queries(inference, questions, on_progress), strict=True):
        found_LA[places] = answer_1KA[0]
    return found_LA


def masked_together(length: int, fraction: float, config: ModelConfig) -> list[np.ndarray]:
    """Which residues are hidden in each copy of a protein, so that every residue is hidden once.

    Parameters
    ----------
    length : int
        Residues of the protein.
    fraction : float
        Of the residues to hide in one copy; 0 for one residue.
    config : ModelConfig

    Returns
    -------
    list of ndarray, shape=(K,), dtype=int64

    Examples
    --------
    >>> [places.tolist() for places in masked_together(5, 0.5, ModelConfig.preset("tiny"))]
    [[0, 2, 4], [1, 3]]
    """
    if not 0 <= fraction <= 0.5:
        raise ProtT5nvError(f"fraction={fraction}: hide between 0 (one residue at a time) and 0.5 of the residues")
    if not fraction:
        return list(np.arange(length)[:, None])
    limit = config.max_position_embeddings
    # What is hidden in a long protein must lie close enough together to be seen with residues on either side.
    stretch = length if length <= limit else limit // 2
    step = max(round(min(1 / fraction, stretch)), -(-stretch // max_masked(config)))
    copies = (
        np.arange(first + offset, min(first + stretch, length), step)
        for first in range(0, length, stretch)
        for offset in range(step)
    )
    return [places for places in copies if len(places)]


def score_substitutions(
    sequence: str,
    model: Model = None,
    *,
    name: str = "the protein",
    on_progress: Callable[[int], object] = lambda residues: None,
) -> np.ndarray:
    """Score every single substitution of a protein: log p(mutant) - log p(wild type), with that residue hidden.

    Parameters
    ----------
    sequence, model, name, on_progress
        As for :func:`masked_log_probabilities`.

    Returns
    -------
    ndarray, shape=(L, A), dtype=float32
        Columns in the order of `prott5nv.decoding.masking.AMINO_ACIDS`; 0 for the wild type. Rows of NaN where the wild
        type is none of the 20 amino acids, such as ``X``.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5, score_substitutions
    >>> score_substitutions("MSLKR", ProtT5(ModelConfig.preset("tiny"))).shape
    (5, 20)
    """
    found_LA = masked_log_probabilities(sequence, model, name=name, on_progress=on_progress)
    return found_LA - log_probabilities_of(sequence, found_LA)[:, None]


class Perplexity(NamedTuple):
    """How surprising a protein is to the model.

    Attributes
    ----------
    perplexity : float
        The exponential of minus the mean of `log_probabilities`: 1 if the model is sure of every residue, and right;
        20 if it had to guess among the 20 amino acids. NaN if the protein has none of them.
    log_probabilities : ndarray, shape=(L,), dtype=float32
        Natural logarithm of each residue's probability among the 20 amino acids; NaN for residues such as ``X``,
        which do not count.
    expected : ndarray, shape=(L, A), dtype=float32
        Log-probabilities of all amino acids at each residue.
    """

    perplexity: float
    log_probabilities: np.ndarray
    expected: np.ndarray


def pseudo_perplexity(
    sequence: str,
    model: Model = None,
    *,
    fraction: float = 0.0,
    name: str = "the protein",
    on_progress: Callable[[int], object] = lambda residues: None,
) -> Perplexity:
    """Ask for every residue of a protein without showing it.

    Parameters
    ----------
    sequence, model, fraction, name, on_progress
        As for :func:`masked_log_probabilities`; so is the cost, the encoder's work on L proteins of L residues.

    Returns
    -------
    Perplexity

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5, pseudo_perplexity
    >>> found = pseudo_perplexity("MSLKRX", ProtT5(ModelConfig.preset("tiny")))
    >>> 1 < found.perplexity < 400, np.isnan(found.log_probabilities).tolist()
    (True, [False, False, False, False, False, True])
    """
    found_LA = masked_log_probabilities(sequence, model, fraction=fraction, name=name, on_progress=on_progress)
    true_L = log_probabilities_of(sequence, found_LA)
    counted = true_L[~np.isnan(true_L)]
    perplexity = float(np.exp(-counted.mean(dtype=np.float64))) if len(counted) else float("nan")
    return Perplexity(perplexity, true_L, found_LA)


def log_probabilities_of(sequence: str, found_LA: np.ndarray) -> np.ndarray:
    """The column of each residue itself: ndarray, shape=(L,); NaN for what is none of the 20 amino acids."""
    columns_L = np.array([AMINO_ACIDS.find(residue) for residue in sequence.upper()])
    true_L = found_LA[np.arange(len(sequence)), columns_L]
    return np.where(columns_L >= 0, true_L, np.float32("nan"))
