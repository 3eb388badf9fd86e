"""Keys of NeMo 1.x's ``model_config.yaml`` whose values are the same for every ProtT5nv model."""

from __future__ import annotations

from typing import Any

# A file with other values describes another architecture, whose weights would give wrong results here.
ARCHITECTURE: dict[str, Any] = {
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

# All other keys that NeMo 1.x reads when it builds the model from our file, with the values of BioNeMo v1.
DEFAULTS: dict[str, Any] = {
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
    **{key: value for key, value in ARCHITECTURE.items() if key != "tokens_head_bias"},
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
    "nemo_version": "1.20.0",  # the NeMo version whose file layout we write
}
