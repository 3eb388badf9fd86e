"""The decoder, a few tokens at a time: keys and values of what it has read are kept, not computed again.

Shapes: P proteins, T packed tokens of them, R readings, N new tokens of a reading, M tokens read so far; D hidden size,
H heads, C channels of a head, A amino acids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from prott5nv.decoding.masking import AMINO_ACID_TOKENS
from prott5nv.model.attention import Packing, packed_attention
from prott5nv.model.prott5 import CrossAttention, ProtT5, SelfAttention


class CachedDecoder:
    """Readings of the decoder over the hidden states of some proteins.

    A protein can have several readings: their keys and values from the encoder are the same and exist once.

    Parameters
    ----------
    model : ProtT5
    hidden_TD : Tensor, shape=(T, D)
        What :meth:`ProtT5.encode` returned for P proteins.
    cu_seqlens_P1 : Tensor, shape=(P + 1,), dtype=int32
        Where each protein starts in `hidden_TD`, and the end.
    readings_P : sequence of int
        Readings of each protein, at least one; those of a protein stand together in what :meth:`read` takes.

    Examples
    --------
    >>> from prott5nv import ModelConfig
    >>> model = ProtT5(ModelConfig.preset("tiny")).eval()
    >>> cu_seqlens_P1 = torch.tensor([0, 5], dtype=torch.int32)
    >>> decoder = CachedDecoder(model, torch.zeros(5, 64), cu_seqlens_P1, [1])
    >>> decoder.read(torch.tensor([[1, 32]])).shape, decoder.read(torch.tensor([[16, 33]])).shape
    (torch.Size([1, 2, 64]), torch.Size([1, 2, 64]))
    """

    def __init__(self, model: ProtT5, hidden_TD: Tensor, cu_seqlens_P1: Tensor, readings_P: Sequence[int]):
        self.model = model
        self.readings_P = list(readings_P)
        self._proteins = Packing(cu_seqlens_P1)
        self._keys_values_of_proteins = [
            _by_head(layer.inter_attention, layer.inter_attention.key_value(hidden_TD)).chunk(2, dim=-1)
            for layer in model.decoder.layers
        ]
        heads = model.config.num_attention_heads
        nothing = hidden_TD.new_zeros(sum(self.readings_P), heads, 0, model.config.hidden_size // heads)
        self._keys_values = [(nothing, nothing) for _ in model.decoder.layers]

    def read(self, tokens_RN: Tensor) -> Tensor:
        """Go on with every reading.

        Parameters
        ----------
        tokens_RN : Tensor, shape=(R, N), dtype=int64

        Returns
        -------
        Tensor, shape=(R, N, D)
            Hidden states of the last layer, after its final LayerNorm, for the new tokens.
        """
        shape = tokens_RN.shape
        read = self._keys_values[0][0].shape[2]
        positions_N = torch.arange(read, read + shape[1], device=tokens_RN.device)
        ends_P = torch.tensor([0, *self.readings_P]).cumsum(0) * shape[1]
        queries = Packing(ends_P.to(tokens_RN.device, torch.int32))
        x_TD = self.model.embedding(tokens_RN.flatten(), positions_N.repeat(shape[0]))
        for number, layer in enumerate(self.model.decoder.layers):
            x_TD = x_TD + self._attend_to_read(number, layer.self_attention, layer.input_layernorm(x_TD), shape)
            normed_TD = layer.post_attention_layernorm(x_TD)
            x_TD = x_TD + self._attend_to_protein(number, layer.inter_attention, normed_TD, queries)
            x_TD = x_TD + layer.mlp(layer.post_inter_attention_layernorm(x_TD))
        return self.model.decoder.final_layernorm(x_TD).unflatten(0, shape)

    def select(self, readings_R: Tensor) -> None:
        """Keep these readings of the one protein, in this order; one that is named twice is gone on with twice."""
        assert len(self.readings_P) == 1
        self.readings_P = [len(readings_R)]
        self._keys_values = [(keys[readings_R], values[readings_R]) for keys, values in self._keys_values]

    def _attend_to_read(self, number: int, attention: SelfAttention, x_TD: Tensor, shape: torch.Size) -> Tensor:
        new = _by_head(attention, attention.query_key_value(x_TD)).unflatten(0, shape).transpose(1, 2)
        query_RHNC, *new_keys_values = new.chunk(3, dim=-1)
        keys_RHMC, values_RHMC = (
            torch.cat(pair, dim=2) for pair in zip(self._keys_values[number], new_keys_values, strict=True)
        )
        self._keys_values[number] = keys_RHMC, values_RHMC
        new_tokens, read = query_RHNC.shape[2], keys_RHMC.shape[2]
        visible_NM = torch.ones(new_tokens, read, dtype=torch.bool, device=x_TD.device).tril(read - new_tokens)
        attended_RHNC = F.scaled_dot_product_attention(query_RHNC, keys_RHMC, values_RHMC, attn_mask=visible_NM)
        return attention.dense(attended_RHNC.transpose(1, 2).flatten(0, 1).flatten(1))

    def _attend_to_protein(self, number: int, attention: CrossAttention, x_TD: Tensor, queries: Packing) -> Tensor:
        query_THC = _by_head(attention, attention.query(x_TD))
        keys_THC, values_THC = self._keys_values_of_proteins[number]
        attended_THC = packed_attention(query_THC, keys_THC, values_THC, queries, self._proteins)
        return attention.dense(attended_THC.flatten(1))


def amino_acid_log_probabilities(model: ProtT5, hidden_ND: Tensor) -> Tensor:
    """What the next token is, if it is one of the 20 amino acids, in fp32 whatever the model's precision.

    Parameters
    ----------
    model : ProtT5
    hidden_ND : Tensor, shape=(..., D)
        Of the decoder.

    Returns
    -------
    Tensor, shape=(..., A), dtype=float32
        Natural logarithms, in the order of `AMINO_ACIDS`; their exponentials add up to 1.
    """
    tokens_A = torch.from_numpy(AMINO_ACID_TOKENS).to(hidden_ND.device)
    weight_AD = model.embedding.word_embeddings.weight[tokens_A].float()
    return F.linear(hidden_ND.float(), weight_AD, model.tokens_head.bias[tokens_A].float()).log_softmax(-1)


def _by_head(attention: SelfAttention | CrossAttention, x_TD: Tensor) -> Tensor:
    return x_TD.unflatten(-1, (attention.num_heads, -1))
