"""Conversion between whole tensors and the shards of a tensor-parallel rank.

Files hold whole tensors. A run can therefore resume, and a model can be loaded, with another number of tensor-parallel
ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor, nn


def gather_shards(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return a whole tensor, from the shards of all tensor-parallel ranks.

    Parameters
    ----------
    tensor : Tensor
        This rank's shard: the parameter itself, its gradient or a moment of it.
    parameter : Parameter
        The parameter that `tensor` belongs to. If it is not sharded, `tensor` is returned.

    Returns
    -------
    Tensor
    """
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1 or not is_sharded(parameter):
        return tensor
    shards = [torch.empty_like(tensor) for _ in range(group.size())]
    dist.all_gather(shards, tensor.contiguous(), group=group)
    return torch.cat(shards, dim=_sharded_dim(parameter))


def own_shard(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return this rank's shard of a whole tensor: the inverse of :func:`gather_shards`.

    Parameters
    ----------
    tensor : Tensor
    parameter : Parameter
        The parameter that `tensor` belongs to. If it is not sharded, `tensor` is returned.

    Returns
    -------
    Tensor
    """
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1 or not is_sharded(parameter):
        return tensor
    # A copy, because a view would keep the whole tensor in memory.
    return tensor.chunk(group.size(), dim=_sharded_dim(parameter))[group.rank()].clone()


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return the shape of a parameter with the shards of all tensor-parallel ranks."""
    shape = list(parameter.shape)
    if is_sharded(parameter):
        shape[_sharded_dim(parameter)] *= parallel_state.get_tensor_model_parallel_group().size()
    return tuple(shape)


def is_sharded(parameter: nn.Parameter) -> bool:
    """Return whether each tensor-parallel rank holds only a shard of this parameter."""
    return bool(getattr(parameter, "tensor_model_parallel", False))


def _sharded_dim(parameter: nn.Parameter) -> int:
    return int(getattr(parameter, "partition_dim"))  # noqa: B009 (Megatron sets it, so type checkers do not know it)


def map_state(
    state: dict[str, Tensor], parameters: dict[str, nn.Parameter], function: Callable[[Tensor, nn.Parameter], Tensor]
) -> dict[str, Tensor]:
    """Return a state dict in which ``function(tensor, parameter)`` replaces the tensor of every parameter."""
    return {**state, **{name: function(state[name], parameter) for name, parameter in parameters.items()}}


def map_optimizer_state(
    state: dict[str, Any], parameters: list[nn.Parameter], function: Callable[[Tensor, nn.Parameter], Tensor]
) -> dict[str, Any]:
    """Return an optimizer's state dict in which ``function(moment, parameter)`` replaces every moment.

    Parameters
    ----------
    state : dict
    parameters : list of Parameter
        The optimizer's parameters, in its order.
    function : callable

    Returns
    -------
    dict
    """
    moments = {
        index: {
            key: function(value, parameters[index]) if isinstance(value, Tensor) and value.ndim else value
            for key, value in values.items()
        }
        for index, values in state["state"].items()
    }
    return {**state, "state": moments}
