"""Residues hidden behind sentinels, as in pretraining: each has a sentinel of its own, in ascending order.

Shapes: L residues of a protein, W of them that the model sees at once, K hidden ones, R readings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prott5nv.errors import ProtT5nvError
from prott5nv.model.config import ModelConfig
from prott5nv.model.tokenizer import BOS, FIRST_RESIDUE, FIRST_SENTINEL, RESIDUES

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
GAP = "?"
AMINO_ACID_TOKENS = np.array([FIRST_RESIDUE + RESIDUES.index(letter) for letter in AMINO_ACIDS])


def max_masked(config: ModelConfig) -> int:
    """Residues that can be hidden at once: each takes a sentinel and two tokens of the decoder."""
    return min(config.num_sentinel_tokens, config.seq_length_dec // 2)


def window_round(places: Sequence[int], length: int, limit: int) -> slice:
    """The stretch of a protein that the model sees: all of it, or the `limit` residues round what is hidden.

    Parameters
    ----------
    places : sequence of int
        Hidden residues, counted from 0, in ascending order.
    length : int
        Residues of the protein.
    limit : int
        Residues that the model sees at once.

    Examples
    --------
    >>> window_round([0], 100, 512), window_round([700], 1000, 512), window_round([990], 1000, 512)
    (slice(0, 100, None), slice(444, 956, None), slice(488, 1000, None))
    """
    if length <= limit:
        return slice(0, length)
    middle = (places[0] + places[-1] + 1) // 2
    start = min(max(middle - limit // 2, 0), length - limit)
    return slice(start, start + limit)


def mask_residues(tokens_L: np.ndarray, places: Sequence[int], config: ModelConfig, name: str) -> np.ndarray:
    """Encoder input: the protein, or a window of it, with sentinels in some places.

    Parameters
    ----------
    tokens_L : ndarray, shape=(L,), dtype=int64
    places : sequence of int
        K residues to hide, counted from 0, in ascending order.
    config : ModelConfig
    name : str
        What error messages call the places.

    Returns
    -------
    ndarray, shape=(W,), dtype=int64

    Raises
    ------
    ProtT5nvError
        If there are more places than sentinels, or they lie too far apart for the model to see at once.

    Examples
    --------
    >>> mask_residues(np.array([22, 7, 5, 16, 11]), [1, 2], ModelConfig.preset("tiny"), "").tolist()
    [22, 32, 33, 16, 11]
    """
    most, limit = max_masked(config), config.max_position_embeddings
    if len(places) > most:
        raise ProtT5nvError(f"{name}: {len(places)} residues are hidden; this model can be asked for {most} at once")
    if places[-1] - places[0] >= limit:
        raise ProtT5nvError(
            f"{name}: residues {places[0] + 1} and {places[-1] + 1} lie too far apart; "
            f"this model sees at most {limit} at once"
        )
    window = window_round(places, len(tokens_L), limit)
    hidden_W = tokens_L[window].copy()
    hidden_W[np.array(places) - window.start] = FIRST_SENTINEL + np.arange(len(places))
    return hidden_W


def decoder_input(known_RK: np.ndarray) -> np.ndarray:
    """Decoder input up to the last hidden residue, ``<s> s0 aa0 s1 aa1 ... sK``; the odd columns ask for a residue.

    Parameters
    ----------
    known_RK : ndarray, shape=(R, K), dtype=int64
        Tokens of all hidden residues but the last, in R combinations.

    Returns
    -------
    ndarray, shape=(R, 2 * K + 2), dtype=int64

    Examples
    --------
    >>> decoder_input(np.array([[16]])).tolist()
    [[1, 32, 16, 33]]
    """
    readings, known = known_RK.shape
    tokens_RN = np.full((readings, 2 * known + 2), BOS)
    tokens_RN[:, 1::2] = FIRST_SENTINEL + np.arange(known + 1)
    tokens_RN[:, 2::2] = known_RK
    return tokens_RN
