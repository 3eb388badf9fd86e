"""ProtT5nv composed of Megatron-Core's blocks, over packed proteins.

Megatron-Core's own ``T5Model`` ignores packing and numbers positions through the whole batch, so its parts are put
together here: embedding, encoder block, decoder block, head. The places where packing matters are the layer specs'
core attention, which takes a ``Packing`` where Megatron passes a mask, and the position ids.

Shapes: B proteins, T packed encoder tokens, S packed decoder tokens, D hidden size, H heads of this rank, C channels of
a head, V vocabulary rows of this rank. Megatron's layout is [sequence, batch, ...] with a batch of 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
)
from megatron.core.transformer.attention import (
    CrossAttention,
    CrossAttentionSubmodules,
    SelfAttention,
    SelfAttentionSubmodules,
)
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.torch_norm import WrappedTorchNorm
from megatron.core.transformer.transformer_block import TransformerBlock, TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from megatron.core.utils import init_method_normal, scaled_init_method_normal
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prott5nv.errors import ProtT5nvError
from prott5nv.model.attention import Packing, packed_attention
from prott5nv.model.config import ModelConfig
from prott5nv.model.dropout import dropout


def initialize_parallel(tensor_model_parallel_size: int = 1) -> None:
    """Set up Megatron's process groups, in a private group of one where nothing was launched.

    Raises
    ------
    ProtT5nvError
        If the processes cannot be divided into groups of this size.
    """
    if parallel_state.model_parallel_is_initialized():
        return
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    if dist.get_world_size() % tensor_model_parallel_size:
        raise ProtT5nvError(
            f"model.tensor_model_parallel_size={tensor_model_parallel_size} does not divide the number of processes, "
            f"{dist.get_world_size()}: choose trainer.devices and trainer.num_nodes accordingly"
        )
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tensor_model_parallel_size)
    if torch.cuda.is_available() and dist.get_backend() == "nccl":
        from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

        model_parallel_cuda_manual_seed(1234)


class PlainLinear:
    """Mixed into Megatron's linears: the product is PyTorch's own, with the slices' sums round it.

    Megatron's autograd function casts nothing in the backward pass, so CPU autocast fails in it.
    """

    def _forward_impl(self, input, weight, bias=None, allreduce_dgrad=False, **_unused):
        if allreduce_dgrad:  # each rank's gradient of the input is that of its slice alone
            input = copy_to_tensor_model_parallel_region(input, group=self.tp_group)
        return F.linear(input, weight, bias)


class ColumnLinear(PlainLinear, ColumnParallelLinear):
    """With its bias in the product: added by the caller, a float32 bias would widen what autocast has narrowed."""

    def __init__(self, *args, skip_bias_add: bool = False, **kwargs):
        super().__init__(*args, skip_bias_add=False, **kwargs)


class RowLinear(PlainLinear, RowParallelLinear):
    pass


class PackedCoreAttention(MegatronModule):
    """Core attention that reads ``(query packing, key packing)`` where Megatron hands it a mask."""

    def __init__(self, config, layer_number, attn_mask_type, attention_type, **_unused):
        super().__init__(config=config)
        self.causal = attn_mask_type == AttnMaskType.causal

    def forward(self, query, key, value, attention_mask, **_unused) -> Tensor:
        query_packing, key_packing = attention_mask
        dropout = self.config.attention_dropout if self.training else 0.0
        with draws_of_this_slice(query.device) if dropout else nullcontext():
            out_THC = packed_attention(
                query.squeeze(1),
                key.squeeze(1),
                value.squeeze(1),
                query_packing,
                key_packing,
                causal=self.causal,
                dropout=dropout,
            )
        return out_THC.flatten(1).unsqueeze(1)


@contextmanager
def draws_of_this_slice(device: torch.device) -> Iterator[None]:
    """Random numbers of this tensor-parallel rank alone, after which all ranks go on alike.

    What the ranks hold whole must be dropped alike; the heads that each has for itself must not.
    """
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1:
        yield
        return
    seed = int(torch.randint(2**62, ()))  # the same on all ranks
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed + group.rank())
        yield


def bias_dropout_add(training: bool, _fused: bool):
    """As Megatron's function of that purpose, with our dropout."""

    def add(x_with_bias, residual, probability):
        x, bias = x_with_bias
        if bias is not None:
            x = x + bias
        return residual + (dropout(x, probability) if training else x)

    return add


