"""Incremental decoding: the decoder processes a few tokens at a time and caches attention keys and values.

Shapes: P proteins, T packed encoder tokens, R hypotheses, N new tokens of a hypothesis, M tokens in its cache
(new ones included), D hidden size, H heads, C channels of a head, A amino acids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from prott5nv.decoding.masking import AMINO_ACID_TOKENS
from prott5nv.model.attention import Packing, packed_attention
from prott5nv.model.prott5 import CrossAttention, Layer, ProtT5, SelfAttention


class CachedDecoder:
    """Decode hypotheses token by token, given the encoder's hidden states of some proteins.

    A hypothesis is one sequence of decoder tokens. A protein can have several; they share the keys and values of the
    cross-attention, which exist once per protein.

    Parameters
    ----------
    model : ProtT5
        The model, in evaluation mode.
    hidden_TD : Tensor, shape=(T, D)
        Hidden states of P proteins from :meth:`ProtT5.encode`.
    cu_seqlens_P1 : Tensor, shape=(P + 1,), dtype=int32
        Start of each protein in `hidden_TD`, and the end of the last.
    hypotheses_P : sequence of int
        Number of hypotheses of each protein, at least 1. All R hypotheses are ordered by protein.

    Examples
    --------
    >>> from prott5nv import ModelConfig
    >>> model = ProtT5(ModelConfig.preset("tiny")).eval()
    >>> cu_seqlens_P1 = torch.tensor([0, 5], dtype=torch.int32)
    >>> decoder = CachedDecoder(model, torch.zeros(5, 64), cu_seqlens_P1, [1])
    >>> decoder.append(torch.tensor([[1, 32]])).shape, decoder.append(torch.tensor([[16, 33]])).shape
    (torch.Size([1, 2, 64]), torch.Size([1, 2, 64]))
    """

    def __init__(self, model: ProtT5, hidden_TD: Tensor, cu_seqlens_P1: Tensor, hypotheses_P: Sequence[int]) -> None:
        self.model = model
        self.hypotheses_P = list(hypotheses_P)
        self._layers = [cast(Layer, layer) for layer in model.decoder.layers]
        self._proteins = Packing(cu_seqlens_P1)
        self._cross_keys_values = [
            _by_head(layer.inter_attention, layer.inter_attention.key_value(hidden_TD)).chunk(2, dim=-1)
            for layer in self._layers
        ]
        heads = model.config.num_attention_heads
        empty_RHMC = hidden_TD.new_zeros(sum(self.hypotheses_P), heads, 0, model.config.hidden_size // heads)
        self._keys_values = [(empty_RHMC, empty_RHMC) for _ in self._layers]

    def append(self, tokens_RN: Tensor) -> Tensor:
        """Append tokens to every hypothesis and decode them.

        Parameters
        ----------
        tokens_RN : Tensor, shape=(R, N), dtype=int64
            New tokens of each hypothesis.

        Returns
        -------
        Tensor, shape=(R, N, D)
            Hidden states of the new tokens from the last layer, after its final LayerNorm.
        """
        shape = tokens_RN.shape
        cached = self._keys_values[0][0].shape[2]
        positions_N = torch.arange(cached, cached + shape[1], device=tokens_RN.device)
        ends_P = torch.tensor([0, *self.hypotheses_P]).cumsum(0) * shape[1]
        queries = Packing(ends_P.to(tokens_RN.device, torch.int32))
        x_TD = self.model.embedding(tokens_RN.flatten(), positions_N.repeat(shape[0]))
        for number, layer in enumerate(self._layers):
            x_TD = x_TD + self._self_attention(number, layer.self_attention, layer.input_layernorm(x_TD), shape)
            normed_TD = layer.post_attention_layernorm(x_TD)
            x_TD = x_TD + self._cross_attention(number, layer.inter_attention, normed_TD, queries)
            x_TD = x_TD + layer.mlp(layer.post_inter_attention_layernorm(x_TD))
        return self.model.decoder.final_layernorm(x_TD).unflatten(0, shape)

    def select(self, hypotheses_R: Tensor) -> None:
        """Keep some hypotheses of a single protein.

        Parameters
        ----------
        hypotheses_R : Tensor, shape=(R,), dtype=int64
            Indices of the hypotheses to keep, in their new order. An index that occurs twice copies the hypothesis.
        """
        assert len(self.hypotheses_P) == 1
        self.hypotheses_P = [len(hypotheses_R)]
        self._keys_values = [(keys[hypotheses_R], values[hypotheses_R]) for keys, values in self._keys_values]

    def _self_attention(self, number: int, attention: SelfAttention, x_TD: Tensor, shape: torch.Size) -> Tensor:
        """Attend to all tokens of the same hypothesis up to each new one, and extend the cache of layer `number`."""
        new = _by_head(attention, attention.query_key_value(x_TD)).unflatten(0, shape).transpose(1, 2)
        query_RHNC, *new_keys_values = new.chunk(3, dim=-1)
        keys_RHMC, values_RHMC = (
            torch.cat(pair, dim=2) for pair in zip(self._keys_values[number], new_keys_values, strict=True)
        )
        self._keys_values[number] = keys_RHMC, values_RHMC
        new_tokens, all_tokens = query_RHNC.shape[2], keys_RHMC.shape[2]
        visible_NM = torch.ones(new_tokens, all_tokens, dtype=torch.bool, device=x_TD.device)
        visible_NM = visible_NM.tril(all_tokens - new_tokens)
        attended_RHNC = F.scaled_dot_product_attention(query_RHNC, keys_RHMC, values_RHMC, attn_mask=visible_NM)
        return attention.dense(attended_RHNC.transpose(1, 2).flatten(0, 1).flatten(1))

    def _cross_attention(self, number: int, attention: CrossAttention, x_TD: Tensor, queries: Packing) -> Tensor:
        """Attend to the encoder's hidden states of the protein that each hypothesis belongs to."""
        query_THC = _by_head(attention, attention.query(x_TD))
        keys_THC, values_THC = self._cross_keys_values[number]
        attended_THC = packed_attention(query_THC, keys_THC, values_THC, queries, self._proteins)
        return attention.dense(attended_THC.flatten(1))


def amino_acid_log_probabilities(model: ProtT5, hidden_ND: Tensor) -> Tensor:
    """Compute log-probabilities of the next token, restricted to the 20 amino acids.

    The computation is in fp32 for every precision of the model.

    Parameters
    ----------
    model : ProtT5
        The model whose output head is used.
    hidden_ND : Tensor, shape=(..., D)
        Hidden states of the decoder.

    Returns
    -------
    Tensor, shape=(..., A), dtype=float32
        Natural logarithms, in the order of `AMINO_ACIDS`. Their exponentials add up to 1.
    """
    tokens_A = torch.from_numpy(AMINO_ACID_TOKENS).to(hidden_ND.device)
    weight_AD = model.embedding.word_embeddings.weight[tokens_A].float()
    return F.linear(hidden_ND.float(), weight_AD, model.tokens_head.bias[tokens_A].float()).log_softmax(-1)


def _by_head(attention: SelfAttention | CrossAttention, x_TD: Tensor) -> Tensor:
    return x_TD.unflatten(-1, (attention.num_heads, -1))
