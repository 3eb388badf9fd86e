"""The encoder of protein T5 models (ProtT5, ProstT5, Ankh) in plain PyTorch, over packed proteins.

The architecture is that of ``T5EncoderModel`` in transformers: RMSNorm without bias, linear layers without bias,
attention that is not scaled, and a bias of the attention scores that depends only on the distance between two tokens
and is shared by all layers. There are no position embeddings, so the length of a protein is not limited.

The residual stream is float32 in every precision, because T5's activations are large: fp16 would overflow, and bf16
would lose digits. With fp16, the last matmul of each feed-forward network is float32 as well, as in transformers.

Shapes: B proteins, T packed residues, S packed tokens (with those before and behind each protein), D hidden size,
F feed-forward size, H heads, C channels per head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prott5nv.errors import ProtT5nvError
from prott5nv.model.attention import Packing
from prott5nv.model.device import to_device
from prott5nv.model.dropout import dropout
from prott5nv.model.encoder import Encoder, LayerStack
from prott5nv.model.t5_attention import Attention, AttentionByLength, FlexAttention, PositionBias
from prott5nv.model.t5_tokenizer import T5Tokenizer, T5Vocabulary


def _relu(x: Tensor) -> Tensor:
    # ProtT5's hidden layer is so wide that a second copy of it takes a noticeable part of the time.
    return F.relu(x, inplace=not torch.is_grad_enabled())


#: Activation functions by their names in ``config.json``.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": _relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
}

_MAX_SIZE = 1 << 20


@dataclass(frozen=True)
class T5Config:  # numpydoc ignore=PR02
    """Architecture of the encoder of a T5 model. The fields have the names of ``config.json`` in transformers.

    Parameters
    ----------
    vocab_size : int
        Number of tokens.
    d_model : int
        Size of the hidden states, D.
    d_kv : int
        Channels of each head, C. ``num_heads * d_kv`` need not equal `d_model`.
    d_ff : int
        Size of the feed-forward network's hidden layer, F.
    num_layers, num_heads : int
        Number of encoder layers and of attention heads, H.
    relative_attention_num_buckets : int
        Number of rows in the table of the position bias. Nearby distances have a row each, and larger ones share rows.
    relative_attention_max_distance : int
        All larger distances share one row.
    activation : str
        A key of `ACTIVATIONS`.
    gated : bool
        Whether a second projection is multiplied with the activation.
    layer_norm_epsilon : float
        Constant added to the mean square in every RMSNorm.
    dropout_rate : float
        Dropout probability in training.

    Raises
    ------
    ProtT5nvError
        If a value is invalid.

    Examples
    --------
    >>> T5Config(vocab_size=128, d_model=1024, d_kv=128, d_ff=16384, num_layers=24, num_heads=32).num_parameters
    1208141824
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    activation: str = "relu"
    gated: bool = False
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), field.type
            if kind == "int" and not (type(value) is int and 0 < value <= _MAX_SIZE):
                raise ProtT5nvError(f"{field.name}={str(value)[:80]}: must be an integer from 1 to {_MAX_SIZE:,}")
            if kind == "float" and not (type(value) in (int, float) and 0 <= value < 1):
                raise ProtT5nvError(f"{field.name}={str(value)[:80]}: must be a number from 0 to 1")
        if self.activation not in ACTIVATIONS or type(self.gated) is not bool:
            raise ProtT5nvError(
                f"activation={str(self.activation)[:80]!r}: must be one of {', '.join(ACTIVATIONS)}, and gated a bool"
            )
        if not self.layer_norm_epsilon:
            raise ProtT5nvError("layer_norm_epsilon=0: must be positive")
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets % 4 or distance <= buckets // 4:
            raise ProtT5nvError(
                f"relative_attention_num_buckets={buckets} and relative_attention_max_distance={distance}: the number "
                "of buckets must be a multiple of 4, and the distance larger than a quarter of it"
            )

    @property
    def hidden_size(self) -> int:
        """Size of the hidden states, D."""
        return self.d_model

    @property
    def max_residues(self) -> None:
        """None: the length of a protein is not limited."""
        return None

    @property
    def activations_per_residue(self) -> int:
        """Number of values that one layer holds at once for each residue; float32 counts twice.

        They are the residual stream, a normalized copy, query, key and value, the attention output, and the activations
        of the feed-forward network.
        """
        return 4 * self.d_model + 6 * self.num_heads * self.d_kv + 3 * self.d_ff

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the encoder and its embedding table."""
        inner = self.num_heads * self.d_kv
        layer = 4 * self.d_model * inner + (2 + self.gated) * self.d_model * self.d_ff + 2 * self.d_model
        table = self.vocab_size * self.d_model + self.relative_attention_num_buckets * self.num_heads
        return table + self.num_layers * layer + self.d_model


class T5Encoder(Encoder):
    """The encoder of a protein T5 model.

    The constructor draws random initial weights. :func:`prott5nv.load` returns a model with the weights of a folder.

    Parameters
    ----------
    config : T5Config
        Architecture of the model.
    vocabulary : T5Vocabulary
        Token ids of the residues, and of the tokens before and behind each protein.

    Attributes
    ----------
    flex_attention : bool
        Whether a CUDA device computes the attention of a whole batch in one call of PyTorch's FlexAttention, instead of
        one call for each length. It is off by default, because it has never been measured on a GPU.

    Examples
    --------
    >>> config = T5Config(vocab_size=128, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=8)
    >>> vocabulary = T5Vocabulary("aa", tuple(range(3, 24)), unknown=23, unknown_name="X", prefix=(), suffix=(1,))
    >>> model = T5Encoder(config, vocabulary).eval()
    >>> tokens_T = torch.from_numpy(model.tokenizer.encode("MSLKRMS"))
    >>> model.encode(tokens_T, torch.tensor([0, 5, 7], dtype=torch.int32)).shape
    torch.Size([7, 64])
    """

    config: T5Config
    tokenizer: T5Tokenizer

    def __init__(self, config: T5Config, vocabulary: T5Vocabulary) -> None:
        super().__init__()
        if max(vocabulary.all_ids) >= config.vocab_size:
            raise ProtT5nvError(f"token {max(vocabulary.all_ids)}: the model has only {config.vocab_size} tokens")
        self.config = config
        self.tokenizer = T5Tokenizer(vocabulary)
        self.flex_attention = False
        self.embedding = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.d_model), freeze=False)
        self.encoder = Stack(config)
        if not self.embedding.weight.is_meta:  # on the meta device, a checkpoint brings the weights
            self.apply(_initialize)

    def encode(self, tokens_T: Tensor, cu_seqlens_B1: Tensor) -> Tensor:
        """Compute the hidden states of the last encoder layer, after the final RMSNorm.

        Parameters
        ----------
        tokens_T : Tensor, shape=(T,), dtype=int64
            Concatenated residue tokens of B proteins, without the tokens before and behind each protein.
        cu_seqlens_B1 : Tensor, shape=(B + 1,), dtype=int32
            Start of each protein, followed by the end of the last one.

        Returns
        -------
        Tensor, shape=(T, D), dtype=float32
            One hidden state per residue.
        """
        tokens_S, residues_T, packing = self._with_context(tokens_T, cu_seqlens_B1)
        x_SD = self.embedding(tokens_S).float()
        if self.training:
            x_SD = dropout(x_SD, self.config.dropout_rate)
        flex = self.flex_attention and x_SD.is_cuda
        return self.encoder(x_SD, packing, residues_T, flex=flex)

    def fusible_parts(self) -> Iterator[nn.Module]:
        """Iterate over the feed-forward networks of the encoder, which ``torch.compile`` can fuse."""
        return (layer.mlp for layer in cast("list[Layer]", self.encoder.layers))

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the model to a device and convert its weights to a data type, in place.

        The parameters are those of :meth:`prott5nv.model.encoder.Encoder.place`. Some weights stay in float32: see
        :meth:`stored_dtype`.
        """
        for name, parameter in self.named_parameters():
            parameter.data = parameter.data.to(device, self.stored_dtype(name, dtype))

    @staticmethod
    def stored_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
        """Return the data type of a parameter in a model that computes in `dtype`.

        RMSNorm weights are always float32. With float16, this is also true of the last matrix of each feed-forward
        network, whose output can be too large for float16.
        """
        wide = "layernorm" in name or (dtype == torch.float16 and name.endswith("dense_4h_to_h.weight"))
        return torch.float32 if wide else dtype

    def _with_context(self, tokens_T: Tensor, cu_seqlens_B1: Tensor) -> tuple[Tensor, Tensor, Packing]:
        """Add the tokens before and behind each protein.

        Returns
        -------
        tokens_S : Tensor, shape=(S,), dtype=int64
            All tokens.
        residues_T : Tensor, shape=(T,), dtype=int64
            Indices of the residues among them.
        packing : Packing
            Boundaries of the proteins, with these tokens.
        """
        prefix, suffix = self.tokenizer.vocabulary.prefix, self.tokenizer.vocabulary.suffix
        added = len(prefix) + len(suffix)
        index_B1 = torch.arange(len(cu_seqlens_B1), device=cu_seqlens_B1.device)
        packing = Packing((cu_seqlens_B1 + added * index_B1).int(), device=tokens_T.device)
        wide_B1 = packing.cu_seqlens.long()
        shift_T = torch.repeat_interleave(
            to_device(added * index_B1[:-1] + len(prefix), tokens_T.device),
            wide_B1.diff() - added,
            output_size=len(tokens_T),
        )
        residues_T = torch.arange(len(tokens_T), device=tokens_T.device) + shift_T
        tokens_S = tokens_T.new_empty(len(tokens_T) + added * (len(cu_seqlens_B1) - 1))
        tokens_S[residues_T] = tokens_T
        for offset, token in enumerate(prefix):
            tokens_S[wide_B1[:-1] + offset] = token
        for offset, token in enumerate(reversed(suffix), 1):
            tokens_S[wide_B1[1:] - offset] = token
        return tokens_S, residues_T, packing


