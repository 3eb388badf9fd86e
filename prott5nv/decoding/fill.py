"""Residues for the gaps of a protein: the most likely ones, the n best, or drawn at random.

Gaps are filled from the first to the last, each in the light of those before it. Only amino acids and the next sentinel
are ever given to the decoder, so that the result is always a protein of the same length.

Shapes: L residues of a protein, W of them that the model sees at once, K gaps, R readings, A amino acids,
D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prott5nv.decoding.kv_cache import CachedDecoder, amino_acid_log_probabilities
from prott5nv.decoding.masking import AMINO_ACID_TOKENS, AMINO_ACIDS, GAP, mask_residues
from prott5nv.embedding.embedder import Embedder, Model, as_embedder
from prott5nv.errors import ProtT5nvError
from prott5nv.model.tokenizer import BOS, FIRST_SENTINEL

# Of the readings so far and what each expects: those to go on with, and the amino acid that each takes.
Choice = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Filled(NamedTuple):
    """A protein without gaps.

    Attributes
    ----------
    sequence : str
        Of the same length as what was to be filled; given residues are unchanged.
    positions : tuple of int
        Where the gaps were, counted from 1.
    residues : str
        What was put there.
    probabilities : ndarray, shape=(K,), dtype=float32
        Of each of these residues among the 20 amino acids, given those before it.
    log_probability : float
        Natural logarithm of the product of `probabilities`, by which results compare.
    expected : ndarray, shape=(K, A), dtype=float32
        Log-probabilities of all amino acids at each gap, given the residues put before it; columns in the order of
        `prott5nv.decoding.masking.AMINO_ACIDS`.
    """

    sequence: str
    positions: tuple[int, ...]
    residues: str
    probabilities: np.ndarray
    log_probability: float
    expected: np.ndarray


def fill(
    sequence: str,
    model: Model = None,
    *,
    n: int = 1,
    beams: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    name: str = "the protein",
) -> list[Filled]:
    """Put residues where a protein has ``?``.

    Parameters
    ----------
    sequence : str
        A protein with at least one ``?``; each stands for one residue. Of a protein longer than the model sees at once,
        it sees a window round the gaps.
    model : str, Path, ProtT5, Embedder or ProtT5nvInference, optional
        A ``.nemo`` file, or a model that is loaded already, which saves time from the second call on.
        By default the small model inside this package.
    n : int
        Results. By default one, which takes the most likely residue at each gap.
    beams : int, optional
        Without temperature, the partial results kept at each gap, of which the `n` best remain at the end (beam
        search); `n` by default, and more find better ones.
    temperature : float
        0 for the most likely results; above 0, they are drawn at random: 1 as the model expects them, less for more
        likely ones.
    top_p : float
        With temperature, residues are drawn from the fewest that have this probability together.
    seed : int
        Of what is drawn.
    name : str
        What error messages call the protein.

    Returns
    -------
    list of Filled, length=n
        The most likely first, or in the order in which they were drawn. Fewer where there are not as many
        combinations of residues.

    Raises
    ------
    ProtT5nvError
        If the protein has no gap, more than the model has sentinels for, gaps too far apart for it, or something that
        is no residue; or if a setting is not valid.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5, fill
    >>> [best] = fill("MKT???AYI", ProtT5(ModelConfig.preset("tiny")))
    >>> best.sequence[:3], best.sequence[6:], best.positions, len(best.residues)
    ('MKT', 'AYI', (4, 5, 6), 3)
    """
    readings, choose = make_choice(n, beams, temperature, top_p, np.random.default_rng(seed))
    inference = as_embedder(model)
    hidden_W = mask_gaps(sequence, inference, name)
    with torch.inference_mode():
        tokens_W = torch.from_numpy(hidden_W).to(inference.hardware.device)
        hidden_WD = inference.network.encode(tokens_W, _whole(tokens_W))
    return fill_from_hidden(inference, sequence, hidden_WD, readings, choose)[:n]


def mask_gaps(sequence: str, inference: Embedder, name: str) -> np.ndarray:
    """Encoder input: ndarray, shape=(W,), dtype=int64; the protein, or a window of it, with a sentinel for each gap."""
    places = gaps(sequence)
    if not places:
        raise ProtT5nvError(f"{name} has no {GAP}: write one where a residue is missing")
    tokens_L, _ = inference.tokenizer.encode_batch([sequence.upper().replace(GAP, "X")], [name])
    return mask_residues(tokens_L, places, inference.config, name)


def gaps(sequence: str) -> list[int]:
    """Where the gaps are, counted from 0.

    >>> gaps("MK??A")
    [2, 3]
    """
    return [place for place, letter in enumerate(sequence) if letter == GAP]


@torch.inference_mode()
def fill_from_hidden(
    inference: Embedder, sequence: str, hidden_WD: Tensor, readings: int, choose: Choice
) -> list[Filled]:
    """Fill gaps from the encoder's hidden states.

    Parameters
    ----------
    inference : Embedder
    sequence : str
        With `GAP` where residues are missing.
    hidden_WD : Tensor, shape=(W, D)
        What the encoder made of the protein with a sentinel for each gap.
    readings : int
        To begin with.
    choose : callable
        See :func:`make_choice`.

    Returns
    -------
    list of Filled
    """
    device = inference.hardware.device
    hidden_WD = hidden_WD.to(device, inference.hardware.dtype)
    decoder = CachedDecoder(inference.network, hidden_WD, _whole(hidden_WD), [readings])
    totals_R = np.zeros(readings)
    chosen_RK = np.zeros((readings, 0), dtype=np.int64)
    expected_RKA = np.zeros((readings, 0, len(AMINO_ACIDS)), dtype=np.float32)
    last_R = np.full(readings, BOS)
    places = gaps(sequence)
    for number in range(len(places)):
        tokens_RN = np.stack([last_R, np.full_like(last_R, FIRST_SENTINEL + number)], axis=1)
        read_RND = decoder.read(torch.from_numpy(tokens_RN).to(device))
        found_RA = amino_acid_log_probabilities(inference.network, read_RND[:, -1]).cpu().numpy()
        going_on_R, column_R = choose(totals_R, found_RA)
        decoder.select(torch.from_numpy(going_on_R).to(device))
        totals_R = totals_R[going_on_R] + found_RA[going_on_R, column_R]
        chosen_RK = np.concatenate([chosen_RK[going_on_R], column_R[:, None]], axis=1)
        expected_RKA = np.concatenate([expected_RKA[going_on_R], found_RA[going_on_R, None]], axis=1)
        last_R = AMINO_ACID_TOKENS[column_R]
    positions = tuple(place + 1 for place in places)
    return [_filled(sequence, positions, *result) for result in zip(chosen_RK, expected_RKA, totals_R, strict=True)]


def _filled(sequence, positions, chosen_K, expected_KA, total) -> Filled:
    residues = "".join(AMINO_ACIDS[column] for column in chosen_K)
    letters = list(sequence.upper())
    for position, residue in zip(positions, residues, strict=True):
        letters[position - 1] = residue
    probabilities_K = np.exp(expected_KA[np.arange(len(chosen_K)), chosen_K])
    return Filled("".join(letters), positions, residues, probabilities_K, float(total), expected_KA)


def make_choice(
    n: int, beams: int | None, temperature: float, top_p: float, rng: np.random.Generator
) -> tuple[int, Choice]:
    """How residues are chosen: how many readings begin, and who goes on with what; parameters as for :func:`fill`."""
    if n < 1 or (beams is not None and beams < n):
        raise ProtT5nvError(f"n={n}, beams={beams}: n must be at least 1, and beams at least n")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ProtT5nvError(f"temperature={temperature}, top_p={top_p}: at least 0, and above 0 up to 1")
    if temperature:
        if beams is not None:
            raise ProtT5nvError(f"beams={beams}: with a temperature, results are drawn, not searched for")
        return n, lambda totals_R, found_RA: (np.arange(len(found_RA)), draw(found_RA, temperature, top_p, rng))
    if top_p < 1:
        raise ProtT5nvError(f"top_p={top_p}: only with a temperature above 0 are results drawn")
    width = n if beams is None else beams

    def most_likely(totals_R: np.ndarray, found_RA: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        totals_RA = totals_R[:, None] + found_RA
        best = np.argsort(-totals_RA, axis=None, kind="stable")[:width]
        return np.unravel_index(best, totals_RA.shape)

    return 1, most_likely


def draw(found_RA: np.ndarray, temperature: float, top_p: float, rng: np.random.Generator) -> np.ndarray:
    """Draw an amino acid for every reading.

    Parameters
    ----------
    found_RA : ndarray, shape=(R, A)
        Log-probabilities.
    temperature, top_p
        As for :func:`fill`.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape=(R,), dtype=int64

    Examples
    --------
    >>> draw(np.log([[0.6, 0.3, 0.1]]), 1.0, 0.5, np.random.default_rng(0))
    array([0])
    """
    scaled_RA = found_RA.astype(np.float64) / temperature
    probabilities_RA = np.exp(scaled_RA - scaled_RA.max(axis=1, keepdims=True))
    probabilities_RA /= probabilities_RA.sum(axis=1, keepdims=True)
    order_RA = np.argsort(-probabilities_RA, axis=1, kind="stable")
    sorted_RA = np.take_along_axis(probabilities_RA, order_RA, axis=1)
    before_RA = sorted_RA.cumsum(axis=1) - sorted_RA
    sorted_RA[before_RA >= top_p] = 0
    reached_RA = sorted_RA.cumsum(axis=1)
    drawn_R1 = rng.random((len(found_RA), 1)) * reached_RA[:, -1:]
    return np.take_along_axis(order_RA, (reached_RA <= drawn_R1).sum(axis=1, keepdims=True), axis=1)[:, 0]


def _whole(rows: Tensor) -> Tensor:
    """Boundaries of a single protein."""
    return torch.tensor([0, len(rows)], dtype=torch.int32, device=rows.device)
