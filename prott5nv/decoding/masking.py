"""Masking: residues are replaced by sentinel tokens, as in pretraining, one sentinel per residue in ascending order.

Shapes: L residues of a protein, W residues of the window that the model sees, K masked residues, R hypotheses.
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
    """Return how many residues can be masked at once: each needs one sentinel and two tokens of the decoder."""
    return min(config.num_sentinel_tokens, config.seq_length_dec // 2)


def window_around(indices: Sequence[int] | np.ndarray, length: int, limit: int) -> slice:
    """Choose the window of a protein that the model sees.

    Parameters
    ----------
    indices : sequence of int
        Indices of the masked residues, in ascending order.
    length : int
        Length of the protein.
    limit : int
        Largest number of residues that the model accepts.

    Returns
    -------
    slice
        The whole protein if it is short enough, otherwise `limit` residues centred on the masked ones.

    Examples
    --------
    >>> window_around([0], 100, 512), window_around([700], 1000, 512), window_around([990], 1000, 512)
    (slice(0, 100, None), slice(444, 956, None), slice(488, 1000, None))
    """
    if length <= limit:
        return slice(0, length)
    centre = (int(indices[0]) + int(indices[-1]) + 1) // 2
    start = min(max(centre - limit // 2, 0), length - limit)
    return slice(start, start + limit)


def check_maskable(indices: Sequence[int] | np.ndarray, config: ModelConfig, name: str) -> None:
    """Check that a model can predict some residues together.

    Parameters
    ----------
    indices : sequence of int
        Indices of the masked residues, in ascending order.
    config : ModelConfig
        Architecture of the model, which sets the limits.
    name : str
        Name of the protein in error messages.

    Raises
    ------
    ProtT5nvError
        If there are more masked residues than sentinels, or they do not fit in one window.
    """
    most, limit = max_masked(config), config.max_position_embeddings
    if len(indices) > most:
        raise ProtT5nvError(f"{name}: {len(indices)} residues are masked; this model predicts at most {most} at once")
    if indices[-1] - indices[0] >= limit:
        raise ProtT5nvError(
            f"{name}: residues {indices[0] + 1} and {indices[-1] + 1} are too far apart; "
            f"this model sees at most {limit} residues at once"
        )


def mask_residues(
    tokens_L: np.ndarray, indices: Sequence[int] | np.ndarray, config: ModelConfig, name: str
) -> np.ndarray:
    """Replace residues by sentinels, which gives the input of the encoder.

    Parameters
    ----------
    tokens_L : ndarray, shape=(L,), dtype=int64
        Tokens of the protein.
    indices : sequence of int
        Indices of the K residues to mask, in ascending order.
    config : ModelConfig
        Architecture of the model, which sets the limits.
    name : str
        Name of the protein in error messages.

    Returns
    -------
    ndarray, shape=(W,), dtype=int64
        Tokens of the protein, or of a window if it is too long, with sentinels.

    Raises
    ------
    ProtT5nvError
        If there are more masked residues than sentinels, or they do not fit in one window.

    Examples
    --------
    >>> mask_residues(np.array([22, 7, 5, 16, 11]), [1, 2], ModelConfig.preset("tiny"), "").tolist()
    [22, 32, 33, 16, 11]
    """
    check_maskable(indices, config, name)
    window = window_around(indices, len(tokens_L), config.max_position_embeddings)
    masked_W = tokens_L[window].copy()
    masked_W[np.array(indices) - window.start] = FIRST_SENTINEL + np.arange(len(indices))
    return masked_W


def decoder_input(known_RK: np.ndarray) -> np.ndarray:
    """Build the input of the decoder, ``<s> s0 aa0 s1 aa1 ... sK``, which ends with the sentinel of the last residue.

    The decoder predicts a residue after each sentinel, which is in every odd column.

    Parameters
    ----------
    known_RK : ndarray, shape=(R, K - 1), dtype=int64
        Tokens of all masked residues but the last, for each of R hypotheses.

    Returns
    -------
    ndarray, shape=(R, 2 * K), dtype=int64

    Examples
    --------
    >>> decoder_input(np.array([[16]])).tolist()
    [[1, 32, 16, 33]]
    """
    hypotheses, known = known_RK.shape
    tokens_RN = np.full((hypotheses, 2 * known + 2), BOS)
    tokens_RN[:, 1::2] = FIRST_SENTINEL + np.arange(known + 1)
    tokens_RN[:, 2::2] = known_RK
    return tokens_RN