def _initialize(module: nn.Module) -> None:
    """Draw initial weights with which the activations have the scale of a trained model."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
    elif isinstance(module, SelfAttention):  # scores are not scaled, so the queries must be small
        channels = module.query_key_value.out_features // 3 // module.num_heads
        with torch.no_grad():
            module.query_key_value.weight[: module.num_heads * channels] *= channels**-0.5


class RMSNorm(nn.Module):
    """Division by the root mean square of each row, computed in float32."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.d_model))
        self.epsilon = config.layer_norm_epsilon

    def forward(self, x_SD: Tensor) -> Tensor:
        """Normalize each row: Tensor, shape=(S, D), dtype=float32."""
        return F.rms_norm(x_SD, self.weight.shape, self.weight, self.epsilon)


class Stack(LayerStack):
    """The layers, the position bias that they share, and the final RMSNorm."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.dropout = config.dropout_rate
        self.position_bias = PositionBias(
            config.relative_attention_num_buckets, config.num_heads, config.relative_attention_max_distance
        )
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.final_layernorm = RMSNorm(config)

    def forward(self, x_SD: Tensor, packing: Packing, residues_T: Tensor, *, flex: bool) -> Tensor:
        """Apply all layers to packed tokens and return the rows of the residues: Tensor, shape=(T, D)."""
        attention: Attention = (FlexAttention if flex else AttentionByLength)(self.position_bias, packing)
        for layer in self.layers:
            x_SD = layer(x_SD, attention)
        x_TD = self.final_layernorm(x_SD[residues_T])
        return dropout(x_TD, self.dropout) if self.training else x_TD


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each with an RMSNorm before it and a residual connection."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.dropout = config.dropout_rate
        self.input_layernorm = RMSNorm(config)
        self.self_attention = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config)
        self.mlp = FeedForward(config)

    def forward(self, x_SD: Tensor, attention: Attention) -> Tensor:
        """Apply the layer to packed tokens: Tensor, shape=(S, D), dtype=float32."""
        x_SD = x_SD + self._drop(self.self_attention(self.input_layernorm(x_SD), attention))
        return x_SD + self._drop(self.mlp(self.post_attention_layernorm(x_SD)))

    def _drop(self, x_SD: Tensor) -> Tensor:
        return dropout(x_SD, self.dropout) if self.training else x_SD


class SelfAttention(nn.Module):
    """Self-attention with one fused projection, whose rows are all queries, then all keys, then all values."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.num_heads = config.num_heads
        self.dropout = config.dropout_rate
        self.query_key_value = nn.Linear(config.d_model, 3 * inner, bias=False)
        self.dense = nn.Linear(inner, config.d_model, bias=False)

    def forward(self, x_SD: Tensor, attention: Attention) -> Tensor:
        """Attend from each token to the tokens of its protein: Tensor, shape=(S, D)."""
        qkv_S3HC = self.query_key_value(x_SD.to(self.dense.weight.dtype)).unflatten(-1, (3, self.num_heads, -1))
        q_SHC, k_SHC, v_SHC = qkv_S3HC.unbind(1)
        out_SHC = attention(q_SHC, k_SHC, v_SHC, self.dropout if self.training else 0.0)
        return self.dense(out_SHC.flatten(1))


class FeedForward(nn.Module):
    """Two linear layers with an activation function in between. With a gate, it is multiplied with a third one."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.activation = config.activation
        self.dropout = config.dropout_rate
        self.dense_h_to_4h = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False) if config.gated else None
        self.dense_4h_to_h = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x_SD: Tensor) -> Tensor:
        """Transform each token on its own: Tensor, shape=(S, D)."""
        x_SD = x_SD.to(self.dense_h_to_4h.weight.dtype)
        x_SF = ACTIVATIONS[self.activation](self.dense_h_to_4h(x_SD))
        if self.gate is not None:
            x_SF = x_SF * self.gate(x_SD)
        if self.training:
            x_SF = dropout(x_SF, self.dropout)
        return self.dense_4h_to_h(x_SF.to(self.dense_4h_to_h.weight.dtype))
