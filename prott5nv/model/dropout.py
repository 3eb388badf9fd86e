"""Dropout that is cheap on a CPU compared with the surrounding matmuls."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dropout(x: Tensor, probability: float) -> Tensor:
    """Set each value to zero with the given probability, and scale the others so that the mean stays the same.

    On a CPU, PyTorch draws one random number per value, which took a fifth of a training step. This function splits
    each 64-bit draw of the same generator into four 16-bit numbers. The probability is therefore rounded to a multiple
    of 1/65,536. PyTorch's random state still determines the result, so runs stay reproducible and resumable.

    Parameters
    ----------
    x : Tensor
        Values of any shape and floating-point dtype.
    probability : float
        Probability of dropping a value, at least 0 and below 1.

    Returns
    -------
    Tensor
        Values of the same shape and dtype.

    Examples
    --------
    >>> kept = dropout(torch.ones(1000), 0.5)
    >>> kept.unique(), 400 < kept.count_nonzero() < 600
    (tensor([0., 2.]), tensor(True))
    """
    if x.device.type != "cpu" or not probability:
        return F.dropout(x, probability)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    dropped = round(probability * 2**16)
    keep = draws[: x.numel()].view(x.shape) >= dropped - 2**15
    return torch.where(keep, x, 0) * (1 / (1 - dropped / 2**16))