def layer_spec(*, decoder: bool) -> ModuleSpec:
    """Pre-LN layer of plain PyTorch norms, our linears and packed attention, named as Megatron names them."""
    cross = dict(
        pre_cross_attn_layernorm=WrappedTorchNorm,
        cross_attention=ModuleSpec(
            module=CrossAttention,
            params={"attn_mask_type": AttnMaskType.padding},
            submodules=CrossAttentionSubmodules(
                linear_q=ColumnLinear,
                linear_kv=ColumnLinear,
                core_attention=PackedCoreAttention,
                linear_proj=RowLinear,
            ),
        ),
        cross_attn_bda=bias_dropout_add,
    )
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=WrappedTorchNorm,
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": AttnMaskType.causal if decoder else AttnMaskType.padding},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnLinear, core_attention=PackedCoreAttention, linear_proj=RowLinear
                ),
            ),
            self_attn_bda=bias_dropout_add,
            pre_mlp_layernorm=WrappedTorchNorm,
            mlp=ModuleSpec(module=MLP, submodules=MLPSubmodules(linear_fc1=ColumnLinear, linear_fc2=RowLinear)),
            mlp_bda=bias_dropout_add,
            **(cross if decoder else {}),
        ),
    )


def transformer_config(config: ModelConfig, num_layers: int) -> TransformerConfig:
    """Megatron's description of one stack of ours."""
    return TransformerConfig(
        num_layers=num_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.ffn_hidden_size,
        num_attention_heads=config.num_attention_heads,
        hidden_dropout=config.hidden_dropout,
        attention_dropout=config.attention_dropout,
        layernorm_epsilon=config.layernorm_epsilon,
        activation_func=partial(F.gelu, approximate="tanh" if config.bias_activation_fusion else "none"),
        bias_activation_fusion=False,  # Megatron's name for a fused kernel, not for a form of GELU
        init_method=init_method_normal(config.init_method_std),
        output_layer_init_method=scaled_init_method_normal(config.init_method_std, config.num_layers),
        embedding_init_method=init_method_normal(config.init_method_std),
        tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
        use_cpu_initialization=True,  # Lightning moves the module; drawing on the CPU also makes runs comparable
    )


class MegatronProtT5(MegatronModule):
    """Embedding, encoder, decoder and head; weights map to :class:`prott5nv.ProtT5` by name.

    Parameters
    ----------
    config : ModelConfig
    recompute : bool
        Keep only each layer's input for the backward pass and compute the rest again: about a third more work for
        several times less memory, and the same gradients to the bit.
    """

    def __init__(self, config: ModelConfig, *, recompute: bool = False):
        encoder_config = transformer_config(config, config.num_layers)
        decoder_config = transformer_config(config, config.layers_per_stack["decoder"])
        super().__init__(config=encoder_config)
        self.embedding = LanguageModelEmbedding(
            encoder_config, vocab_size=config.padded_vocab_size, max_sequence_length=config.max_position_embeddings
        )
        self.encoder = _block(encoder_config, decoder=False)
        self.decoder = _block(decoder_config, decoder=True)
        self.tokens_head = ColumnLinear(
            config.hidden_size,
            config.padded_vocab_size,
            config=decoder_config,
            init_method=decoder_config.init_method,
            skip_weight_param_allocation=True,  # the word table is the matrix
        )
        if recompute:  # with PyTorch's own tool: Megatron's needs CUDA
            for layer in (*self.encoder.layers, *self.decoder.layers):
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)

    def encode(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        """Encoder output in Megatron's layout: Tensor, shape=(T, 1, D)."""
        embedded = self.embedding(tokens_T.unsqueeze(0), packing.positions_T.unsqueeze(0))
        return self.encoder(embedded, attention_mask=(packing, packing))

    def decode(self, tokens_S: Tensor, packing: Packing, hidden: Tensor, encoder_packing: Packing) -> Tensor:
        """Decoder output in Megatron's layout: Tensor, shape=(S, 1, D)."""
        embedded = self.embedding(tokens_S.unsqueeze(0), packing.positions_T.unsqueeze(0))
        return self.decoder(
            embedded,
            attention_mask=(packing, packing),
            context=hidden,
            context_mask=(packing, encoder_packing),
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Scores of each target token.

        Parameters
        ----------
        batch : dict of Tensor
            As :mod:`prott5nv.data.dataset` makes it.

        Returns
        -------
        Tensor, shape=(S, V)
            This tensor-parallel rank's slice of the vocabulary.
        """
        encoder_packing = Packing(batch["enc_cu_seqlens"])
        decoder_packing = Packing(batch["dec_cu_seqlens"])
        hidden = self.encode(batch["enc_tokens"], encoder_packing)
        decoded = self.decode(batch["dec_tokens"], decoder_packing, hidden, encoder_packing)
        logits, _ = self.tokens_head(decoded, weight=self.embedding.word_embeddings.weight)
        return logits.squeeze(1)


def _block(config: TransformerConfig, *, decoder: bool) -> nn.Module:
    layers = [layer_spec(decoder=decoder)] * config.num_layers
    # Megatron's default final norm is None without Transformer Engine, and would vanish without a word.
    return TransformerBlock(config, TransformerBlockSubmodules(layer_specs=layers, layer_norm=WrappedTorchNorm))
