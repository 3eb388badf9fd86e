"""Useful operations of a training step, and the matmul rate of the machine to compare them with."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from prott5nv.model.config import ModelConfig

_LONG_ENOUGH = 0.2  # seconds of a matmul from which its rate is measured well


def training_flops(config: ModelConfig, encoder_lengths: Sequence[int], decoder_lengths: Sequence[int]) -> float:
    """Count the floating-point operations that a training step over these proteins needs in any implementation.

    Only matmuls count: once for the forward and twice for the backward pass. Causal attention counts for the half that
    is not masked. Padding and recomputation do not count.

    Parameters
    ----------
    config : ModelConfig
    encoder_lengths, decoder_lengths : sequence of int
        Number of tokens of each protein.

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
        2 * (projections + 2 * d * d) * decoder_tokens  # with query and output of attention to the encoder
        + 2 * 2 * d * d * encoder_tokens  # its key and value
        + 2 * d * sum(length**2 for length in decoder_lengths)
        + 4 * d * sum(e * s for e, s in zip(encoder_lengths, decoder_lengths, strict=True))
    )
    head = 2 * d * config.padded_vocab_size * decoder_tokens
    return 3.0 * (config.num_layers * encoder + config.layers_per_stack["decoder"] * decoder + head)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the best rate of large matmuls on this machine, under its current load.

    Parameters
    ----------
    device : torch.device
    dtype : torch.dtype

    Returns
    -------
    float
        Operations per second in this data type.
    """
    # A CPU without bf16 instructions is about 30 times slower in bf16 than in fp32. It needs only few rows for a good
    # measurement, and would need minutes for many.
    row_counts = (8192,) if device.type == "cuda" else (64, 512, 4096)
    inner, columns = (8192, 8192) if device.type == "cuda" else (768, 3072)
    right = torch.randn(inner, columns, device=device, dtype=dtype)
    for rows in row_counts:
        left = torch.randn(rows, inner, device=device, dtype=dtype)
        seconds = min(_seconds_of_matmul(left, right) for _ in range(4))  # the first one warms up
        if seconds > _LONG_ENOUGH:
            break
    return 2.0 * rows * inner * columns / seconds


def _seconds_of_matmul(left: torch.Tensor, right: torch.Tensor) -> float:
    _synchronize(left.device)
    start = time.perf_counter()
    left @ right
    _synchronize(left.device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
