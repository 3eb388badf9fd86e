"""ProtT5nv built from Megatron-Core's blocks, for packed proteins.

Megatron-Core's own ``T5Model`` does not support packing: it numbers positions through the whole batch. This module
therefore assembles the parts itself: embedding, encoder block, decoder block, head. Packing matters in two of them: the
core attention of the layer specs, which takes a ``Packing`` where Megatron passes a mask, and the position ids.

Shapes: B proteins, T packed encoder tokens, S packed decoder tokens, D hidden size, H heads of this rank, C channels of
a head, V vocabulary rows of this rank. Megatron's layout is [sequence, batch, ...] with a batch of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

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
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from prott5nv.data.corruption import max_targets
from prott5nv.data.micro_batch import MicroBatch
from prott5nv.errors import ProtT5nvError
from prott5nv.model.attention import Packing, has_flash_attention, packed_attention
from prott5nv.model.config import ModelConfig
from prott5nv.model.dropout import dropout


def initialize_parallel(tensor_model_parallel_size: int = 1) -> None:
    """Set up Megatron's process groups. A process that no launcher started forms a group of one.

    Parameters
    ----------
    tensor_model_parallel_size : int, default 1
        Number of ranks over which each layer is sharded.

    Raises
    ------
    ProtT5nvError
        If the number of processes is not a multiple of this size.
    """
    if parallel_state.model_parallel_is_initialized():
        return
    if not dist.is_initialized():
        store = dist.HashStore()  # type: ignore[attr-defined]  # PyTorch's stubs lack it
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
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
    """Mixin for Megatron's linear layers that computes the matmul with PyTorch's own function.

    Megatron's autograd function does not cast in the backward pass, so it fails with CPU autocast.
    """

    tp_group: dist.ProcessGroup  # set by Megatron

    def _forward_impl(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, allreduce_dgrad: bool = False, **_unused: Any
    ) -> Tensor:
        if allreduce_dgrad:  # each rank has the gradient of the input only through its own shard of the weight
            input = copy_to_tensor_model_parallel_region(input, group=self.tp_group)
        return F.linear(input, weight, bias)


class ColumnLinear(PlainLinear, ColumnParallelLinear):
    """Column-parallel linear layer that always adds its bias itself.

    If the caller added the float32 bias, it would convert the output of autocast back to float32.
    """

    def __init__(self, *args: Any, skip_bias_add: bool = False, **kwargs: Any):
        super().__init__(*args, skip_bias_add=False, **kwargs)


class RowLinear(PlainLinear, RowParallelLinear):
    """Row-parallel linear layer with PyTorch's own matmul."""


#: Attention whose calls depend on the lengths of the proteins, so that a compiled layer cannot contain it.
attention_outside_graph = torch.compiler.disable(packed_attention)


