"""Mapping of parameter names between ``.nemo`` files, ``ProtT5`` and Megatron-Core, and the parameters' shapes.

All three have the same tensors with the same order of rows. Only the names differ, so each mapping just renames tensors
with the tables below. There is one exception: a ``.nemo`` file contains the word and position tables twice, for the
encoder and for the decoder.

Shapes: V vocabulary size, P positions, D hidden size, F feed-forward size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prott5nv.errors import ProtT5nvError

if TYPE_CHECKING:
    from prott5nv.model.config import ModelConfig

_SELF_ATTENTION = (
    # name in ProtT5 and .nemo, name in Megatron-Core 0.16, rows, columns (None for a LayerNorm)
    ("input_layernorm", "input_layernorm", "D", None),
    ("self_attention.query_key_value", "self_attention.linear_qkv", "3D", "D"),
    ("self_attention.dense", "self_attention.linear_proj", "D", "D"),
)
_FEED_FORWARD = (
    ("mlp.dense_h_to_4h", "mlp.linear_fc1", "F", "D"),
    ("mlp.dense_4h_to_h", "mlp.linear_fc2", "D", "F"),
)
_LAYER = {
    "encoder": (
        *_SELF_ATTENTION,
        ("post_attention_layernorm", "pre_mlp_layernorm", "D", None),
        *_FEED_FORWARD,
    ),
    "decoder": (
        *_SELF_ATTENTION,
        ("post_attention_layernorm", "pre_cross_attn_layernorm", "D", None),
        ("inter_attention.query", "cross_attention.linear_q", "D", "D"),
        ("inter_attention.key_value", "cross_attention.linear_kv", "2D", "D"),
        ("inter_attention.dense", "cross_attention.linear_proj", "D", "D"),
        ("post_inter_attention_layernorm", "pre_mlp_layernorm", "D", None),
        *_FEED_FORWARD,
    ),
}
_TABLES = ("word_embeddings.weight", "position_embeddings.weight")
_HEAD = "tokens_head.bias"

_TO_MEGATRON = {stack: {ours: theirs for ours, theirs, _, _ in rows} for stack, rows in _LAYER.items()}
_FROM_MEGATRON = {stack: {theirs: ours for ours, theirs, _, _ in rows} for stack, rows in _LAYER.items()}
_LAYER_NAME = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")
_NEMO_STACK = re.compile(r"enc_dec_model\.enc_dec_model\.(encoder|decoder)\.model\.(.+)")
_NEMO_TABLE = re.compile(r"enc_dec_model\.(?:encoder|decoder)_embedding\.((?:word|position)_embeddings\.weight)")


def parameter_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Iterate over the names and shapes of all parameters of ``ProtT5``.

    This is a generator because a hostile configuration may claim a million layers.

    Parameters
    ----------
    config : ModelConfig
        Architecture of the model.

    Yields
    ------
    name : str
        Name of the parameter in ``ProtT5``.
    shape : tuple of int
        Its shape. Parameters come in the order of a ``.nemo`` file.

    Examples
    --------
    >>> from prott5nv.model.config import ModelConfig
    >>> next(parameter_shapes(ModelConfig()))
    ('embedding.word_embeddings.weight', (128, 768))
    """
    d = config.hidden_size
    widths = {"D": d, "2D": 2 * d, "3D": 3 * d, "F": config.ffn_hidden_size}
    vocabulary = config.padded_vocab_size
    yield "embedding.word_embeddings.weight", (vocabulary, d)
    yield "embedding.position_embeddings.weight", (config.max_position_embeddings, d)
    for stack, num_layers in config.layers_per_stack.items():
        for layer in range(num_layers):
            for module, _, rows, columns in _LAYER[stack]:
                name = f"{stack}.layers.{layer}.{module}"
                yield f"{name}.weight", (widths[rows], widths[columns]) if columns else (widths[rows],)
                yield f"{name}.bias", (widths[rows],)
        yield f"{stack}.final_layernorm.weight", (d,)
        yield f"{stack}.final_layernorm.bias", (d,)
    yield _HEAD, (vocabulary,)


