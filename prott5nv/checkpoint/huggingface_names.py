"""Configurations and parameter names of the two transformers architectures that ProtT5nv converts to.

``BlenderbotForConditionalGeneration`` has the same architecture as ProtT5nv: pre-LN, learned positions, a final
LayerNorm in both stacks, biases everywhere, and a head that uses the word table. ``XLMRobertaXLModel`` has the same
architecture as ProtT5nv's encoder. In both, the parameters have other names, and queries, keys and values have separate
projections where ProtT5nv has a fused one. XLM-RoBERTa-XL also has a longer position table and two modules that
ProtT5nv does not have. The conversion reorders rows of the weights and does not change their values.

Shapes: D hidden size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prott5nv.checkpoint.parameter_names import parameter_shapes
from prott5nv.model.config import ModelConfig
from prott5nv.model.tokenizer import BOS, EOS, PAD

if TYPE_CHECKING:
    import torch

BLENDERBOT = "blenderbot"
XLM_ROBERTA_XL = "xlm-roberta-xl"
# Blenderbot has no setting for the constant in its LayerNorms.
BLENDERBOT_EPSILON = 1e-5

WORDS = "embedding.word_embeddings.weight"
POSITIONS = "embedding.position_embeddings.weight"
HEAD_BIAS = "tokens_head.bias"

# Each module of a ProtT5 layer, and the modules of a Blenderbot layer with its rows. If there are several, ProtT5
# interleaves their rows by head.
_SELF_ATTENTION = {
    "input_layernorm": ("self_attn_layer_norm",),
    "self_attention.query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention.dense": ("self_attn.out_proj",),
}
_FEED_FORWARD = {"mlp.dense_h_to_4h": ("fc1",), "mlp.dense_4h_to_h": ("fc2",)}
_BLENDERBOT_LAYER = {
    "encoder": {**_SELF_ATTENTION, "post_attention_layernorm": ("final_layer_norm",), **_FEED_FORWARD},
    "decoder": {
        **_SELF_ATTENTION,
        "post_attention_layernorm": ("encoder_attn_layer_norm",),
        "inter_attention.query": ("encoder_attn.q_proj",),
        "inter_attention.key_value": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
        "inter_attention.dense": ("encoder_attn.out_proj",),
        "post_inter_attention_layernorm": ("final_layer_norm",),
        **_FEED_FORWARD,
    },
}
_XLM_ROBERTA_LAYER = {
    "input_layernorm": ("attention.self_attn_layer_norm",),
    "self_attention.query_key_value": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "self_attention.dense": ("attention.output.dense",),
    "post_attention_layernorm": ("LayerNorm",),
    "mlp.dense_h_to_4h": ("intermediate.dense",),
    "mlp.dense_4h_to_h": ("output.dense",),
}
# The other parameters. Blenderbot stores the position table twice.
_BLENDERBOT_TABLES = {
    WORDS: ("model.shared.weight",),
    POSITIONS: ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"),
    HEAD_BIAS: ("final_logits_bias",),
}
_LAYER_NAME = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")
_FINAL_LAYERNORM = re.compile(r"(encoder|decoder)\.final_layernorm\.(weight|bias)")


def blenderbot_names(name: str) -> tuple[str, ...]:
    """Return the names of a ``ProtT5`` parameter in Blenderbot.

    Parameters
    ----------
    name : str
        Name of the parameter in ``ProtT5``.

    Returns
    -------
    tuple of str
        Several names for a fused projection, whose rows are distributed over them, and for the position table, which
        Blenderbot stores twice. One name for all other parameters.

    Examples
    --------
    >>> blenderbot_names("decoder.layers.0.inter_attention.key_value.bias")
    ('model.decoder.layers.0.encoder_attn.k_proj.bias', 'model.decoder.layers.0.encoder_attn.v_proj.bias')
    """
    if match := _LAYER_NAME.fullmatch(name):
        stack, layer, module, kind = match.groups()
        return tuple(f"model.{stack}.layers.{layer}.{part}.{kind}" for part in _BLENDERBOT_LAYER[stack][module])
    if match := _FINAL_LAYERNORM.fullmatch(name):
        return (f"model.{match[1]}.layer_norm.{match[2]}",)
    return _BLENDERBOT_TABLES[name]


def blenderbot_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    """Iterate over the parameters of ``ProtT5``, with their names and shapes in Blenderbot.

    This is a generator because a hostile configuration may claim a million layers.

    Parameters
    ----------
    config : ModelConfig
        Architecture of the model.

    Yields
    ------
    name : str
        Name of the parameter in ``ProtT5``.
    names : tuple of str
        Its names in Blenderbot.
    shape : tuple of int
        Shape of each of these tensors.
    """
    for name, shape in parameter_shapes(config):
        names = blenderbot_names(name)
        if name == HEAD_BIAS:
            shape = (1, *shape)
        elif name != POSITIONS:
            shape = (shape[0] // len(names), *shape[1:])
        yield name, names, shape


def to_blenderbot(state_dict: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """Convert the parameters of ``ProtT5`` to those of Blenderbot.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Parameters by their names in ``ProtT5``.
    config : ModelConfig
        Architecture of the model.

    Returns
    -------
    dict of str to Tensor
        Parameters by their names in Blenderbot, which has the position table twice.
    """
    state: dict[str, torch.Tensor] = {}
    for name, tensor in state_dict.items():
        names = blenderbot_names(name)
        if name == POSITIONS:
            parts = [tensor.clone() for _ in names]
        elif name == HEAD_BIAS:
            parts = [tensor[None]]
        else:
            parts = _separate(tensor, len(names), config)
        state.update(zip(names, parts, strict=True))
    return state


def to_xlm_roberta(state_dict: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """Convert the parameters of ``ProtT5``'s encoder to those of ``XLMRobertaXLModel``.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Parameters by their names in ``ProtT5``. Those of the decoder and of its head are left out.
    config : ModelConfig
        Architecture of the model.

    Returns
    -------
    dict of str to Tensor
        Parameters by their names in ``XLMRobertaXLModel``. XLM-RoBERTa-XL counts positions from ``PAD + 1``, so zeros
        precede the rows of the position table. The table of token types and the pooler, which ProtT5nv does not have,
        are zero.
    """
    words, positions = state_dict[WORDS], state_dict[POSITIONS]
    size = config.hidden_size
    state = {
        "embeddings.word_embeddings.weight": words,
        "embeddings.position_embeddings.weight": positions.new_zeros(len(positions) + PAD + 1, size),
        "embeddings.token_type_embeddings.weight": words.new_zeros(1, size),
        "pooler.dense.weight": words.new_zeros(size, size),
        "pooler.dense.bias": words.new_zeros(size),
    }
    state["embeddings.position_embeddings.weight"][PAD + 1 :] = positions
    for name, tensor in state_dict.items():
        if (match := _FINAL_LAYERNORM.fullmatch(name)) and match[1] == "encoder":
            state[f"encoder.LayerNorm.{match[2]}"] = tensor
        elif (match := _LAYER_NAME.fullmatch(name)) and match[1] == "encoder":
            _, layer, module, kind = match.groups()
            names = _XLM_ROBERTA_LAYER[module]
            for part, rows in zip(names, _separate(tensor, len(names), config), strict=True):
                state[f"encoder.layer.{layer}.{part}.{kind}"] = rows
    return state


def fused(parts: list[torch.Tensor], config: ModelConfig) -> torch.Tensor:
    """Interleave the rows of separate projections by head, as in ``ProtT5``.

    Parameters
    ----------
    parts : list of Tensor
        Weights or biases of the projections, such as those of queries, keys and values. A single tensor is returned
        unchanged.
    config : ModelConfig
        Architecture of the model.

    Returns
    -------
    Tensor
        Weight or bias of the fused projection.
    """
    import torch

    if len(parts) == 1:
        return parts[0]
    return torch.stack([part.unflatten(0, (config.num_attention_heads, -1)) for part in parts], dim=1).flatten(0, 2)


def _separate(tensor: torch.Tensor, count: int, config: ModelConfig) -> list[torch.Tensor]:
    """Split a fused projection into `count` separate ones, the inverse of :func:`fused`."""
    if count == 1:
        return [tensor.contiguous()]
    by_head = tensor.unflatten(0, (config.num_attention_heads, count, -1))
    return [by_head[:, i].flatten(0, 1).contiguous() for i in range(count)]


def blenderbot_config(config: ModelConfig) -> dict[str, Any]:
    """Return the content of ``config.json`` for the whole model.

    Parameters
    ----------
    config : ModelConfig
        Architecture of the model.

    Returns
    -------
    dict
        Settings by Blenderbot's names. Those of ``config`` itself are under the key ``prott5nv``.
    """
    stack = {"ffn_dim": config.ffn_hidden_size, "attention_heads": config.num_attention_heads}
    return {
        "architectures": ["BlenderbotForConditionalGeneration"],
        "model_type": BLENDERBOT,
        **_common_config(config),
        "max_position_embeddings": config.max_position_embeddings,
        "d_model": config.hidden_size,
        "encoder_layers": config.num_layers,
        "decoder_layers": config.decoder_num_layers,
        **{f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in stack.items()},
        "activation_function": _gelu(config),
        "scale_embedding": False,
        "dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": 0.0,
        "init_std": config.init_method_std,
        "is_encoder_decoder": True,
        "decoder_start_token_id": BOS,
        # These switch off Blenderbot's defaults for chat, which would change generated sequences.
        "forced_eos_token_id": None,
        "encoder_no_repeat_ngram_size": 0,
        # The conversion back reads all settings from here. Blenderbot has no names for some of them.
        "prott5nv": asdict(config),
    }


def xlm_roberta_config(config: ModelConfig) -> dict[str, Any]:
    """Return the content of ``config.json`` for the encoder alone.

    Parameters
    ----------
    config : ModelConfig
        Architecture of the model.

    Returns
    -------
    dict
        Settings by XLM-RoBERTa-XL's names.
    """
    return {
        "architectures": ["XLMRobertaXLModel"],
        "model_type": XLM_ROBERTA_XL,
        **_common_config(config),
        "max_position_embeddings": config.max_position_embeddings + PAD + 1,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.ffn_hidden_size,
        "hidden_act": _gelu(config),
        "layer_norm_eps": config.layernorm_epsilon,
        "type_vocab_size": 1,
        "hidden_dropout_prob": config.hidden_dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "initializer_range": config.init_method_std,
    }


def _common_config(config: ModelConfig) -> dict[str, Any]:
    """Return the settings that have the same names in both architectures."""
    return {
        # Data type for computing, which transformers 5 takes from here by default. The file may have 16-bit weights.
        "dtype": "float32",
        "vocab_size": config.padded_vocab_size,
        "tie_word_embeddings": True,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }


def _gelu(config: ModelConfig) -> str:
    """Return transformers' name of the form of GELU that the model uses."""
    return "gelu_pytorch_tanh" if config.bias_activation_fusion else "gelu"


