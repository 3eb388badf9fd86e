"""Settings and parameter names of T5 models in transformers.

Shapes: D hidden size, I inner size of the attention (heads * channels), F feed-forward size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from prott5nv.errors import ProtT5nvError
from prott5nv.model.t5 import T5Config

MODEL_TYPE = "t5"
#: Names of the embedding table. A file has at least the first or the second; all of them in a file must be equal.
TABLES = ("shared.weight", "encoder.embed_tokens.weight")

_FIELDS = (
    *("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"),
    *("relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon", "dropout_rate"),
)
_BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"


class Source(NamedTuple):
    """Where a parameter of :class:`prott5nv.model.t5.T5Encoder` is in a file.

    Attributes
    ----------
    name : str
        Name of the parameter in the model.
    parts : tuple of str
        Names in the file of the tensors whose rows form the parameter.
    shape : tuple of int
        Shape of each of these tensors.
    """

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]


def parse_config(values: Mapping[str, Any], where: str) -> T5Config:
    """Create the configuration of an encoder from ``config.json``.

    Parameters
    ----------
    values : dict
        The parsed JSON.
    where : str
        Name of the file in error messages.

    Returns
    -------
    T5Config

    Raises
    ------
    ProtT5nvError
        If the model is not a T5 model, or has a setting that this package does not know.
    """
    model_type = values.get("model_type")
    if model_type != MODEL_TYPE:
        raise ProtT5nvError(f"{where}: model_type={str(model_type)[:80]!r}; folders of T5 models can be opened")
    for name in ("quantization_config", "is_decoder"):
        if values.get(name):
            raise ProtT5nvError(f"{where}: {name} is set; only plain encoders can be opened")
    projection = values.get("feed_forward_proj", "relu")
    if not isinstance(projection, str):
        raise ProtT5nvError(f"{where}: feed_forward_proj must be a name")
    gated, activation = projection.startswith("gated-"), projection.removeprefix("gated-")
    # transformers reads gated-gelu as the tanh form of GELU.
    activation = {"gated-gelu": "gelu_new", "swish": "silu"}.get(projection if gated else activation, activation)
    for name, expected in (("is_gated_act", gated), ("dense_act_fn", activation)):
        if values.get(name, expected) != expected:
            raise ProtT5nvError(
                f"{where}: {name}={str(values[name])[:80]} contradicts feed_forward_proj={projection[:80]!r}"
            )
    try:
        return T5Config(
            **{name: values[name] for name in _FIELDS if name in values}, activation=activation, gated=gated
        )
    except TypeError:
        missing = next(name for name in _FIELDS[:6] if name not in values)
        raise ProtT5nvError(f"{where}: {missing} is missing") from None
    except ProtT5nvError as error:
        raise ProtT5nvError(f"{where}: {error}") from None


def encoder_sources(config: T5Config) -> Iterator[Source]:
    """Iterate over the parameters of an encoder, except for its embedding table, and their places in a file."""
    inner, width, wide = config.num_heads * config.d_kv, config.d_model, config.d_ff
    buckets = (config.relative_attention_num_buckets, config.num_heads)
    yield Source("encoder.position_bias.weight", (f"encoder.block.0.{_BIAS}",), buckets)
    for layer in range(config.num_layers):
        ours, theirs = f"encoder.layers.{layer}", f"encoder.block.{layer}.layer"
        attention, dense = f"{theirs}.0.SelfAttention", f"{theirs}.1.DenseReluDense"
        yield Source(f"{ours}.input_layernorm.weight", (f"{theirs}.0.layer_norm.weight",), (width,))
        projections = tuple(f"{attention}.{name}.weight" for name in "qkv")
        yield Source(f"{ours}.self_attention.query_key_value.weight", projections, (inner, width))
        yield Source(f"{ours}.self_attention.dense.weight", (f"{attention}.o.weight",), (width, inner))
        yield Source(f"{ours}.post_attention_layernorm.weight", (f"{theirs}.1.layer_norm.weight",), (width,))
        first = "wi_0" if config.gated else "wi"
        yield Source(f"{ours}.mlp.dense_h_to_4h.weight", (f"{dense}.{first}.weight",), (wide, width))
        if config.gated:
            yield Source(f"{ours}.mlp.gate.weight", (f"{dense}.wi_1.weight",), (wide, width))
        yield Source(f"{ours}.mlp.dense_4h_to_h.weight", (f"{dense}.wo.weight",), (width, wide))
    yield Source("encoder.final_layernorm.weight", ("encoder.final_layer_norm.weight",), (width,))


def decoder_shapes(config: T5Config, num_layers: int) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Iterate over the tensors that an encoder-decoder has besides its encoder.

    Parameters
    ----------
    config : T5Config
        Architecture of the encoder.
    num_layers : int
        Number of decoder layers.

    Yields
    ------
    name : str
        Name in the file.
    shape : tuple of int
    required : bool
        False for tensors that only some files have: copies of the embedding table, a head that is not tied to it, and a
        table that old versions of transformers wrote without using it.
    """
    inner, width, wide = config.num_heads * config.d_kv, config.d_model, config.d_ff
    table, buckets = (config.vocab_size, width), (config.relative_attention_num_buckets, config.num_heads)
    yield "lm_head.weight", table, False
    yield "decoder.embed_tokens.weight", table, False
    yield f"decoder.block.0.{_BIAS}", buckets, True
    yield f"decoder.block.0.{_BIAS.replace('0.Self', '1.EncDec')}", buckets, False
    for layer in range(num_layers):
        theirs = f"decoder.block.{layer}.layer"
        for attention in (f"{theirs}.0.SelfAttention", f"{theirs}.1.EncDecAttention"):
            for name in "qkv":
                yield f"{attention}.{name}.weight", (inner, width), True
            yield f"{attention}.o.weight", (width, inner), True
        for name in ("wi_0", "wi_1") if config.gated else ("wi",):
            yield f"{theirs}.2.DenseReluDense.{name}.weight", (wide, width), True
        yield f"{theirs}.2.DenseReluDense.wo.weight", (width, wide), True
        for sublayer in range(3):
            yield f"{theirs}.{sublayer}.layer_norm.weight", (width,), True
    yield "decoder.final_layer_norm.weight", (width,), True
