"""The shape of a model: one dataclass with NeMo's field names, read from and written to ``model_config.yaml``."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, fields, replace
from typing import Any

from prott5nv.errors import ProtT5nvError

NUM_BASE_TOKENS = 32  # the 30 SentencePiece pieces, then <cls> and <sep>; sentinels follow

_PRESETS: dict[str, dict[str, Any]] = {
    "prott5nv": {},
    # For a laptop: embeddings come from the encoder, so that is where the layers are, and drawing dropout masks on a
    # CPU takes longer than the products that they regularise.
    "small": dict(
        num_layers=4,
        decoder_num_layers=2,
        hidden_size=128,
        ffn_hidden_size=512,
        num_attention_heads=4,
        init_method_std=0.06,  # 0.015 suits a width of 768; at 128 it costs the first hundreds of steps
        hidden_dropout=0.0,
        attention_dropout=0.0,
    ),
    # The model inside the package: sentinels for 37 % of 512 residues.
    "builtin": dict(
        num_layers=3,
        decoder_num_layers=1,
        hidden_size=256,
        ffn_hidden_size=1024,
        num_attention_heads=8,
        num_sentinel_tokens=192,
        seq_length_dec=400,
        init_method_std=0.06,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    ),
    "tiny": dict(num_layers=2, hidden_size=64, ffn_hidden_size=256, num_attention_heads=4),
}

# What ProtT5nv is; a file that says otherwise is another model, and reading it as this one would give wrong numbers.
_REQUIRED = {
    "position_embedding_type": "learned_absolute",
    "transformer_block_type": "pre_ln",
    "normalization": "layernorm",
    "activation": "gelu",
    "encoder_arch": "transformer",
    "decoder_arch": "transformer",
    "bias": True,
    "headscale": False,
    "share_token_embeddings": True,
    "share_decoder_tokens_head_embeddings": True,
    "tokens_head_bias": True,
}

# The remaining keys that NeMo 1.x reads when it builds the model from our file, at upstream's values.
_NEMO_DEFAULTS: dict[str, Any] = {
    "micro_batch_size": 1,
    "global_batch_size": 1,
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "resume_from_checkpoint": None,
    "pipeline_model_parallel_split_rank": 0,
    "pre_process": True,
    "post_process": True,
    "megatron_amp_O2": False,
    "grad_allreduce_chunk_size_mb": 125,
    **{key: value for key, value in _REQUIRED.items() if key != "tokens_head_bias"},
    "relative_position_bias_self_attention_only": True,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "kv_channels": None,
    "apply_query_key_layer_scaling": True,
    "persist_layer_norm": True,
    "gradient_as_bucket_view": True,
    "grad_div_ar_fusion": True,
    "masked_softmax_fusion": True,
    "bias_dropout_add_fusion": True,
    "hidden_steps": 32,
    "num_self_attention_per_cross_attention": 1,
    "native_amp_init_scale": 4294967296,
    "native_amp_growth_interval": 1000,
    "fp32_residual_connection": False,
    "fp16_lm_cross_entropy": False,
    "seed": 1234,
    "use_cpu_initialization": False,
    "onnx_safe": False,
    "apex_transformer_log_level": 30,
    "activations_checkpoint_method": None,
    "activations_checkpoint_num_layers": 1,
    "precision": 32,
    "nemo_version": "1.20.0",  # whose layout this is
}


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of an encoder-decoder; the defaults are ProtT5nv's.

    Field names are NeMo 1.x's, so that a ``model_config.yaml`` and Hydra overrides use the same words.

    Parameters
    ----------
    seq_length, seq_length_dec : int
        Longest encoder and decoder input in training, in tokens.
    max_position_embeddings : int
        Rows of the position table: the longest protein that the encoder can see at once.
    num_layers : int
        Encoder layers.
    decoder_num_layers : int, optional
        Decoder layers; as many as the encoder's if None.
    hidden_size, ffn_hidden_size, num_attention_heads : int
        Width D, width of the feed-forward network, heads.
    init_method_std : float
        Standard deviation of the initial weights.
    hidden_dropout, attention_dropout : float
        Dropout probabilities in training.
    layernorm_epsilon : float
        Added to the variance in every LayerNorm.
    bias_activation_fusion : bool
        True is the tanh form of GELU (upstream's), False the erf form.
    make_vocab_size_divisible_by : int
        The word table is padded to a multiple of this many rows.
    num_sentinel_tokens : int
        Mask tokens, and so the most spans that can be masked in one protein.
    masked_lm_prob : float
        Fraction of residues that pretraining masks.

    Examples
    --------
    >>> ModelConfig().num_parameters
    198970496
    >>> ModelConfig.preset("tiny", num_layers=1).hidden_size
    64
    """

    seq_length: int = 512
    seq_length_dec: int = 256
    max_position_embeddings: int = 512
    num_layers: int = 12
    decoder_num_layers: int | None = None
    hidden_size: int = 768
    ffn_hidden_size: int = 3072
    num_attention_heads: int = 12
    init_method_std: float = 0.015
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    layernorm_epsilon: float = 1e-5
    bias_activation_fusion: bool = True
    make_vocab_size_divisible_by: int = 128
    num_sentinel_tokens: int = 96
    masked_lm_prob: float = 0.15

    def __post_init__(self):
        if self.decoder_num_layers is None:
            object.__setattr__(self, "decoder_num_layers", self.num_layers)
        for field in fields(self):
            value = self._checked(field.name, getattr(self, field.name), type(field.default))
            object.__setattr__(self, field.name, value)
        if self.hidden_size % self.num_attention_heads:
            raise ProtT5nvError(
                f"hidden_size={self.hidden_size} cannot be shared by num_attention_heads={self.num_attention_heads}: "
                "choose a multiple"
            )
        if self.seq_length > self.max_position_embeddings:
            raise ProtT5nvError(
                f"seq_length={self.seq_length} is longer than the position table "
                f"(max_position_embeddings={self.max_position_embeddings}): raise the latter"
            )

    @staticmethod
    def _checked(name: str, value: Any, kind: type) -> Any:
        """The value as its field's type, or an error: YAML reads ``1e-5`` as text, and hostile files hold anything."""
        try:
            if kind is bool:
                if not isinstance(value, bool):
                    raise TypeError
                return value
            if isinstance(value, bool):
                raise TypeError
            number = float(value)
            if not math.isfinite(number):
                raise ValueError
            if kind is float:
                if number < 0 or (name.endswith(("dropout", "prob")) and number >= 1):
                    raise ValueError
                return number
            lowest = 0 if name == "num_sentinel_tokens" else 1
            if number != int(number) or not lowest <= number <= 2**20:
                raise ValueError
            return int(number)
        except (TypeError, ValueError, OverflowError):
            wanted = {bool: "true or false", float: "a number of suitable size"}.get(kind, "a positive whole number")
            raise ProtT5nvError(f"{name}={str(value)[:80]!r} is not {wanted}") from None

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> ModelConfig:
        """One of the named shapes.

        ``prott5nv`` (199M parameters), ``builtin`` (3.6M, the model inside the package), ``small`` (1.4M) or ``tiny``
        (for tests).

        Raises
        ------
        ProtT5nvError
            If there is no such preset or an override is not valid.
        """
        if name not in _PRESETS:
            raise ProtT5nvError(f"no model preset {name!r}: choose one of {', '.join(_PRESETS)}")
        return cls(**{**_PRESETS[name], **overrides})

    @staticmethod
    def preset_names() -> list[str]:
        """Names that :meth:`preset` takes."""
        return list(_PRESETS)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Read the fields of this class out of any mapping with NeMo's names; other keys are left alone."""
        names = {field.name for field in fields(cls)}
        return cls(**{key: values[key] for key in values if key in names and values[key] is not None})

    @classmethod
    def from_nemo(cls, values: dict[str, Any]) -> ModelConfig:
        """Read a NeMo 1.x ``model_config.yaml``, nested (``encoder:``/``decoder:``) or flat.

        Parameters
        ----------
        values : dict
            The parsed YAML. Keys that do not describe the architecture are ignored; nothing in it is imported or run.

        Raises
        ------
        ProtT5nvError
            If a value is invalid, or the file describes an architecture that is not ProtT5nv's.
        """
        encoder, decoder, tokenizer, data = (
            _section(values, name) for name in ("encoder", "decoder", "tokenizer", "data")
        )
        merged = {**values, **encoder}
        if "bias_gelu_fusion" in merged:  # the flag's name before NeMo 1.11
            merged.setdefault("bias_activation_fusion", merged["bias_gelu_fusion"])
        for section in (merged, decoder):
            for key, expected in _REQUIRED.items():
                found = section.get(key, expected)
                if found != expected:
                    raise ProtT5nvError(f"{key}={str(found)[:80]!r} is another architecture; ProtT5nv has {expected!r}")
        for key in ("hidden_size", "ffn_hidden_size", "num_attention_heads", "bias_activation_fusion"):
            if key in decoder and key in merged and decoder[key] != merged[key]:
                raise ProtT5nvError(f"encoder and decoder differ in {key}: this is another architecture")
        head_width = merged.get("kv_channels")
        picked = {
            **merged,
            "decoder_num_layers": decoder.get("num_layers", values.get("decoder_num_layers")),
            "num_sentinel_tokens": tokenizer.get("num_sentinel_tokens"),
            "seq_length_dec": data.get("seq_length_dec"),
            "masked_lm_prob": data.get("masked_lm_prob"),
        }
        config = cls.from_dict(picked)
        if head_width not in (None, config.hidden_size // config.num_attention_heads):
            raise ProtT5nvError(f"kv_channels={head_width} is another architecture: expected hidden_size / heads")
        return config

    def to_nemo(self) -> dict[str, Any]:
        """Write the nested and flat keys that NeMo 1.x and BioNeMo v1 read; the inverse of :meth:`from_nemo`.

        The tokenizer's files are named by whoever writes the archive.
        """
        flat = {
            **_NEMO_DEFAULTS,
            **{
                key: getattr(self, key)
                for key in [
                    "make_vocab_size_divisible_by",
                    "seq_length",
                    "max_position_embeddings",
                    "num_layers",
                    "hidden_size",
                    "ffn_hidden_size",
                    "num_attention_heads",
                    "init_method_std",
                    "hidden_dropout",
                    "attention_dropout",
                    "layernorm_epsilon",
                    "bias_activation_fusion",
                ]
            },
            "tokenizer": {
                "library": "sentencepiece",
                "type": None,
                "model": None,
                "vocab_file": None,
                "merge_file": None,
                "num_sentinel_tokens": self.num_sentinel_tokens,
            },
            "data": {
                "data_impl": "csv_mmap",
                "seq_length": self.seq_length,
                "seq_length_dec": self.seq_length_dec,
                "masked_lm_prob": self.masked_lm_prob,
                "dataset_type": "t5",
            },
            # Upstream's class, for BioNeMo v1; our reader treats it as text.
            "target": "bionemo.model.protein.prott5nv.prott5_model.ProtT5nvModel",
        }
        decoder = {**copy.deepcopy(flat), "num_layers": self.decoder_num_layers, "arch": "transformer"}
        encoder = {**copy.deepcopy(flat), "arch": "transformer"}
        return {**flat, "encoder": encoder, "decoder": decoder, "tokens_head_bias": True}

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def check_pretraining(self, mean_span_length: float = 1.0) -> None:
        """Refuse lengths whose masked spans need more sentinels than there are.

        Parameters
        ----------
        mean_span_length : float, optional
            Masked residues behind one sentinel.

        Raises
        ------
        ProtT5nvError
            Naming the longest protein that the sentinels allow.
        """
        spans = self.masked_lm_prob / mean_span_length
        needed = math.ceil(round(self.seq_length * spans, 6))
        if needed > self.num_sentinel_tokens:
            longest = int(round(self.num_sentinel_tokens / spans, 6))
            raise ProtT5nvError(
                f"masking {self.masked_lm_prob:.0%} of seq_length={self.seq_length} needs {needed} sentinels, and "
                f"there are {self.num_sentinel_tokens}: the limit is seq_length={longest}"
            )

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the word table: pieces and sentinels, rounded up to ``make_vocab_size_divisible_by``."""
        multiple = self.make_vocab_size_divisible_by
        return -(-(NUM_BASE_TOKENS + self.num_sentinel_tokens) // multiple) * multiple

    @property
    def num_parameters(self) -> int:
        """Trainable numbers; tables shared by encoder, decoder and head count once."""
        d, f = self.hidden_size, self.ffn_hidden_size
        norm = 2 * d
        attention = 4 * d * d + 4 * d
        mlp = 2 * d * f + f + d
        encoder = self.num_layers * (2 * norm + attention + mlp) + norm
        decoder = self.decoder_num_layers * (3 * norm + 2 * attention + mlp) + norm
        vocabulary = self.padded_vocab_size
        return encoder + decoder + (vocabulary + self.max_position_embeddings) * d + vocabulary


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise ProtT5nvError(f"the configuration's {name!r} is not a mapping")
    return section
