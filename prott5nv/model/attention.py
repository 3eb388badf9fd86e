"""Attention over packed proteins: tokens of one protein see only tokens of the same protein, and nothing is padded.

Shapes: B proteins, T packed query tokens, S packed key tokens, H heads, C channels of a head.
"""

from __future__ import annotations

from functools import cached_property
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from prott5nv.model.dropout import dropout


class Packing:
    """Where each protein lies in a packed tensor; computed once a batch and used by every layer.

    Parameters
    ----------
    cu_seqlens_B1 : Tensor, shape=(B + 1,), dtype=int32
        Start of each protein, and the end of the last.
    """

    def __init__(self, cu_seqlens_B1: Tensor):
        self.cu_seqlens = cu_seqlens_B1
        self.lengths: list[int] = cu_seqlens_B1.diff().tolist()
        self.max_length = max(self.lengths, default=0)

    @cached_property
    def positions_T(self) -> Tensor:
        """Position of each token in its own protein, from 0: Tensor, shape=(T,), dtype=int64."""
        starts = self.cu_seqlens[:-1].long()
        lengths = self.cu_seqlens.diff().long()
        tokens = torch.arange(sum(self.lengths), device=starts.device)
        return tokens - torch.repeat_interleave(starts, lengths, output_size=tokens.numel())


def packed_attention(
    query_THC: Tensor,
    key_SHC: Tensor,
    value_SHC: Tensor,
    query_packing: Packing,
    key_packing: Packing,
    *,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention within each protein.

    Parameters
    ----------
    query_THC : Tensor, shape=(T, H, C)
    key_SHC, value_SHC : Tensor, shape=(S, H, C)
    query_packing, key_packing : Packing
        Of the same number of proteins; the same object for self-attention.
    causal : bool
        Whether token i sees only tokens 0..i; queries and keys are then of equal length.
    dropout : float
        Probability with which an attention weight is dropped.

    Returns
    -------
    Tensor, shape=(T, H, C)
    """
    if query_THC.is_cuda and query_THC.dtype != torch.float32 and torch.cuda.get_device_capability() >= (8, 0):
        if dropout:
            return _nested(query_THC, key_SHC, value_SHC, query_packing, key_packing, causal, dropout)
        # Imported here: older PyTorch has no such module, and CPUs do not need it.
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn(
            query_THC,
            key_SHC,
            value_SHC,
            query_packing.cu_seqlens,
            key_packing.cu_seqlens,
            query_packing.max_length,
            key_packing.max_length,
            window_size=(-1, 0) if causal else (-1, -1),
        )
    return _grouped(query_THC, key_SHC, value_SHC, query_packing, key_packing, causal, dropout)


def _grouped(query, key, value, query_packing, key_packing, causal, dropout):
    """One SDPA call for each run of neighbours of equal length: no mask, no padding, any device and precision."""
    heads, channels = query.shape[1:]
    runs = [
        (count, lengths)
        for lengths, run in groupby(zip(query_packing.lengths, key_packing.lengths, strict=True))
        if (count := len(list(run)))
    ]
    # torch.split, because its backward is one concatenation; slicing would zero-fill a full tensor for every run.
    queries = query.split([count * length for count, (length, _) in runs])
    keys = key.split([count * length for count, (_, length) in runs])
    values = value.split([count * length for count, (_, length) in runs])
    # Training in bf16 on a CPU: PyTorch's fused kernel takes 2.7 times as long as the three operations that it fuses.
    plain = query.device.type == "cpu" and query.dtype == torch.bfloat16 and torch.is_grad_enabled()
    attend = _matmul_attention if plain else F.scaled_dot_product_attention
    out = []
    for (count, (query_length, key_length)), q, k, v in zip(runs, queries, keys, values, strict=True):
        attended = attend(
            q.reshape(count, query_length, heads, channels).transpose(1, 2),
            k.reshape(count, key_length, heads, channels).transpose(1, 2),
            v.reshape(count, key_length, heads, channels).transpose(1, 2),
            dropout_p=dropout,
            is_causal=causal,
        )
        out.append(attended.transpose(1, 2).reshape(count * query_length, heads, channels))
    return torch.cat(out)


def _matmul_attention(query, key, value, *, dropout_p, is_causal):
    with torch.autocast("cpu", enabled=False):  # it would widen the weights, which softmax computes in fp32 anyway
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
        if is_causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, -torch.inf)
        weights = dropout(scores.softmax(-1), dropout_p)
        return weights @ value


def _nested(query, key, value, query_packing, key_packing, causal, dropout):
    """Flash attention with dropout, which ``varlen_attn`` does not offer, through nested jagged tensors."""

    def jagged(x, packing):
        return torch.nested.nested_tensor_from_jagged(
            x, packing.cu_seqlens.long(), min_seqlen=min(packing.lengths), max_seqlen=packing.max_length
        ).transpose(1, 2)

    attended = F.scaled_dot_product_attention(
        jagged(query, query_packing),
        jagged(key, key_packing),
        jagged(value, key_packing),
        dropout_p=dropout,
        is_causal=causal,
    )
    return attended.transpose(1, 2).values()
