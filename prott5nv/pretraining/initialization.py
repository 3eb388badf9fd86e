"""Initial weights with which attention already looks at the right positions.

With random weights, attention over learned absolute positions has to find out that residues have neighbours, and the
decoder has to find out that the sentinel in its input is the one in the protein. Until both are found, a model can only
learn the frequencies of the residues. A small model, or a short training, may not get beyond that. This module writes
both relations into the weights. The architecture does not change, and all weights are trained as usual.

Shapes: P positions, V vocabulary, D hidden size, H heads, C channels of a head, N frequencies (half of C).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from prott5nv.model.config import ModelConfig
from prott5nv.model.tokenizer import FIRST_SENTINEL

# Each layer adds to the embedding in steps of the learning rate, so a small embedding would soon be negligible.
EMBEDDING_STD = 2.0
# Attention score of the wanted neighbour before the softmax, where other positions have about 0.
NEIGHBOUR_SCORE = 20.0
# Attention score of the same sentinel. It is higher, because after the last encoder layer the sentinel is only a part
# of the hidden state at its position.
SENTINEL_SCORE = 60.0


def mimetic(state_dict: dict[str, Tensor], config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Change random initial weights so that attention looks at neighbours and at the matching sentinel.

    The columns of the hidden size are divided into three groups. The first group encodes the position, the second one
    the sentinel, and the third one the residue; in this group all sentinels have the same values. Layers write only to
    the third group, and feed-forward networks read only from it.

    Positions are sinusoids. A rotation shifts them, so in the encoder pairs of heads attend one, two, three ...
    residues to the left and to the right and copy what is there. All heads of the first layer and two thirds of those
    of every other layer do so. In the decoder, attention to the encoder goes from a sentinel to the same sentinel and
    copies its hidden state.

    Parameters
    ----------
    state_dict : dict of Tensor
        By the names of :class:`prott5nv.ProtT5`. It is not changed.
    config : ModelConfig
        With at least three attention heads, so that each group of columns is at least as wide as a head.
    seed : int
        Seed of the random frequencies and of the random projections that the heads copy.

    Returns
    -------
    dict of Tensor

    References
    ----------
    Trockman and Kolter (2023), Mimetic initialization of self-attention layers.

    Examples
    --------
    >>> from prott5nv import ProtT5
    >>> config = ModelConfig.preset("tiny")
    >>> weights = mimetic(ProtT5(config).state_dict(), config, seed=1)
    >>> weights["embedding.position_embeddings.weight"].abs().max() > 2
    tensor(True)
    """
    weights = {name: weight.detach().clone() for name, weight in state_dict.items()}
    generator = torch.Generator().manual_seed(seed)
    channels = config.hidden_size // config.num_attention_heads
    frequencies_N = math.pi * (torch.arange(channels // 2) + torch.rand(channels // 2, generator=generator))
    frequencies_N /= channels // 2
    columns = _Columns.of(config)
    _write_embeddings(weights, config, columns, frequencies_N)
    for name, weight in weights.items():
        if name.endswith(("self_attention.dense.weight", "mlp.dense_4h_to_h.weight")):
            weight[: columns.residue.start] = 0
        elif name.endswith("mlp.dense_h_to_4h.weight"):
            weight[:, : columns.residue.start] = 0
    _write_encoder_attention(weights, config, columns, frequencies_N, generator)
    _write_decoder_attention(weights, config, columns)
    return weights


class _Columns(NamedTuple):
    """The three groups of columns of the hidden size."""

    position: slice
    sentinel: slice
    residue: slice

    @classmethod
    def of(cls, config: ModelConfig) -> _Columns:
        channels = config.hidden_size // config.num_attention_heads
        first_of_sentinel = channels // 2 * 2  # two columns, cosine and sine, for each frequency
        first_of_residue = first_of_sentinel + channels
        return cls(
            slice(0, first_of_sentinel),
            slice(first_of_sentinel, first_of_residue),
            slice(first_of_residue, config.hidden_size),
        )


def _write_embeddings(
    weights: dict[str, Tensor], config: ModelConfig, columns: _Columns, frequencies_N: Tensor
) -> None:
    words_VD, positions_PD = (weights[f"embedding.{table}_embeddings.weight"] for table in ("word", "position"))
    words_VD.mul_(EMBEDDING_STD / config.init_method_std)[:, columns.position] = 0
    words_VD[:FIRST_SENTINEL, columns.sentinel] = 0
    words_VD[FIRST_SENTINEL:, columns.residue] = words_VD[FIRST_SENTINEL, columns.residue].clone()
    angles_PN = torch.arange(len(positions_PD))[:, None] * frequencies_N
    pairs_PN2 = torch.stack([angles_PN.cos(), angles_PN.sin()], dim=-1)
    positions_PD.zero_()[:, columns.position] = EMBEDDING_STD * math.sqrt(2) * pairs_PN2.flatten(1)
    # The word table is also the weight of the head. Attention copies embeddings into the last hidden state, so the
    # logits of the copied tokens are sums over all columns. They must be small at any width, because the loss would
    # otherwise start far above that of equal probabilities.
    weights["decoder.final_layernorm.weight"].fill_(1 / config.hidden_size)


def _write_encoder_attention(
    weights: dict[str, Tensor],
    config: ModelConfig,
    columns: _Columns,
    frequencies_N: Tensor,
    generator: torch.Generator,
) -> None:
    heads, width = config.num_attention_heads, config.hidden_size
    channels, residue_width = width // heads, width - columns.residue.start
    distance = 0
    for layer in range(config.num_layers):
        prefix = f"encoder.layers.{layer}.self_attention"
        query_HCD, key_HCD, value_HCD = (
            weights[f"{prefix}.query_key_value.weight"].view(heads, 3, channels, width).unbind(1)
        )
        for value_CD in value_HCD:
            value_CD.zero_()[:, columns.residue] = _directions(channels, residue_width, generator)
        output_DD = weights[f"{prefix}.dense.weight"]
        output_DD[columns.residue] = EMBEDDING_STD * _directions(residue_width, width, generator)
        for pair in range((heads if layer == 0 else heads - heads // 3) // 2):
            distance += 1
            for head, offset in ((2 * pair, -distance), (2 * pair + 1, distance)):
                _look_at(query_HCD[head], key_HCD[head], offset, frequencies_N)


def _write_decoder_attention(weights: dict[str, Tensor], config: ModelConfig, columns: _Columns) -> None:
    heads, width = config.num_attention_heads, config.hidden_size
    channels = width // heads
    identity_CC = _strength(SENTINEL_SCORE, channels, channels) * torch.eye(channels)
    for layer in range(config.layers_per_stack["decoder"]):
        prefix = f"decoder.layers.{layer}.inter_attention"
        query_HCD = weights[f"{prefix}.query.weight"].view(heads, channels, width)
        key_HCD, value_HCD = weights[f"{prefix}.key_value.weight"].view(heads, 2, channels, width).unbind(1)
        for matrix_HCD in (query_HCD, key_HCD):
            matrix_HCD.zero_()[:, :, columns.sentinel] = identity_CC
        value_HCD.copy_(torch.eye(width).view(heads, channels, width))
        weights[f"{prefix}.dense.weight"].copy_(EMBEDDING_STD * torch.eye(width))


def _directions(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Draw random orthonormal rows; `rows` must not exceed `columns`."""
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0].T


def _look_at(query_CD: Tensor, key_CD: Tensor, offset: int, frequencies_N: Tensor) -> None:
    """Set weights with which the query at position i equals the key at position i + offset."""
    channels = 2 * len(frequencies_N)
    strength = _strength(NEIGHBOUR_SCORE, len(query_CD), channels)
    cos_N, sin_N = (frequencies_N * offset).cos(), (frequencies_N * offset).sin()
    even, odd = torch.arange(0, channels, 2), torch.arange(1, channels, 2)
    query_CD.zero_()
    query_CD[even, even], query_CD[even, odd] = strength * cos_N, -strength * sin_N
    query_CD[odd, even], query_CD[odd, odd] = strength * sin_N, strength * cos_N
    key_CD.zero_()[:channels, :channels] = strength * torch.eye(channels)


def _strength(score: float, channels: int, columns: int) -> float:
    """Return the size of the entries of a query and a key with which their score over unit columns is `score`."""
    return math.sqrt(score * math.sqrt(channels) / columns)
