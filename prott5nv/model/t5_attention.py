"""Attention of T5 models over packed proteins: a bias for the distance between two tokens is added to each score.

Shapes: S packed tokens, L tokens of a protein, N proteins of the same length, H heads, C channels per head,
R distances between two tokens.
"""

from __future__ import annotations

import math
from functools import cache, cached_property
from itertools import groupby
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prott5nv.errors import ProtT5nvError
from prott5nv.model.attention import Packing

# Off the CPU, the bias of this many attention scores is held in memory at once.
_MAX_BIAS = 1 << 28


class PositionBias(nn.Embedding):
    """Table of the bias that is added to an attention score, by bucket of distances and head.

    Parameters
    ----------
    num_buckets : int
        Number of rows. Nearby distances have a row each, and larger ones share rows.
    num_heads : int
        Number of columns.
    max_distance : int
        All larger distances share one row.
    """

    def __init__(self, num_buckets: int, num_heads: int, max_distance: int) -> None:
        super().__init__(num_buckets, num_heads)
        self.max_distance = max_distance

    def by_distance(self, length: int) -> Tensor:
        """Return the bias at the distances ``1 - length`` to ``length - 1`` of a key behind its query.

        Parameters
        ----------
        length : int
            Number of tokens of the longest protein, L.

        Returns
        -------
        Tensor, shape=(H, 2 * L - 1)
        """
        buckets_R = distance_buckets(torch.arange(1 - length, length), self.num_embeddings, self.max_distance)
        return self(buckets_R.to(self.weight.device)).T.contiguous()


