"""How much of a machine's matrix product rate a training step reaches."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from prott5nv.model.config import ModelConfig


def training_flops(config: ModelConfig, encoder_lengths: Sequence[int], decoder_lengths: Sequence[int]) -> float:
    """Floating point operations that a training step over these proteins needs, whoever computes it.

    Products of matrices alone: forward once and backward twice, causal attention counted for the half that is not
    masked, padding and recomputation not counted.

    Parameters
    ----------
    config : ModelConfig
    encoder_lengths, decoder_lengths : sequence of int
        Tokens of each protein.

    Returns
    -------
    float

    Examples
    --------
    >>> round(training_flops(ModelConfig(), [300], [90]) / 1e9)
    245
    """
    d, f = config.hidden_size, config.ffn_hidden_size
    encoder_tokens, decoder_tokens = sum(encoder_lengths), sum(decoder_lengths)
    projections = 4 * d * d + 2 * d * f
    encoder = 2 * projections * encoder_tokens + 4 * d * sum(length**2 for length in encoder_lengths)
    decoder = (
        2 * (projections + 2 * d * d) * decoder_tokens  # those of attention to the encoder: query and output
        + 2 * 2 * d * d * encoder_tokens  # and key and value
        + 2 * d * sum(length**2 for length in decoder_lengths)
        + 4 * d * sum(e * s for e, s in zip(encoder_lengths, decoder_lengths, strict=True))
    )
    head = 2 * d * config.padded_vocab_size * decoder_tokens
    return 3.0 * (config.num_layers * encoder + config.layers_per_stack["decoder"] * decoder + head)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """The best rate at which this machine, as it is now, multiplies large matrices, in operations a second."""
    rows, inner, columns = (8192, 8192, 8192) if device.type == "cuda" else (4096, 768, 3072)
    left = torch.randn(rows, inner, device=device, dtype=dtype)
    right = torch.randn(inner, columns, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):  # the first one warms up
        _synchronize(device)
        began = time.perf_counter()
        left @ right
        _synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * rows * inner * columns / best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