class PackedCoreAttention(MegatronModule):
    """Core attention over packed proteins.

    Megatron passes ``attention_mask`` through to this module unchanged. Here it holds the tuple ``(query packing, key
    packing)``.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        **_unused: Any,
    ):
        super().__init__(config=config)
        self.causal = attn_mask_type == AttnMaskType.causal

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: tuple[Packing, Packing], **_unused: Any
    ) -> Tensor:
        """Attend within each protein.

        Parameters
        ----------
        query, key, value : Tensor, shape=(T, 1, H, C)
            For attention to the encoder, the query has S instead of T tokens.
        attention_mask : (Packing, Packing)
            Packing of the query and of the key.

        Returns
        -------
        Tensor, shape=(T, 1, H * C)
        """
        query_packing, key_packing = attention_mask
        dropout = self.config.attention_dropout if self.training else 0.0
        attend = packed_attention if has_flash_attention(query) else attention_outside_graph
        with random_numbers_of_rank(query.device) if dropout else nullcontext():
            out_THC = attend(
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
def random_numbers_of_rank(device: torch.device) -> Iterator[None]:
    """Let each tensor-parallel rank draw different random numbers within a ``with`` block.

    After the block, all ranks draw the same numbers again. Dropout must be equal on all ranks for activations that all
    ranks hold, but not for the heads, which differ.
    """
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1:
        yield
        return
    seed = int(torch.randint(2**62, ()))  # the same on all ranks
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(hash((seed, group.rank())))
        yield


def bias_dropout_add(training: bool, _fused: bool) -> Callable[[tuple[Tensor, Tensor | None], Tensor, float], Tensor]:
    """Return the function that adds a layer's output to the residual, as Megatron's own does, with our dropout."""

    def add(x_with_bias: tuple[Tensor, Tensor | None], residual: Tensor, probability: float) -> Tensor:
        x, bias = x_with_bias
        if bias is not None:
            x = x + bias
        return residual + (dropout(x, probability) if training else x)

    return add


def layer_spec(*, decoder: bool) -> ModuleSpec:
    """Describe a pre-LN layer made of PyTorch's norms, our linear layers and packed attention.

    Parameters
    ----------
    decoder : bool
        Whether self-attention is causal and attention to the encoder follows it.

    Returns
    -------
    ModuleSpec
    """
    cross_attention: dict[str, Any] = dict(
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
            **(cross_attention if decoder else {}),
        ),
    )


def transformer_config(config: ModelConfig, num_layers: int) -> TransformerConfig:
    """Return Megatron's configuration of the encoder or the decoder.

    Parameters
    ----------
    config : ModelConfig
    num_layers : int

    Returns
    -------
    TransformerConfig
    """
    return TransformerConfig(
        num_layers=num_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.ffn_hidden_size,
        num_attention_heads=config.num_attention_heads,
        hidden_dropout=config.hidden_dropout,
        attention_dropout=config.attention_dropout,
        layernorm_epsilon=config.layernorm_epsilon,
        activation_func=partial(F.gelu, approximate="tanh" if config.bias_activation_fusion else "none"),
        bias_activation_fusion=False,  # here the name of a fused kernel, not of a form of GELU
        init_method=init_method_normal(config.init_method_std),
        output_layer_init_method=scaled_init_method_normal(config.init_method_std, config.num_layers),
        embedding_init_method=init_method_normal(config.init_method_std),
        tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
        use_cpu_initialization=True,  # so that initial weights are the same on every device; Lightning moves them
        cuda_graph_scope=[],  # not used; Megatron warns of its own default
    )


class MegatronProtT5(MegatronModule):
    """Embedding, encoder, decoder and head; weights map to :class:`prott5nv.ProtT5` by name.

    Parameters
    ----------
    config : ModelConfig
    recompute : bool
        Keep only each layer's input for the backward pass and compute the rest again: about a third more work for
        several times less memory, and bitwise the same gradients.
    compiled : bool
        Compile the layers with ``torch.compile``, for tensors of constant shapes.
    """

    def __init__(self, config: ModelConfig, *, recompute: bool = False, compiled: bool = False):
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
            skip_weight_param_allocation=True,  # its weight is the word table
        )
        self._max_encoder_length = config.seq_length
        self._max_decoder_length = max_targets(config.seq_length, config.masked_lm_prob)
        for layer in (*self.encoder.layers, *self.decoder.layers):
            if compiled:
                layer.forward = torch.compile(layer.forward, dynamic=False)
            if recompute:  # with PyTorch's function, because Megatron's needs CUDA
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)

    def encode(self, tokens_T: Tensor, packing: Packing) -> Tensor:
        """Run the encoder.

        Parameters
        ----------
        tokens_T : Tensor, shape=(T,), dtype=int64
        packing : Packing
            Of these tokens.

        Returns
        -------
        Tensor, shape=(T, 1, D)
        """
        embedded = self.embedding(tokens_T.unsqueeze(0), packing.positions_T.unsqueeze(0))
        encoded: Tensor = self.encoder(embedded, attention_mask=(packing, packing))
        return encoded

    def decode(self, tokens_S: Tensor, packing: Packing, hidden: Tensor, encoder_packing: Packing) -> Tensor:
        """Run the decoder.

        Parameters
        ----------
        tokens_S : Tensor, shape=(S,), dtype=int64
        packing : Packing
            Of these tokens.
        hidden : Tensor, shape=(T, 1, D)
            Output of the encoder.
        encoder_packing : Packing
            Of the encoder's tokens.

        Returns
        -------
        Tensor, shape=(S, 1, D)
        """
        embedded = self.embedding(tokens_S.unsqueeze(0), packing.positions_T.unsqueeze(0))
        decoded: Tensor = self.decoder(
            embedded,
            attention_mask=(packing, packing),
            context=hidden,
            context_mask=(packing, encoder_packing),
        )
        return decoded

    def forward(self, batch: MicroBatch) -> Tensor:
        """Compute the logits of each target token.

        Parameters
        ----------
        batch : MicroBatch

        Returns
        -------
        Tensor, shape=(S, V)
            This tensor-parallel rank's shard of the vocabulary.
        """
        # Upper limits in place of the lengths of this batch, which the host would have to read from the GPU. They are
        # the same for all batches, so compiled layers are not compiled again.
        encoder_packing = Packing(
            batch["enc_cu_seqlens"], num_tokens=len(batch["enc_tokens"]), max_length=self._max_encoder_length
        )
        decoder_packing = Packing(
            batch["dec_cu_seqlens"], num_tokens=len(batch["dec_tokens"]), max_length=self._max_decoder_length
        )
        hidden = self.encode(batch["enc_tokens"], encoder_packing)
        decoded = self.decode(batch["dec_tokens"], decoder_packing, hidden, encoder_packing)
        logits: Tensor = self.tokens_head(decoded, weight=self.embedding.word_embeddings.weight)[0]
        return logits.squeeze(1)


def _block(config: TransformerConfig, *, decoder: bool) -> TransformerBlock:
    layers = [layer_spec(decoder=decoder)] * config.num_layers
    # Without Transformer Engine, Megatron's default is silently to have no final norm.
    return TransformerBlock(config, TransformerBlockSubmodules(layer_specs=layers, layer_norm=WrappedTorchNorm))