def distance_buckets(distances_R: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Return the row of the bias table for distances between two tokens.

    Half of the rows are for keys behind the query, and half for the others. In each half, one half of the rows are for
    one distance each; in the other, the logarithm of the distance determines the row.

    Parameters
    ----------
    distances_R : Tensor, shape=(R,), dtype=int64
        Position of the key minus that of the query.
    num_buckets : int
        Number of rows of the table.
    max_distance : int
        Larger distances share the last row.

    Returns
    -------
    Tensor, shape=(R,), dtype=int64

    Examples
    --------
    >>> distance_buckets(torch.tensor([-1000, -8, -1, 0, 1, 7, 8, 1000]), 32, 128).tolist()
    [15, 8, 1, 0, 17, 23, 24, 31]
    """
    half = num_buckets // 2
    exact = half // 2
    far_R = distances_R.abs()
    # These are the float32 operations of transformers. Others would round differently at the limits of a bucket.
    logarithm_R = torch.log(far_R.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    shared_R = (exact + (logarithm_R * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(far_R < exact, far_R, shared_R) + half * (distances_R > 0)


class Attention:
    """Attention within each protein of a packed batch, created once for a batch and used by every layer.

    Parameters
    ----------
    position_bias : PositionBias
        The bias that all layers share.
    packing : Packing
        Boundaries of the proteins.
    """

    def __init__(self, position_bias: PositionBias, packing: Packing) -> None:
        self.packing = packing
        self.bias_HR = position_bias.by_distance(max(1, packing.max_length))

    def __call__(self, q_SHC: Tensor, k_SHC: Tensor, v_SHC: Tensor, dropout: float) -> Tensor:
        """Attend from each token to the tokens of its protein: Tensor, shape=(S, H, C)."""
        raise NotImplementedError


class AttentionByLength(Attention):
    """One call of PyTorch's attention for each run of consecutive proteins of equal length.

    This needs neither a mask nor padding, and works on every device and in every precision.
    """

    @cached_property
    def bias_is_a_view(self) -> bool:
        """Whether PyTorch's attention takes a bias that overlaps itself in memory, as it does on CPUs."""
        return self.bias_HR.device.type == "cpu"

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """Number of proteins, and number of tokens of each, of every run."""
        return [(len(list(run)), length) for length, run in groupby(self.packing.lengths)]

    def __call__(self, q_SHC: Tensor, k_SHC: Tensor, v_SHC: Tensor, dropout: float) -> Tensor:
        """Attend from each token to the tokens of its protein: Tensor, shape=(S, H, C)."""
        tokens = [count * length for count, length in self.runs]
        out = []
        for (count, length), q, k, v in zip(
            self.runs, q_SHC.split(tokens), k_SHC.split(tokens), v_SHC.split(tokens), strict=True
        ):
            q_NHLC, k_NHLC, v_NHLC = (x.unflatten(0, (count, length)).transpose(1, 2) for x in (q, k, v))
            out_NHLC = self._attend(q_NHLC, k_NHLC, v_NHLC, length, dropout)
            out.append(out_NHLC.transpose(1, 2).flatten(0, 1))
        return torch.cat(out) if out else q_SHC

    def _attend(self, q_NHLC: Tensor, k_NHLC: Tensor, v_NHLC: Tensor, length: int, dropout: float) -> Tensor:
        """Attend within proteins of one length."""
        # Entry (i, j) of the bias depends on j - i only. With the keys in reverse order it depends on i + j, so that
        # the matrix of a head is a view of a vector, and takes no memory however long the protein is.
        middle = self.bias_HR.shape[1] // 2
        reversed_HR = self.bias_HR[:, middle - length + 1 : middle + length].flip(1)
        bias_HLL = reversed_HR.unfold(1, length, 1)
        k_NHLC, v_NHLC = k_NHLC.flip(2), v_NHLC.flip(2)
        if self.bias_is_a_view:
            return _biased_attention(q_NHLC, k_NHLC, v_NHLC, bias_HLL, dropout)
        # Blocks of queries limit the size of the bias in memory.
        block = max(1, _MAX_BIAS // (len(bias_HLL) * length))
        parts = zip(q_NHLC.split(block, dim=2), bias_HLL.split(block, dim=1), strict=True)
        out = [_biased_attention(q, k_NHLC, v_NHLC, bias.contiguous(), dropout) for q, bias in parts]
        return torch.cat(out, dim=2)


def _biased_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, bias[None], dropout_p=dropout, scale=1.0)


class FlexAttention(Attention):
    """One call of PyTorch's FlexAttention for all proteins. It has no dropout, and has not run on a GPU yet."""

    def __init__(self, position_bias: PositionBias, packing: Packing) -> None:
        super().__init__(position_bias, packing)
        from torch.nn.attention.flex_attention import create_block_mask

        lengths = packing.cu_seqlens.diff().long()
        protein_S = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        bias_HR = self.bias_HR
        last = bias_HR.shape[1] - 1

        # PyTorch inspects the signatures of these functions, and accepts no methods.
        def same_protein(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return protein_S[query] == protein_S[key]

        def add_bias(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            # Tokens of different proteins can be farther apart than the table is wide. Their scores are masked.
            return score + bias_HR[head, (key - query + last // 2).clamp(0, last)]

        tokens = len(protein_S)
        self._add_bias = add_bias
        self._mask = create_block_mask(same_protein, None, None, tokens, tokens, device=str(lengths.device))

    def __call__(self, q_SHC: Tensor, k_SHC: Tensor, v_SHC: Tensor, dropout: float) -> Tensor:
        """Attend from each token to the tokens of its protein: Tensor, shape=(S, H, C)."""
        if dropout:
            raise ProtT5nvError("FlexAttention has no dropout: set flex_attention to False for training")
        query, key, value = (x.transpose(0, 1)[None] for x in (q_SHC, k_SHC, v_SHC))
        attended = _compiled_flex()(query, key, value, score_mod=self._add_bias, block_mask=self._mask, scale=1.0)
        return cast(Tensor, attended)[0].transpose(0, 1)


@cache
def _compiled_flex() -> Any:
    """Return PyTorch's FlexAttention, compiled for batches of changing size."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
