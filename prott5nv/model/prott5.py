"""ProtT5nv in plain PyTorch: encoder, decoder and head over packed proteins.

All proteins of a batch are concatenated in one tensor, and ``cu_seqlens`` holds their boundaries. No padding token
enters the network. Parameters have the names of a ``.nemo`` file without its prefixes, so a checkpoint maps to the
modules by name.

Shapes: B proteins, T packed encoder tokens, S packed decoder tokens, D hidden size, F feed-forward size, H heads,
C channels per head, V vocabulary size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prott5nv.errors import ProtT5nvError
from prott5nv.model.attention import Packing, has_flash_attention, packed_attention
from prott5nv.model.config import ModelConfig
from prott5nv.model.dropout import dropout
from prott5nv.model.encoder import Encoder, LayerStack
from prott5nv.model.tokenizer import ProteinTokenizer

_FUSED_GELU = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class ProtT5(Encoder):
    """The encoder-decoder model.

    The constructor draws random initial weights as in pretraining. :func:`prott5nv.load` returns a model with the
    weights of a checkpoint.

    Parameters
    ----------
    config : ModelConfig
        Architecture of the model.

    Examples
    --------
    >>> model = ProtT5(ModelConfig.preset("tiny")).eval()
    >>> tokens_T = torch.tensor([22, 7, 5, 16, 11, 22, 7])  # MSLKR, MS
    >>> cu_seqlens_B1 = torch.tensor([0, 5, 7], dtype=torch.int32)
    >>> model.encode(tokens_T, cu_seqlens_B1).shape
    torch.Size([7, 64])
    """

    config: ModelConfig
    tokenizer: ProteinTokenizer

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = ProteinTokenizer()
        self.embedding = Embedding(config)
        self.encoder = Stack(config, config.layers_per_stack["encoder"], decoder=False)
        self.decoder = Stack(config, config.layers_per_stack["decoder"], decoder=True)
        self.tokens_head = Head(config)
        # On the meta device a checkpoint brings the weights, and random initialization would import PyTorch's
        # compiler, which takes seconds.
        if self.tokens_head.bias.is_meta:
            return
        self.apply(self._initialize)
        for name, parameter in self.named_parameters():
            if name.endswith(("dense.weight", "dense_4h_to_h.weight")):  # these layers write to the residual stream
                nn.init.normal_(parameter, std=config.init_method_std / math.sqrt(2 * config.num_layers))

    def _initialize(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.init_method_std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def encode(self, tokens_T: Tensor, cu_seqlens_B1: Tensor) -> Tensor:
        """Compute the hidden states of the last encoder layer, after the final LayerNorm.

        Parameters
        ----------
        tokens_T : Tensor, shape=(T,), dtype=int64
            Concatenated residue tokens of B proteins.
        cu_seqlens_B1 : Tensor, shape=(B + 1,), dtype=int32
            Start of each protein, followed by the end of the last one.

        Returns
        -------
        Tensor, shape=(T, D)
            One hidden state per residue.

        Raises
        ------
        ProtT5nvError
            If a protein is longer than the position table.
        """
        packing = self._packing(cu_seqlens_B1)
        return self.encoder(self.embedding(tokens_T, packing.positions_T), packing)

    def decode(
        self, tokens_S: Tensor, cu_seqlens_B1: Tensor, hidden_TD: Tensor, encoder_cu_seqlens_B1: Tensor
    ) -> Tensor:
        """Compute the hidden states of the last decoder layer, after the final LayerNorm.

        Parameters
        ----------
        tokens_S : Tensor, shape=(S,), dtype=int64
            Concatenated decoder inputs of B proteins, each ``<s> sentinel residue sentinel residue ...``.
        cu_seqlens_B1 : Tensor, shape=(B + 1,), dtype=int32
            Boundaries of the decoder inputs.
        hidden_TD : Tensor, shape=(T, D)
            Encoder output, as returned by :meth:`encode`.
        encoder_cu_seqlens_B1 : Tensor, shape=(B + 1,), dtype=int32
            Boundaries of the proteins in ``hidden_TD``.

        Returns
        -------
        Tensor, shape=(S, D)
            One hidden state per decoder token.

        Raises
        ------
        ProtT5nvError
            If an input is longer than the position table.
        """
        packing = self._packing(cu_seqlens_B1)
        x_SD = self.embedding(tokens_S, packing.positions_T)
        return self.decoder(x_SD, packing, hidden_TD, self._packing(encoder_cu_seqlens_B1))

    def logits(self, hidden_SD: Tensor) -> Tensor:
        """Compute the logits of the next token from decoder states.

        The output matrix is the word embedding table, to which the head adds its bias.

        Parameters
        ----------
        hidden_SD : Tensor, shape=(S, D)
            Decoder output, as returned by :meth:`decode`.

        Returns
        -------
        Tensor, shape=(S, V)
            Logits over the padded vocabulary.
        """
        return F.linear(hidden_SD, self.embedding.word_embeddings.weight, self.tokens_head.bias)

    def fusible_parts(self) -> Iterator[nn.Module]:
        """Iterate over the layers of the encoder, or over their feed-forward networks without flash attention.

        Other attention depends on the lengths of the proteins, and would be compiled again for each batch.
        """
        part = Layer if has_flash_attention(self.embedding.word_embeddings.weight) else FeedForward
        return (module for module in self.encoder.modules() if isinstance(module, part))

    def _packing(self, cu_seqlens_B1: Tensor) -> Packing:
        limit = self.config.max_position_embeddings
        # With the same limit in each batch, torch.compile does not compile the layers again.
        packing = Packing(cu_seqlens_B1, device=self.tokens_head.bias.device, max_length=limit)
        longest = max(packing.lengths, default=0)
        if longest > limit:
            raise ProtT5nvError(f"a protein of {longest} residues; this model sees at most {limit} residues at once")
        return packing


class Embedding(nn.Module):
    """Word and position embeddings, shared by encoder and decoder. The head also uses the word embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout
        self.word_embeddings = _table(config.padded_vocab_size, config.hidden_size)
        self.position_embeddings = _table(config.max_position_embeddings, config.hidden_size)

    def forward(self, tokens_T: Tensor, positions_T: Tensor) -> Tensor:
        """Add the word and position embeddings of each token: Tensor, shape=(T, D)."""
        x_TD = self.word_embeddings(tokens_T) + self.position_embeddings(positions_T)
        return dropout(x_TD, self.dropout) if self.training else x_TD