def nemo_names(name: str) -> tuple[str, ...]:
    """Return the names of a ``ProtT5`` parameter in a ``.nemo`` file.

    Parameters
    ----------
    name : str
        Name of the parameter in ``ProtT5``.

    Returns
    -------
    tuple of str
        Two names for a table that encoder and decoder share, and one name for all other parameters.

    Examples
    --------
    >>> nemo_names("encoder.final_layernorm.bias")
    ('enc_dec_model.enc_dec_model.encoder.model.final_layernorm.bias',)
    """
    table = name.removeprefix("embedding.")
    if table in _TABLES:
        return tuple(f"enc_dec_model.{stack}_embedding.{table}" for stack in ("encoder", "decoder"))
    if name == _HEAD:
        return (f"enc_dec_model.{name}",)
    stack, rest = name.split(".", 1)
    return (f"enc_dec_model.enc_dec_model.{stack}.model.{rest}",)


def prott5_name(name: str) -> str | None:
    """Return the name in ``ProtT5`` of a parameter in a ``.nemo`` file.

    Parameters
    ----------
    name : str
        Name of the parameter in the file.

    Returns
    -------
    str or None
        Its name in ``ProtT5``, or None if ProtT5nv has no such parameter.

    Examples
    --------
    >>> prott5_name("enc_dec_model.decoder_embedding.word_embeddings.weight")
    'embedding.word_embeddings.weight'
    """
    if match := _NEMO_TABLE.fullmatch(name):
        return f"embedding.{match[1]}"
    if match := _NEMO_STACK.fullmatch(name):
        return f"{match[1]}.{match[2]}"
    return _HEAD if name == f"enc_dec_model.{_HEAD}" else None


def prott5_to_nemo(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the parameters of ``ProtT5`` to their names in a ``.nemo`` file.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Parameters by their names in ``ProtT5``.

    Returns
    -------
    dict of str to Tensor
        The same tensors by their names in a ``.nemo`` file. Tables that encoder and decoder share have two names.
    """
    return {theirs: value for ours, value in state_dict.items() for theirs in nemo_names(ours)}


def nemo_to_prott5(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the parameters of a ``.nemo`` file to their names in ``ProtT5``.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Parameters by their names in a ``.nemo`` file. Entries of ``_extra_state`` are ignored.

    Returns
    -------
    dict of str to Tensor
        The same tensors by their names in ``ProtT5``. Tables that encoder and decoder share are kept once.

    Raises
    ------
    ProtT5nvError
        If ProtT5nv has no parameter of that name, or the two copies of a shared table differ.
    """
    renamed: dict[str, Any] = {}
    for theirs, value in state_dict.items():
        if theirs.endswith("_extra_state"):
            continue
        ours = prott5_name(theirs)
        if ours is None:
            raise ProtT5nvError(f"{theirs!r} is not a parameter of ProtT5nv")
        if ours in renamed and not _same(renamed[ours], value):
            raise ProtT5nvError(f"{theirs!r} differs from the encoder's table; expected one shared table")
        renamed.setdefault(ours, value)
    return renamed


def prott5_to_megatron(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the parameters of ``ProtT5`` to their names in the Megatron-Core model.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Parameters by their names in ``ProtT5``.

    Returns
    -------
    dict of str to Tensor
        The same tensors by their names in the Megatron-Core model.

    Raises
    ------
    ProtT5nvError
        If ProtT5nv has no parameter of that name.

    Examples
    --------
    >>> list(prott5_to_megatron({"decoder.layers.0.post_attention_layernorm.bias": 0}))
    ['decoder.layers.0.pre_cross_attn_layernorm.bias']
    """
    return _rename_layers(state_dict, _TO_MEGATRON)


def megatron_to_prott5(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the parameters of the Megatron-Core model to their names in ``ProtT5``.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Parameters by their names in the Megatron-Core model. Entries of ``_extra_state`` are ignored.

    Returns
    -------
    dict of str to Tensor
        The same tensors by their names in ``ProtT5``.

    Raises
    ------
    ProtT5nvError
        If ProtT5nv has no parameter of that name.
    """
    kept = {name: value for name, value in state_dict.items() if not name.endswith("_extra_state")}
    return _rename_layers(kept, _FROM_MEGATRON)


def _rename_layers(state_dict: Mapping[str, Any], modules: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Rename the modules inside each layer; all other names stay as they are."""
    renamed = {}
    for name, value in state_dict.items():
        if match := _LAYER_NAME.fullmatch(name):
            stack, layer, module, kind = match.groups()
            if module not in modules[stack]:
                raise ProtT5nvError(f"{name!r} is not a parameter of ProtT5nv")
            name = f"{stack}.layers.{layer}.{modules[stack][module]}.{kind}"
        renamed[name] = value
    return renamed


def _same(first: Any, second: Any) -> bool:
    import torch

    return first is second or torch.equal(first, second)
