"""Architecture of a model: a dataclass with NeMo's field names, which maps to and from ``model_config.yaml``."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, fields, replace
from typing import Any

from prott5nv.errors import ProtT5nvError
from prott5nv.model.nemo_keys import ARCHITECTURE, DEFAULTS
from prott5nv.model.tokenizer import FIRST_SENTINEL

_PRESETS: dict[str, dict[str, Any]] = {
    "prott5nv": {},
    # For training on a laptop. Embeddings come from the encoder, so most layers are there. There is no dropout, because
    # drawing its masks on a CPU takes longer than the matmuls that it regularizes.
    "small": dict(
        num_layers=4,
        decoder_num_layers=2,
        hidden_size=128,
        ffn_hidden_size=512,
        num_attention_heads=4,
        init_method_std=0.06,  # 0.015 suits a width of 768; at 128 it would waste the first few hundred steps
        hidden_dropout=0.0,
        attention_dropout=0.0,
    ),
    # The model inside the package. It has enough sentinels to mask 37 % of 512 residues.
    "builtin": dict(
        num_layers=5,
        decoder_num_layers=1,
        hidden_size=448,
        ffn_hidden_size=1792,
        num_attention_heads=14,
        num_sentinel_tokens=192,
        seq_length_dec=400,
        init_method_std=0.045,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    ),
    "tiny": dict(num_layers=2, hidden_size=64, ffn_hidden_size=256, num_attention_heads=4),
}


@dataclass(frozen=True)
class ModelConfig:  # numpydoc ignore=PR02
    """Architecture of an encoder-decoder model. The defaults are ProtT5nv's.

    The fields have NeMo 1.x's names, so ``model_config.yaml`` and Hydra overrides use the same names.

    Parameters
    ----------
    seq_length, seq_length_dec : int
        Maximum number of tokens of an encoder and of a decoder input in training.
    max_position_embeddings : int
        Number of rows of the position table, which is the length of the longest protein that the encoder accepts.
    num_layers : int
        Number of encoder layers.
    decoder_num_layers : int, optional
        Number of decoder layers. None means as many as the encoder has.
    hidden_size : int
        Size of the hidden states, D.
    ffn_hidden_size : int
        Size of the feed-forward network's hidden layer, F.
    num_attention_heads : int
        Number of attention heads, H.
    init_method_std : float
        Standard deviation of the initial weights.
    hidden_dropout, attention_dropout : float
        Dropout probabilities of hidden states and of attention weights in training.
    layernorm_epsilon : float
        Constant added to the variance in every LayerNorm.
    bias_activation_fusion : bool
        The form of GELU, under NeMo's name for its fused kernel: True selects the tanh form, as in BioNeMo v1, and
        False the erf form.
    make_vocab_size_divisible_by : int
        The word table is padded to a multiple of this number of rows.
    num_sentinel_tokens : int
        Number of sentinel tokens, which limits the number of masked spans in one protein.
    masked_lm_prob : float
        Fraction of residues that pretraining masks.

    Raises
    ------
    ProtT5nvError
        If a value is invalid, or two values do not fit together.

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

    def __post_init__(self) -> None:
        if self.decoder_num_layers is None:
            object.__setattr__(self, "decoder_num_layers", self.num_layers)
        for field in fields(self):
            value = self._validated(field.name, getattr(self, field.name), type(field.default))
            object.__setattr__(self, field.name, value)
        if self.hidden_size % self.num_attention_heads:
            raise ProtT5nvError(
                f"hidden_size={self.hidden_size} is not divisible by num_attention_heads={self.num_attention_heads}: "
                "choose a multiple"
            )
        if self.seq_length > self.max_position_embeddings:
            raise ProtT5nvError(
                f"seq_length={self.seq_length} exceeds the position table "
                f"(max_position_embeddings={self.max_position_embeddings}): increase the latter"
            )

    @staticmethod
    def _validated(name: str, value: Any, kind: type) -> Any:
        """Convert a value to the type of its field.

        YAML reads ``1e-5`` as text, and a hostile file can contain any value.
        """
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
            if kind is bool:
                expected = "true or false"
            elif kind is float:
                below_1 = name.endswith(("dropout", "prob"))
                expected = "a number from 0 to below 1" if below_1 else "a number of at least 0"
            else:
                expected = "a positive whole number"
            raise ProtT5nvError(f"{name}={value!r:.80} is not {expected}") from None

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> ModelConfig:
        """Return a named architecture.

        Parameters
        ----------
        name : str
            ``prott5nv`` (199M parameters), ``builtin`` (15.6M, the model inside the package), ``small`` (1.4M) or
            ``tiny`` (for tests).
        **overrides
            Fields to change.

        Returns
        -------
        ModelConfig
            The preset with the overrides applied.

        Raises
        ------
        ProtT5nvError
            If there is no such preset or an override is invalid.
        """
        if name not in _PRESETS:
            raise ProtT5nvError(f"no model preset {name!r}: choose one of {', '.join(_PRESETS)}")
        return cls(**{**_PRESETS[name], **overrides})

    @staticmethod
    def preset_names() -> list[str]:
        """Return the names that :meth:`preset` accepts."""
        return list(_PRESETS)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Create a configuration from a mapping with NeMo's names.

        Parameters
        ----------
        values : dict
            Values by field name. Other keys are ignored, and so are values that are None.

        Returns
        -------
        ModelConfig
            The configuration, with default values for missing keys.

        Raises
        ------
        ProtT5nvError
            If a value is invalid.
        """
        names = {field.name for field in fields(cls)}
        return cls(**{key: values[key] for key in values if key in names and values[key] is not None})

    @classmethod
    def from_nemo(cls, values: dict[str, Any]) -> ModelConfig:
        """Create a configuration from NeMo 1.x's ``model_config.yaml``.

        Parameters
        ----------
        values : dict
            The parsed YAML, nested (with sections ``encoder`` and ``decoder``) or flat. Keys that do not describe the
            architecture are ignored. Nothing in the mapping is imported or run.

        Returns
        -------
        ModelConfig
            The architecture of the model.

        Raises
        ------
        ProtT5nvError
            If a value is invalid, or the file describes an architecture other than ProtT5nv's.
        """
        encoder, decoder, tokenizer, data = (
            _section(values, name) for name in ("encoder", "decoder", "tokenizer", "data")
        )
        merged = {**values, **encoder}
        if "bias_gelu_fusion" in merged:  # the flag's name before NeMo 1.11
            merged.setdefault("bias_activation_fusion", merged["bias_gelu_fusion"])
        for section in (merged, decoder):
            for key, required in ARCHITECTURE.items():
                value = section.get(key, required)
                if value != required:
                    raise ProtT5nvError(f"{key}={str(value)[:80]!r} is another architecture; ProtT5nv has {required!r}")
        for key in ("hidden_size", "ffn_hidden_size", "num_attention_heads", "bias_activation_fusion"):
            if key in decoder and key in merged and decoder[key] != merged[key]:
                raise ProtT5nvError(f"encoder and decoder differ in {key}: this is another architecture")
        head_width = merged.get("kv_channels")
        flat = {
            **merged,
            "decoder_num_layers": decoder.get("num_layers", values.get("decoder_num_layers")),
            "num_sentinel_tokens": tokenizer.get("num_sentinel_tokens"),
            "seq_length_dec": data.get("seq_length_dec"),
            "masked_lm_prob": data.get("masked_lm_prob"),
        }
        config = cls.from_dict(flat)
        if head_width not in (None, config.hidden_size // config.num_attention_heads):
            raise ProtT5nvError(
                f"kv_channels={head_width} is another architecture: expected hidden_size / num_attention_heads"
            )
        return config

    def to_nemo(self) -> dict[str, Any]:
        """Convert to the nested and flat keys that NeMo 1.x and BioNeMo v1 read.

        This is the inverse of :meth:`from_nemo`. The writer of the archive adds the names of the tokenizer's files.

        Returns
        -------
        dict
            Content of ``model_config.yaml``.
        """
        flat = {
            **DEFAULTS,
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
            # BioNeMo v1 builds the model from this class. Our reader treats it as text.
            "target": "bionemo.model.protein.prott5nv.prott5_model.ProtT5nvModel",
        }
        decoder = {**copy.deepcopy(flat), "num_layers": self.decoder_num_layers, "arch": "transformer"}
        encoder = {**copy.deepcopy(flat), "arch": "transformer"}
        return {**flat, "encoder": encoder, "decoder": decoder, "tokens_head_bias": True}

    def replace(self, **changes: Any) -> ModelConfig:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def check_pretraining(self, mean_span_length: float = 1.0) -> None:
        """Check that there are enough sentinels for the masked spans of the longest protein.

        Parameters
        ----------
        mean_span_length : float, default 1.0
            Mean number of masked residues that one sentinel replaces.

        Raises
        ------
        ProtT5nvError
            If there are too few sentinels. The message gives the length of the longest protein for which they suffice.
        """
        spans_per_residue = self.masked_lm_prob / mean_span_length
        needed = math.ceil(round(self.seq_length * spans_per_residue, 6))
        if needed > self.num_sentinel_tokens:
            longest = int(round(self.num_sentinel_tokens / spans_per_residue, 6))
            raise ProtT5nvError(
                f"masking {self.masked_lm_prob:.0%} of seq_length={self.seq_length} needs {needed} sentinels, but "
                f"there are only {self.num_sentinel_tokens}: the limit is seq_length={longest}"
            )

    @property
    def max_residues(self) -> int:
        """Number of residues that the encoder accepts at once."""
        return self.max_position_embeddings

    @property
    def activations_per_residue(self) -> int:
        """Number of values that one layer holds at once for each residue.

        They are the residual stream, a normalized copy, query, key and value, the attention output, and both
        activations of the feed-forward network.
        """
        return 8 * self.hidden_size + 2 * self.ffn_hidden_size

    @property
    def layers_per_stack(self) -> dict[str, int]:
        """Number of layers of ``"encoder"`` and of ``"decoder"``."""
        assert self.decoder_num_layers is not None, "__post_init__ replaces None"
        return {"encoder": self.num_layers, "decoder": self.decoder_num_layers}

    @property
    def padded_vocab_size(self) -> int:
        """Number of rows of the word table: all tokens, rounded up to ``make_vocab_size_divisible_by``."""
        multiple = self.make_vocab_size_divisible_by
        return -(-(FIRST_SENTINEL + self.num_sentinel_tokens) // multiple) * multiple

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters. Tables that encoder, decoder and head share count once."""
        d, f = self.hidden_size, self.ffn_hidden_size
        norm = 2 * d
        attention = 4 * d * d + 4 * d
        mlp = 2 * d * f + f + d
        encoder = self.layers_per_stack["encoder"] * (2 * norm + attention + mlp) + norm
        decoder = self.layers_per_stack["decoder"] * (3 * norm + 2 * attention + mlp) + norm
        vocabulary = self.padded_vocab_size
        return encoder + decoder + (vocabulary + self.max_position_embeddings) * d + vocabulary


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise ProtT5nvError(f"the configuration's {name!r} is not a mapping")
    return section
