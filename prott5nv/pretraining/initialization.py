"""A start in which attention already knows where to look, for models too small or too briefly trained to find out.

Attention with learned absolute positions has to discover from nothing that residues have neighbours, and the decoder
that the sentinel it answers is the one in the protein. Until both are found, all that can be learnt is how often
residues occur. Neither is a change of the architecture: both are weights, so they can be written down.

Shapes: P positions, V vocabulary, D hidden size, H heads, C channels of a head, N frequencies (half of C).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prott5nv.config import ModelConfig

EMBEDDING_STD = 2.0  # layers add to the embedding in steps of the learning rate; a small one is soon lost among them
NEIGHBOUR_SCORE = 20.0  # of the wanted neighbour before softmax, where others have about 0
SENTINEL_SCORE = 60.0  # more, since by the last layer the sentinel is a part of what its place holds


def mimetic(state_dict: dict[str, Tensor], config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Freshly drawn weights, changed so that attention starts with places to look at.

    Positions become sinusoids, which a rotation shifts. In encoder layers pairs of heads look one, two, three ...
    residues to the left and right, all heads of the first layer and two thirds of every other. In the decoder,
    attention to the encoder looks from a sentinel to the same sentinel and hands over what stands there. All of this
    is a starting point and is trained like any other weight.

    Parameters
    ----------
    state_dict : dict of Tensor
        By :class:`prott5nv.ProtT5`'s names; left as it is.
    config : ModelConfig
    seed : int
        Of the directions in which sentinels are compared.

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
    heads, width = config.num_attention_heads, config.hidden_size
    channels = width // heads
    frequencies_N = math.pi * (torch.arange(channels // 2) + torch.rand(channels // 2, generator=generator))
    frequencies_N /= channels // 2
    positional = 2 * len(frequencies_N)  # columns that hold the position, and nothing of the word

    words_VD, positions_PD = (weights[f"embedding.{table}_embeddings.weight"] for table in ("word", "position"))
    words_VD.mul_(EMBEDDING_STD / config.init_method_std)[:, :positional] = 0
    angles_PN = torch.arange(len(positions_PD))[:, None] * frequencies_N
    pairs_PN2 = torch.stack([angles_PN.cos(), angles_PN.sin()], dim=-1)
    positions_PD.zero_()[:, :positional] = EMBEDDING_STD * math.sqrt(2) * pairs_PN2.flatten(1)
    # The word table is also the head, whose scores should not grow with it.
    weights["decoder.final_layernorm.weight"].fill_(config.init_method_std / EMBEDDING_STD)

    distance = 0
    for layer in range(config.num_layers):
        fused = weights[f"encoder.layers.{layer}.self_attention.query_key_value.weight"]
        query_HCD, key_HCD, _ = fused.view(heads, 3, channels, width).unbind(1)
        for pair in range((heads if layer == 0 else heads - heads // 3) // 2):
            distance += 1
            for head, offset in ((2 * pair, -distance), (2 * pair + 1, distance)):
                _look_at(query_HCD[head], key_HCD[head], offset, frequencies_N)

    for layer in range(config.decoder_num_layers):
        prefix = f"decoder.layers.{layer}.inter_attention"
        query_HCD = weights[f"{prefix}.query.weight"].view(heads, channels, width)
        key_HCD, value_HCD = weights[f"{prefix}.key_value.weight"].view(heads, 2, channels, width).unbind(1)
        directions = torch.linalg.qr(torch.randn(width - positional, channels, generator=generator))[0].T
        directions *= _strength(SENTINEL_SCORE, channels, channels)
        for matrix_HCD in (query_HCD, key_HCD):
            matrix_HCD.zero_()[:, :, positional:] = directions
        value_HCD.copy_(torch.eye(width).view(heads, channels, width))
        weights[f"{prefix}.dense.weight"].copy_(EMBEDDING_STD * torch.eye(width))
    return weights


def _look_at(query_CD: Tensor, key_CD: Tensor, offset: int, frequencies_N: Tensor) -> None:
    """Make a query at position i equal the key at position i + offset."""
    channels = 2 * len(frequencies_N)
    strength = _strength(NEIGHBOUR_SCORE, len(query_CD), channels)
    cos_N, sin_N = (frequencies_N * offset).cos(), (frequencies_N * offset).sin()
    even, odd = torch.arange(0, channels, 2), torch.arange(1, channels, 2)
    query_CD.zero_()
    query_CD[even, even], query_CD[even, odd] = strength * cos_N, -strength * sin_N
    query_CD[odd, even], query_CD[odd, odd] = strength * sin_N, strength * cos_N
    key_CD.zero_()[:channels, :channels] = strength * torch.eye(channels)


def _strength(score: float, channels: int, columns: int) -> float:
    """Size of a query's and a key's entries whose product over unit columns is this score."""
    return math.sqrt(score * math.sqrt(channels) / columns)