# Settings that change what the model computes, and their values in transformers if config.json does not have them.
# Missing settings without such a value are errors. The last three are settings of old versions of transformers; today's
# versions always compute as if they had these values.
_BLENDERBOT_DEFAULTS = {
    "activation_function": "gelu",
    "scale_embedding": False,
    "tie_word_embeddings": True,
    "is_encoder_decoder": True,
    "quantization_config": None,
    "add_final_layer_norm": True,
    "normalize_before": True,
    "normalize_embedding": False,
}
_BLENDERBOT_SETTINGS = (
    *("vocab_size", "max_position_embeddings", "d_model", "encoder_layers", "decoder_layers"),
    *(f"{stack}_{key}" for stack in ("encoder", "decoder") for key in ("ffn_dim", "attention_heads")),
    *_BLENDERBOT_DEFAULTS,
)


def blenderbot_difference(values: Mapping[str, Any], config: ModelConfig) -> str | None:
    """Return how the settings in a ``config.json`` differ from those of a model.

    Parameters
    ----------
    values : mapping
        The parsed file.
    config : ModelConfig
        Architecture of the model.

    Returns
    -------
    str or None
        Description of the first difference that changes what the model computes, or None.

    Examples
    --------
    >>> from prott5nv.model.config import ModelConfig
    >>> config = ModelConfig()
    >>> blenderbot_difference({**blenderbot_config(config), "activation_function": "relu"}, config)
    "activation_function='relu'; expected 'gelu_pytorch_tanh'"
    """
    expected = {**_BLENDERBOT_DEFAULTS, **blenderbot_config(config)}
    for key in _BLENDERBOT_SETTINGS:
        value = values.get(key, _BLENDERBOT_DEFAULTS.get(key))
        if value != expected[key] or type(value) is not type(expected[key]):
            return f"{key}={value!r:.80}; expected {expected[key]!r}"
    return None
