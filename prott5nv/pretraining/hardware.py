"""Choices that depend on the machine: the size of micro-batches, the number of loader workers, and compilation."""

from __future__ import annotations

import logging
import os

import torch

from prott5nv.data.corruption import max_targets
from prott5nv.model.config import ModelConfig
from prott5nv.model.device import can_compile

logger = logging.getLogger(__name__)

#: Tokens of the encoder and the decoder with which one H200 was measured at the width of the full-size model. More only
#: take more memory.
MEASURED_TOKENS = 86_016
#: The most tokens that were measured, with a model of width 448.
MOST_MEASURED_TOKENS = 252_781
#: Steps from which a run takes long enough to compile its layers first.
STEPS_TO_COMPILE = 1000

_USABLE = 0.6  # fraction of the memory beside weights and optimizer; the rest is for temporary tensors and gaps
_BYTES_PER_PARAMETER = 18  # fp32 weight, gradient and two moments, and a bf16 copy of the weight
# On a CPU, 4,096 rows fill the matmuls of a large model. Small models gain from fewer, larger micro-batches.
_CPU_BYTES, _CPU_TOKENS = 1.7e9, (4096, 12288)
_RESIDUES_PER_PROTEIN = 250  # mean length in UniRef50, of proteins of up to 512 residues


def bytes_per_token(config: ModelConfig, *, precision: str, recompute: bool, tensor_parallel: int = 1) -> float:
    """Estimate the memory of the activations that the backward pass needs, per encoder or decoder token.

    Parameters
    ----------
    config : ModelConfig
    precision : str
        Lightning's name: ``32``, ``bf16-mixed`` or ``16-mixed``. Norms and the residual stream are always in fp32.
    recompute : bool
        Whether layers keep only their input.
    tensor_parallel : int, default 1
        Number of ranks over which each layer is sharded.

    Returns
    -------
    float
        Bytes per token, averaged over encoder and decoder tokens.
    """
    d, f, heads = config.hidden_size, config.ffn_hidden_size, config.num_attention_heads
    value = 2 if precision.endswith("mixed") else 4
    # The inputs of two norms, their outputs and two dropout masks are whole on each rank. Query, key, value, the output
    # of attention, its normalizer, and both activations of the feed-forward network are sharded.
    layer = 2 * (4 + value + 1) * d + (4 * value * d + 4 * heads + 2 * value * f) / tensor_parallel
    cross_attention = (4 + value + 1) * d + (2 * value * d + 4 * heads) / tensor_parallel
    cross_keys = value * d + 2 * value * d / tensor_parallel  # of each encoder token, in each decoder layer
    encoder_layers, decoder_layers = config.layers_per_stack["encoder"], config.layers_per_stack["decoder"]
    if recompute:  # the inputs of all layers, and the activations of the one that is computed again
        encoder = 4 * d * encoder_layers + layer
        decoder = 4 * d * decoder_layers + layer + cross_attention
    else:
        encoder = layer * encoder_layers + cross_keys * decoder_layers
        decoder = (layer + cross_attention) * decoder_layers
    decoder += 20 * config.padded_vocab_size / tensor_parallel  # the logits, their fp32 copies and gradients
    targets = 2 * config.masked_lm_prob + 1 / _RESIDUES_PER_PROTEIN  # decoder tokens per encoder token
    return (encoder + targets * decoder) / (1 + targets)


def micro_batch_tokens(
    config: ModelConfig, available_bytes: float, *, precision: str, recompute: bool, tensor_parallel: int = 1
) -> int:
    """Return the number of encoder and decoder tokens of a micro-batch that a GPU can hold.

    Parameters
    ----------
    config : ModelConfig
    available_bytes : float
        Memory of the GPU that this process can use, including that of the weights and the optimizer.
    precision, recompute, tensor_parallel
        As for :func:`bytes_per_token`.

    Returns
    -------
    int
        At most as many as give a large GPU enough operations between two kernels, which is `MEASURED_TOKENS` for the
        full-size model and more for narrower ones, up to `MOST_MEASURED_TOKENS`; and at least the tokens of the longest
        protein.

    Examples
    --------
    >>> [micro_batch_tokens(ModelConfig(), gb * 1e9, precision="bf16-mixed", recompute=False) for gb in (140, 24)]
    [86016, 29340]
    """
    weights_and_optimizer = _BYTES_PER_PARAMETER * config.num_parameters / tensor_parallel
    usable = _USABLE * (available_bytes - weights_and_optimizer)
    tokens = usable / bytes_per_token(config, precision=precision, recompute=recompute, tensor_parallel=tensor_parallel)
    longest = config.seq_length + max_targets(config.seq_length, config.masked_lm_prob)
    most = MEASURED_TOKENS * (ModelConfig().hidden_size / config.hidden_size) ** 2
    return max(longest, min(int(most), MOST_MEASURED_TOKENS, int(tokens)))


def choose_micro_batch_tokens(
    config: ModelConfig, device: torch.device, *, precision: str, recompute: bool, tensor_parallel: int = 1
) -> int:
    """Choose the number of encoder and decoder tokens of a micro-batch for this machine, and log it.

    Parameters
    ----------
    config : ModelConfig
    device : torch.device
    precision, recompute, tensor_parallel
        As for :func:`bytes_per_token`.

    Returns
    -------
    int
        On a GPU, as many as its free memory can hold. Elsewhere, a number that depends on the model only.
    """
    if device.type == "cuda":
        # Memory that PyTorch has reserved in this process is available to it.
        available = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        tokens = micro_batch_tokens(
            config, available, precision=precision, recompute=recompute, tensor_parallel=tensor_parallel
        )
        reason = f"{available / 1e9:.0f} GB of GPU memory"
    else:
        per_token = bytes_per_token(config, precision=precision, recompute=recompute, tensor_parallel=tensor_parallel)
        fewest, most = _CPU_TOKENS
        tokens = max(fewest, min(most, int(_CPU_BYTES / per_token)))
        reason = f"{config.num_parameters:,} parameters"
    logger.info(
        "micro-batches: at most %s tokens (%s; model.data.tokens_per_micro_batch= changes it)", f"{tokens:,}", reason
    )
    return tokens


def choose_num_workers(device: torch.device, processes: int) -> int:
    """Choose the number of processes that prepare the data of a rank.

    One process prepares about a million residues per second, which is enough except on GPUs.

    Parameters
    ----------
    device : torch.device
    processes : int
        Number of ranks on this machine, which share its CPU cores.

    Returns
    -------
    int
        One, or for a GPU up to four, as far as there are CPU cores beside those of the ranks.
    """
    if device.type != "cuda":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, cores // processes - 1))


def choose_compile(choice: bool | str, device: torch.device, precision: str, steps: int) -> bool:
    """Choose whether to compile the layers.

    Parameters
    ----------
    choice : bool or "auto"
        Value of ``trainer.compile``. ``auto`` compiles long runs in bf16 if
        :func:`prott5nv.model.device.can_compile`.
    device : torch.device
    precision : str
        Lightning's name of the precision.
    steps : int
        Number of steps of the run.

    Returns
    -------
    bool
    """
    if choice != "auto":
        return bool(choice)
    return precision == "bf16-mixed" and steps >= STEPS_TO_COMPILE and can_compile(device)
