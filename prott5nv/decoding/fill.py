"""Fill the gaps of a protein with the most likely residues, the n best combinations, or random samples.

Gaps are filled from the first to the last, each given the residues chosen before it. The decoder only ever sees amino
acids and sentinels, so the result is always a protein of the same length.

Shapes: L residues of a protein, W residues of the window that the model sees, K gaps, R hypotheses, A amino acids,
D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from prott5nv.decoding.kv_cache import CachedDecoder, amino_acid_log_probabilities
from prott5nv.decoding.masking import AMINO_ACID_TOKENS, AMINO_ACIDS, GAP, mask_residues
from prott5nv.embedding.embedder import Embedder
from prott5nv.embedding.models import Model, as_embedder
from prott5nv.embedding.proteins import ProteinLike, sequence_of
from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.model.finite import check_finite
from prott5nv.model.tokenizer import BOS, FIRST_SENTINEL

# Takes the log-probability of each hypothesis so far, shape=(R,), and those of the next residue, shape=(R, A). Returns
# the indices of the hypotheses to continue and the column of the amino acid that each of them gets.
ChoiceRule: TypeAlias = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Filled(NamedTuple):
    """A protein whose gaps are filled.

    Attributes
    ----------
    sequence : str
        The protein. It has the length of the input, and all given residues are unchanged.
    positions : tuple of int, length=K
        Positions of the gaps, counted from 1.
    residues : str
        Residues in the gaps.
    probabilities : ndarray, shape=(K,), dtype=float32
        Probability of each of these residues among the 20 amino acids, given those before it.
    log_probability : float
        Natural logarithm of the product of `probabilities`. A higher value means a more likely result.
    expected : ndarray, shape=(K, A), dtype=float32
        Log-probabilities of all amino acids at each gap, given the residues chosen before it; columns in the order of
        `prott5nv.decoding.masking.AMINO_ACIDS`.
    """

    sequence: str
    positions: tuple[int, ...]
    residues: str
    probabilities: np.ndarray
    log_probability: float
    expected: np.ndarray


def fill(
    sequence: ProteinLike,
    model: Model = None,
    *,
    n: int = 1,
    beams: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    name: str = "the protein",
    cleaning: Cleaning | None = DEFAULT_CLEANING,
) -> list[Filled]:
    """Replace each ``?`` of a protein by a residue.

    Parameters
    ----------
    sequence : str, Bio.Seq, Bio.SeqRecord or Record
        A protein with at least one ``?``. Each stands for one residue. If the protein is longer than the model's limit,
        the model sees a window around the gaps.
    model : str, Path, ProtT5, Embedder or ProtT5nvInference, optional
        A ``.nemo`` file, or a loaded model, which saves time if you call the function repeatedly. The default is the
        small built-in model.
    n : int, default 1
        Number of results. With 1 and no temperature, each gap gets its most likely residue.
    beams : int, optional
        Width of the beam search: how many hypotheses are kept at each gap. The default is `n`; a wider search can find
        better results. Not allowed with a temperature.
    temperature : float, default 0
        0 searches for the most likely results. Above 0, residues are sampled: 1 uses the model's probabilities, lower
        values favour likely residues, higher values give more variety.
    top_p : float, default 1
        With a temperature, sample only among the fewest residues whose probabilities add up to at least `top_p`.
    seed : int, default 0
        Seed of the random sampling.
    name : str
        Name of the protein in error messages.
    cleaning : Cleaning or None
        What to do with gaps and nucleotides; see :meth:`prott5nv.Embedder.embed`.

    Returns
    -------
    list of Filled, length=n
        The most likely first; samples come in the order in which they were drawn. A search returns fewer results if
        there are fewer combinations of residues.

    Raises
    ------
    ProtT5nvError
        If the protein has no gap, more gaps than the model has sentinels, gaps too far apart for one window, or a
        character that is not a residue; if an option is out of range; or if the model computes NaN or infinity.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5, fill
    >>> [best] = fill("MKT???AYI", ProtT5(ModelConfig.preset("tiny")))
    >>> best.sequence[:3], best.sequence[6:], best.positions, len(best.residues)
    ('MKT', 'AYI', (4, 5, 6), 3)
    """
    sequence = sequence_of(sequence, name, cleaning)
    hypotheses, choose = choice_rule(n, beams, temperature, top_p, np.random.default_rng(seed))
    embedder = as_embedder(model)
    masked_W = mask_gaps(sequence, embedder, name)
    with torch.inference_mode():
        tokens_W = torch.from_numpy(masked_W).to(embedder.hardware.device)
        hidden_WD = embedder.network.encode(tokens_W, _boundaries(tokens_W))
    return fill_from_hidden(embedder, sequence, hidden_WD, hypotheses, choose, name=name)[:n]


def mask_gaps(sequence: str, embedder: Embedder, name: str) -> np.ndarray:
    """Replace each gap by a sentinel, which gives the input of the encoder.

    Parameters
    ----------
    sequence : str
        A protein with at least one ``?``.
    embedder : Embedder
        The loaded model.
    name : str
        Name of the protein in error messages.

    Returns
    -------
    ndarray, shape=(W,), dtype=int64
        Tokens of the protein, or of a window around the gaps.

    Raises
    ------
    ProtT5nvError
        If the protein has no gap, too many gaps, or gaps too far apart.
    """
    indices = gaps(sequence)
    if not indices:
        raise ProtT5nvError(f"{name} has no {GAP}: write one in place of each missing residue")
    tokens_L, _ = embedder.tokenizer.encode_batch([sequence.upper().replace(GAP, "X")], [name])
    return mask_residues(tokens_L, indices, embedder.decoder_config, name)


def gaps(sequence: str) -> list[int]:
    """Return the indices of the gaps.

    >>> gaps("MK??A")
    [2, 3]
    """
    return [index for index, letter in enumerate(sequence) if letter == GAP]


@torch.inference_mode()
def fill_from_hidden(
    embedder: Embedder,
    sequence: str,
    hidden_WD: Tensor,
    hypotheses: int,
    choose: ChoiceRule,
    *,
    name: str = "the protein",
) -> list[Filled]:
    """Fill gaps, given the encoder's hidden states.

    Parameters
    ----------
    embedder : Embedder
        The loaded model.
    sequence : str
        A protein with at least one ``?``.
    hidden_WD : Tensor, shape=(W, D)
        Hidden states of the protein with a sentinel in each gap.
    hypotheses : int
        Number of hypotheses to start with.
    choose : callable
        Rule that continues hypotheses; see :func:`choice_rule`.
    name : str
        Name of the protein in error messages.

    Returns
    -------
    list of Filled
        One per hypothesis after the last gap.

    Raises
    ------
    ProtT5nvError
        If the model computes NaN or infinity.
    """
    device = embedder.hardware.device
    hidden_WD = hidden_WD.to(device, embedder.hardware.dtype)
    decoder = CachedDecoder(embedder.network, hidden_WD, _boundaries(hidden_WD), [hypotheses])
    totals_R = np.zeros(hypotheses)
    chosen_RK = np.zeros((hypotheses, 0), dtype=np.int64)
    expected_RKA = np.zeros((hypotheses, 0, len(AMINO_ACIDS)), dtype=np.float32)
    previous_R = np.full(hypotheses, BOS)
    indices = gaps(sequence)
    for number in range(len(indices)):
        tokens_RN = np.stack([previous_R, np.full_like(previous_R, FIRST_SENTINEL + number)], axis=1)
        decoded_RND = decoder.append(torch.from_numpy(tokens_RN).to(device))
        next_RA = amino_acid_log_probabilities(embedder.network, decoded_RND[:, -1]).cpu().numpy()
        check_finite(next_RA, name, embedder.hardware.precision)
        continued_R, column_R = choose(totals_R, next_RA)
        decoder.select(torch.from_numpy(continued_R).to(device))
        totals_R = totals_R[continued_R] + next_RA[continued_R, column_R]
        chosen_RK = np.concatenate([chosen_RK[continued_R], column_R[:, None]], axis=1)
        expected_RKA = np.concatenate([expected_RKA[continued_R], next_RA[continued_R, None]], axis=1)
        previous_R = AMINO_ACID_TOKENS[column_R]
    return [_filled(sequence, indices, *result) for result in zip(chosen_RK, expected_RKA, totals_R, strict=True)]


def _filled(
    sequence: str, indices: list[int], chosen_K: np.ndarray, expected_KA: np.ndarray, total: np.floating
) -> Filled:
    residues = "".join(AMINO_ACIDS[column] for column in chosen_K)
    letters = list(sequence.upper())
    for index, residue in zip(indices, residues, strict=True):
        letters[index] = residue
    probabilities_K = np.exp(expected_KA[np.arange(len(chosen_K)), chosen_K])
    positions = tuple(index + 1 for index in indices)
    return Filled("".join(letters), positions, residues, probabilities_K, float(total), expected_KA)


def choice_rule(
    n: int, beams: int | None, temperature: float, top_p: float, rng: np.random.Generator
) -> tuple[int, ChoiceRule]:
    """Return the rule that chooses residues: beam search without a temperature, sampling with one.

    Parameters
    ----------
    n, beams, temperature, top_p
        See :func:`fill`.
    rng : numpy.random.Generator
        Source of the samples.

    Returns
    -------
    hypotheses : int
        Number of hypotheses to start with.
    choose : callable
        Takes the log-probabilities of the hypotheses so far, shape=(R,), and of the next residue, shape=(R, A).
        Returns the indices of the hypotheses to continue and the column of the amino acid that each gets.

    Raises
    ------
    ProtT5nvError
        If an option is out of range, or options contradict each other.
    """
    if n < 1 or (beams is not None and beams < n):
        raise ProtT5nvError(f"n={n}, beams={beams}: n must be at least 1, and beams at least n")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ProtT5nvError(
            f"temperature={temperature}, top_p={top_p}: temperature must be at least 0, and top_p above 0 and at most 1"
        )
    if temperature:
        if beams is not None:
            raise ProtT5nvError(f"beams={beams}: with a temperature, results are sampled, not searched for")
        return n, lambda totals_R, next_RA: (np.arange(len(next_RA)), draw(next_RA, temperature, top_p, rng))
    if top_p < 1:
        raise ProtT5nvError(f"top_p={top_p}: sampling needs a temperature above 0")
    width = n if beams is None else beams

    def keep_most_likely(totals_R: np.ndarray, next_RA: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        totals_RA = totals_R[:, None] + next_RA
        best = np.argsort(-totals_RA, axis=None, kind="stable")[:width]
        hypothesis_R, column_R = np.unravel_index(best, totals_RA.shape)
        return hypothesis_R, column_R

    return 1, keep_most_likely


def draw(log_probabilities_RA: np.ndarray, temperature: float, top_p: float, rng: np.random.Generator) -> np.ndarray:
    """Sample one amino acid for every hypothesis.

    Parameters
    ----------
    log_probabilities_RA : ndarray, shape=(R, A), dtype=float32
        Natural logarithms of the probabilities of the next residue.
    temperature, top_p : float
        See :func:`fill`.
    rng : numpy.random.Generator
        Source of the samples.

    Returns
    -------
    ndarray, shape=(R,), dtype=int64
        Columns of the sampled amino acids.

    Examples
    --------
    >>> draw(np.log([[0.6, 0.3, 0.1]]), 1.0, 0.5, np.random.default_rng(0))
    array([0])
    """
    scaled_RA = log_probabilities_RA.astype(np.float64) / temperature
    probabilities_RA = np.exp(scaled_RA - scaled_RA.max(axis=1, keepdims=True))
    probabilities_RA /= probabilities_RA.sum(axis=1, keepdims=True)
    order_RA = np.argsort(-probabilities_RA, axis=1, kind="stable")
    sorted_RA = np.take_along_axis(probabilities_RA, order_RA, axis=1)
    before_RA = sorted_RA.cumsum(axis=1) - sorted_RA
    sorted_RA[before_RA >= top_p] = 0
    cumulative_RA = sorted_RA.cumsum(axis=1)
    threshold_R1 = rng.random((len(log_probabilities_RA), 1)) * cumulative_RA[:, -1:]
    rank_R1 = (cumulative_RA <= threshold_R1).sum(axis=1, keepdims=True)
    return np.take_along_axis(order_RA, rank_R1, axis=1)[:, 0]


def _boundaries(rows: Tensor) -> Tensor:
    """Return the sequence boundaries of a batch that holds a single protein."""
    return torch.tensor([0, len(rows)], dtype=torch.int32, device=rows.device)
