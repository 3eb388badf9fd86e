"""Attention over packed proteins: a token attends only to tokens of its own protein, and there is no padding.

Shapes: B proteins, T packed query tokens, S packed key tokens, H heads, C channels per head.
"""

from __future__ import annotations

from functools import cached_property
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from prott5nv.model.device import to_device
from prott5nv.model.dropout import dropout


class Packing:
    """Boundaries of the proteins in a packed tensor, computed once per batch and used by every layer.

    Parameters
    ----------
    cu_seqlens_B1 : Tensor, shape=(B + 1,), dtype=int32
        Start of each protein, followed by the end of the last one. If it is on the host, lengths are read there, so the
        host does not wait for a GPU.
    device : torch.device, optional
        Device of the packed tokens. By default it is that of `cu_seqlens_B1`.
    num_tokens : int, optional
        Number of tokens of all proteins.
    max_length : int, optional
        Upper limit of the number of tokens of a protein. If `num_tokens` and `max_length` are given, attention on a GPU
        reads no lengths at all.

    Attributes
    ----------
    cu_seqlens : Tensor, shape=(B + 1,), dtype=int32
        The given boundaries, on the device.
    """

    def __init__(
        self,
        cu_seqlens_B1: Tensor,
        *,
        device: torch.device | None = None,
        num_tokens: int | None = None,
        max_length: int | None = None,
    ) -> None:
        self.cu_seqlens = cu_seqlens_B1 if device is None else to_device(cu_seqlens_B1, device)
        self._given = cu_seqlens_B1
        self._num_tokens = num_tokens
        self._max_length = max_length

    @cached_property
    def lengths(self) -> list[int]:
        """Number of tokens of each protein."""
        lengths: list[int] = self._given.diff().tolist()
        return lengths

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all proteins."""
        return sum(self.lengths) if self._num_tokens is None else self._num_tokens

    @property
    def max_length(self) -> int:
        """Number of tokens of the longest protein, or the given upper limit; 0 if there are no proteins."""
        return max(self.lengths, default=0) if self._max_length is None else self._max_length

    @cached_property
    def positions_T(self) -> Tensor:
        """Position of each token within its protein, counted from 0: Tensor, shape=(T,), dtype=int64."""
        starts = self.cu_seqlens[:-1].long()
        lengths = self.cu_seqlens.diff().long()
        tokens = torch.arange(self.num_tokens, device=starts.device)
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
    """Compute scaled dot-product attention within each protein.

    Parameters
    ----------
    query_THC : Tensor, shape=(T, H, C)
        Queries of all proteins.
    key_SHC, value_SHC : Tensor, shape=(S, H, C)
        Keys and values of all proteins.
    query_packing, key_packing : Packing
        Boundaries of the proteins in the queries and in the keys. Both must hold the same number of proteins.
        Self-attention passes the same object twice.
    causal : bool, default False
        Whether token i attends only to tokens 0..i. Each protein then needs as many keys as queries.
    dropout : float, default 0.0
        Probability of dropping an attention weight.

    Returns
    -------
    Tensor, shape=(T, H, C)
        Attention output of each query token.
    """
    if has_flash_attention(query_THC):
        return _flash_attention(query_THC, key_SHC, value_SHC, query_packing, key_packing, causal, dropout)
    return _attention_by_length(query_THC, key_SHC, value_SHC, query_packing, key_packing, causal, dropout)


def has_flash_attention(query: Tensor) -> bool:
    """Return whether :func:`packed_attention` takes these queries to one call of flash attention."""
    # torch.compile knows the result of get_device_properties, but not that of get_device_capability.
    return query.is_cuda and query.dtype != torch.float32 and torch.cuda.get_device_properties(query.device).major >= 8


def _attention_by_length(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_packing: Packing,
    key_packing: Packing,
    causal: bool,
    dropout: float,
) -> Tensor:
    """Call SDPA once per run of consecutive proteins of equal length.

    This needs neither a mask nor padding, and works on every device and in every precision.
    """
    heads, channels = query.shape[1:]
    runs = [
        (count, lengths)
        for lengths, run in groupby(zip(query_packing.lengths, key_packing.lengths, strict=True))
        if (count := len(list(run)))
    ]
    # The backward pass of torch.split is one concatenation. Slicing would zero-fill a full tensor for every run.
    queries = query.split([count * length for count, (length, _) in runs])
    keys = key.split([count * length for count, (_, length) in runs])
    values = value.split([count * length for count, (_, length) in runs])
    # In bf16 training on a CPU, PyTorch's fused kernel takes 2.7 times as long as the three operations that it fuses.
    unfused = query.device.type == "cpu" and query.dtype == torch.bfloat16 and torch.is_grad_enabled()
    attend = _matmul_attention if unfused else F.scaled_dot_product_attention
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


def _matmul_attention(query: Tensor, key: Tensor, value: Tensor, *, dropout_p: float, is_causal: bool) -> Tensor:
    """Compute attention from separate matmuls; the parameters are those of ``F.scaled_dot_product_attention``."""
    # Autocast would convert the attention weights to fp32. Softmax computes in fp32 internally anyway.
    with torch.autocast("cpu", enabled=False):
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
        if is_causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, -torch.inf)
        weights = dropout(scores.softmax(-1), dropout_p)
        return weights @ value


def _flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_packing: Packing,
    key_packing: Packing,
    causal: bool,
    dropout: float,
) -> Tensor:
    """Compute attention of all proteins in one call of PyTorch's flash attention.

    PyTorch's public function for packed sequences, ``varlen_attn``, calls the same operator but has no dropout.
    """
    attended: Tensor = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        query_packing.cu_seqlens,
        key_packing.cu_seqlens,
        query_packing.max_length,
        key_packing.max_length,
        dropout,
        causal,
        False,  # return the output only
    )[0]
    return attended