def _table(rows: int, width: int) -> nn.Embedding:
    """Return an embedding table without initial weights; :class:`ProtT5` or a checkpoint sets them."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


class Head(nn.Module):
    """Bias of the output head. The head's matrix is the word embedding table."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.padded_vocab_size))


class Stack(LayerStack):
    """Encoder or decoder: pre-LN layers followed by a final LayerNorm."""

    def __init__(self, config: ModelConfig, num_layers: int, *, decoder: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, decoder=decoder) for _ in range(num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)

    def forward(
        self, x_TD: Tensor, packing: Packing, context_SD: Tensor | None = None, context_packing: Packing | None = None
    ) -> Tensor:
        """Apply all layers; the decoder needs the encoder output as `context_SD` and its boundaries."""
        for layer in self.layers:
            x_TD = layer(x_TD, packing, context_SD, context_packing)
        return self.final_layernorm(x_TD)


class Layer(nn.Module):
    """Self-attention, cross-attention (decoder only) and a feed-forward network, each with a residual connection."""

    def __init__(self, config: ModelConfig, *, decoder: bool) -> None:
        super().__init__()

        def layernorm() -> nn.LayerNorm:
            return nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)

        self.dropout = config.hidden_dropout
        self.input_layernorm = layernorm()
        self.self_attention = SelfAttention(config, causal=decoder)
        self.post_attention_layernorm = layernorm()
        if decoder:
            self.inter_attention = CrossAttention(config)
            self.post_inter_attention_layernorm = layernorm()
        self.mlp = FeedForward(config)

    def forward(
        self, x_TD: Tensor, packing: Packing, context_SD: Tensor | None, context_packing: Packing | None
    ) -> Tensor:
        """Apply the layer to packed tokens; `context_SD` is None in the encoder."""
        x_TD = x_TD + self._drop(self.self_attention(self.input_layernorm(x_TD), packing))
        normed_TD = self.post_attention_layernorm(x_TD)
        if context_SD is not None:
            x_TD = x_TD + self._drop(self.inter_attention(normed_TD, packing, context_SD, context_packing))
            normed_TD = self.post_inter_attention_layernorm(x_TD)
        return x_TD + self._drop(self.mlp(normed_TD))

    def _drop(self, x_TD: Tensor) -> Tensor:
        return dropout(x_TD, self.dropout) if self.training else x_TD


class SelfAttention(nn.Module):
    """Self-attention with one fused projection.

    The rows of the projection are grouped by head. Within a head they are ordered query, key, value.
    """

    def __init__(self, config: ModelConfig, *, causal: bool) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.causal = causal
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_TD: Tensor, packing: Packing) -> Tensor:
        """Attend from each token to the tokens of its protein: Tensor, shape=(T, D)."""
        q_THC, k_THC, v_THC = self.query_key_value(x_TD).unflatten(-1, (self.num_heads, -1)).chunk(3, dim=-1)
        dropout = self.dropout if self.training else 0.0
        out_THC = packed_attention(q_THC, k_THC, v_THC, packing, packing, causal=self.causal, dropout=dropout)
        return self.dense(out_THC.flatten(1))


class CrossAttention(nn.Module):
    """Attention from decoder tokens to encoder tokens.

    The rows of the key-value projection are grouped by head. Within a head, keys precede values.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key_value = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_TD: Tensor, packing: Packing, context_SD: Tensor, context_packing: Packing) -> Tensor:
        """Attend from each decoder token to the encoder tokens of its protein: Tensor, shape=(T, D)."""
        q_THC = self.query(x_TD).unflatten(-1, (self.num_heads, -1))
        k_SHC, v_SHC = self.key_value(context_SD).unflatten(-1, (self.num_heads, -1)).chunk(2, dim=-1)
        dropout = self.dropout if self.training else 0.0
        return self.dense(packed_attention(q_THC, k_SHC, v_SHC, packing, context_packing, dropout=dropout).flatten(1))


class FeedForward(nn.Module):
    """Two linear layers with a GELU in between."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.approximate = "tanh" if config.bias_activation_fusion else "none"
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.ffn_hidden_size)
        self.dense_4h_to_h = nn.Linear(config.ffn_hidden_size, config.hidden_size)

    def forward(self, x_TD: Tensor) -> Tensor:
        """Transform each token on its own: Tensor, shape=(T, D)."""
        up = self.dense_h_to_4h
        unfused = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if x_TD.device.type == "cpu" and x_TD.dtype == torch.bfloat16 and _FUSED_GELU and not unfused:
            # oneDNN fuses the matmul with the GELU. A separate tanh GELU takes half as long as the matmul itself.
            x_TF = torch.ops.mkldnn._linear_pointwise(x_TD, up.weight, up.bias, "gelu", [], self.approximate)
        else:
            x_TF = F.gelu(up(x_TD), approximate=self.approximate)
        return self.dense_4h_to_h(x_TF)
