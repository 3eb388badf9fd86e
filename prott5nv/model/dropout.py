"""Dropout that does not cost a CPU as much as the products round it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dropout(x: Tensor, probability: float) -> Tensor:
    """Set each value to 0 with this probability, and scale the others so that the mean stays.

    On a CPU PyTorch draws one number per value, one after the other, which took a fifth of a training step. Here one
    64-bit draw of the same generator decides for four values, so that the probability is a multiple of 1/65,536 and a
    run is still reproduced and resumed through PyTorch's own random state.

    Parameters
    ----------
    x : Tensor
        Any shape and floating dtype.
    probability : float
        At least 0 and below 1.

    Returns
    -------
    Tensor
        Of the same shape and dtype.

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
