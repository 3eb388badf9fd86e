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

from prott5nv.model.config import ModelConfig
from prott5nv.model.tokenizer import FIRST_SENTINEL

EMBEDDING_STD = 2.0  # layers add to the embedding in steps of the learning rate; a small one is soon lost among them
NEIGHBOUR_SCORE = 20.0  # of the wanted neighbour before softmax, where others have about 0
SENTINEL_SCORE = 60.0  # more, since by the last layer the sentinel is a part of what its place holds


def mimetic(state_dict: dict[str, Tensor], config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Freshly drawn weights, changed so that attention starts with places to look at.

    The hidden size is shared out: the first columns say where a row stands, the next which sentinel it is, the rest
    what it is, which is the same for all sentinels. Layers write, and feed-forward parts read, only the rest.
    Positions are sinusoids, which a rotation shifts, so in encoder layers pairs of heads can look one, two, three ...
    residues to the left and right and fetch what stands there: all heads of the first layer, two thirds of every other.
    In the decoder, attention to the encoder looks from a sentinel to the same sentinel and hands over its row. All of
    this is a starting point and is trained like any other weight.

    Parameters
    ----------
    state_dict : dict of Tensor
        By :class:`prott5nv.ProtT5`'s names; left as it is.
    config : ModelConfig
        With three attention heads or more, so that the three shares have a head's width at least.
    seed : int
        Of the frequencies and of what heads fetch.

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
    place = 2 * len(frequencies_N)
    addressed = place + channels
    where, which, what = slice(place), slice(place, addressed), slice(addressed, width)

    words_VD, positions_PD = (weights[f"embedding.{table}_embeddings.weight"] for table in ("word", "position"))
    words_VD.mul_(EMBEDDING_STD / config.init_method_std)[:, where] = 0
    words_VD[:FIRST_SENTINEL, which] = 0
    words_VD[FIRST_SENTINEL:, what] = words_VD[FIRST_SENTINEL, what].clone()
    angles_PN = torch.arange(len(positions_PD))[:, None] * frequencies_N
    pairs_PN2 = torch.stack([angles_PN.cos(), angles_PN.sin()], dim=-1)
    positions_PD.zero_()[:, where] = EMBEDDING_STD * math.sqrt(2) * pairs_PN2.flatten(1)
    # The word table is also the head, whose scores should not grow with it.
    weights["decoder.final_layernorm.weight"].fill_(config.init_method_std / EMBEDDING_STD)

    for name, weight in weights.items():
        if name.endswith(("self_attention.dense.weight", "mlp.dense_4h_to_h.weight")):
            weight[:addressed] = 0
        elif name.endswith("mlp.dense_h_to_4h.weight"):
            weight[:, :addressed] = 0

    distance = 0
    for layer in range(config.num_layers):
        prefix = f"encoder.layers.{layer}.self_attention"
        query_HCD, key_HCD, value_HCD = (
            weights[f"{prefix}.query_key_value.weight"].view(heads, 3, channels, width).unbind(1)
        )
        for value_CD in value_HCD:
            value_CD.zero_()[:, what] = _directions(channels, width - addressed, generator)
        weights[f"{prefix}.dense.weight"][what] = EMBEDDING_STD * _directions(width - addressed, width, generator)
        for pair in range((heads if layer == 0 else heads - heads // 3) // 2):
            distance += 1
            for head, offset in ((2 * pair, -distance), (2 * pair + 1, distance)):
                _look_at(query_HCD[head], key_HCD[head], offset, frequencies_N)

    for layer in range(config.layers_per_stack["decoder"]):
        prefix = f"decoder.layers.{layer}.inter_attention"
        query_HCD = weights[f"{prefix}.query.weight"].view(heads, channels, width)
        key_HCD, value_HCD = weights[f"{prefix}.key_value.weight"].view(heads, 2, channels, width).unbind(1)
        for matrix_HCD in (query_HCD, key_HCD):
            matrix_HCD.zero_()[:, :, which] = _strength(SENTINEL_SCORE, channels, channels) * torch.eye(channels)
        value_HCD.copy_(torch.eye(width).view(heads, channels, width))
        weights[f"{prefix}.dense.weight"].copy_(EMBEDDING_STD * torch.eye(width))
    return weights


def _directions(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Orthonormal rows, at most as many as columns."""
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0].T


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
