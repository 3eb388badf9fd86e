"""Collective operations on gradients, and the Lightning strategy that starts the processes."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from functools import cache

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from megatron.core import parallel_state
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from prott5nv.pretraining.tensor_parallel import is_sharded

BUCKET_NUMEL = 2**25  # elements that one all-reduce sums


class MegatronStrategy(DDPStrategy):
    """Lightning's launcher and process group for a module that is not wrapped in DDP.

    The model sums the gradients of a step once, after all its micro-batches. DDP's hooks would reduce them after every
    backward pass.
    """

    def configure_ddp(self) -> None:
        """Leave the module unwrapped."""

    def on_exception(self, exception: BaseException) -> None:
        """Kill the processes that this one started, because they would wait for its gradients indefinitely."""
        if isinstance(self.launcher, _SubprocessScriptLauncher) and not isinstance(exception, SystemExit):
            self.launcher.kill(signal.SIGKILL)
            # Lightning watches these processes and would kill this one too, before it can report the error.
            self.launcher.procs.clear()

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int]:
        """Arguments for a distributed sampler: the data-parallel ranks, without the tensor-parallel ones."""
        return {
            "num_replicas": parallel_state.get_data_parallel_world_size(),
            "rank": parallel_state.get_data_parallel_rank(),
        }


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients over all data-parallel ranks, in place.

    Parameters
    ----------
    parameters : iterable of Parameter
        The same ones in the same order on every rank.
    """
    group = parallel_state.get_data_parallel_group()
    if group.size() == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:  # a rank that got no protein of a small last batch
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        if sum(grad.numel() for grad in bucket) >= BUCKET_NUMEL:
            _all_reduce(bucket, group)
            bucket = []
    if bucket:
        _all_reduce(bucket, group)


def _all_reduce(grads: list[Tensor], group: dist.ProcessGroup) -> None:
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat, group=group)
    for grad, reduced in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(reduced.view_as(grad))


def sum_on_hosts(values: list[float]) -> list[float]:
    """Sum numbers over all processes without their GPUs, so that no host waits for its GPU.

    All ranks call this together.

    Parameters
    ----------
    values : list of float

    Returns
    -------
    list of float
    """
    if dist.get_world_size() == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total, group=_host_group())
    summed: list[float] = total.tolist()
    return summed


@cache
def _host_group() -> dist.ProcessGroup | None:
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down so that their total norm is at most `max_norm`.

    A parameter that is sharded over tensor-parallel ranks counts with all its shards.

    Parameters
    ----------
    parameters : list of Parameter
    max_norm : float
        Infinity leaves the gradients as they are.

    Returns
    -------
    Tensor, shape=()
        The norm before clipping.
    """
    group = parallel_state.get_tensor_model_parallel_group()
    sharded = [p.grad for p in parameters if p.grad is not None and is_sharded(p)]
    whole = [p.grad for p in parameters if p.grad is not None and not is_sharded(p)]
    squared_norm = get_total_norm(sharded) ** 2
    if group.size() > 1:
        dist.all_reduce(squared_norm, group=group)
    norm = (squared_norm + get_total_norm(whole) ** 2).sqrt()
    if max_norm != float("inf"):
        clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
