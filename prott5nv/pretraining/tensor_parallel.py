"""Whole tensors and a tensor-parallel rank's slices of them.

Files hold whole tensors, so a run may go on, and a model be opened, on another number of tensor-parallel ranks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor, nn


def gather_shards(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """Whole tensor of which each tensor-parallel rank has the slice that belongs to its `parameter`."""
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1 or not is_sharded(parameter):
        return tensor
    slices = [torch.empty_like(tensor) for _ in range(group.size())]
    dist.all_gather(slices, tensor.contiguous(), group=group)
    return torch.cat(slices, dim=parameter.partition_dim)


def own_shard(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """This rank's slice of a whole tensor: the inverse of :func:`gather_shards`."""
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1 or not is_sharded(parameter):
        return tensor
    # A copy: a view would keep the whole tensor alive.
    return tensor.chunk(group.size(), dim=parameter.partition_dim)[group.rank()].clone()


def is_sharded(parameter: nn.Parameter) -> bool:
    """Whether each tensor-parallel rank holds a part of this parameter, rather than all of it."""
    return getattr(parameter, "tensor_model_parallel", False)


def change_state(
    state: dict[str, Tensor], parameters: dict[str, nn.Parameter], change: Callable[[Tensor, nn.Parameter], Tensor]
) -> dict[str, Tensor]:
    """A state dict with every parameter's tensor replaced by ``change(tensor, parameter)``."""
    return {**state, **{name: change(state[name], parameter) for name, parameter in parameters.items()}}


def change_optimizer_state(
    state: dict, parameters: list[nn.Parameter], change: Callable[[Tensor, nn.Parameter], Tensor]
) -> dict:
    """An optimizer's state dict with the moments of its `parameters`, in its order, replaced likewise."""
    moments = {
        index: {key: change(value, parameters[index]) if value.ndim else value for key, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": moments}
