"""What several processes must agree on: gradients, their norm, and how Lightning lays the processes out."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only
from megatron.core import parallel_state
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from prott5nv.pretraining.tensor_parallel import is_sharded

BUCKET_NUMEL = 2**25  # elements that travel in one all-reduce


class MegatronStrategy(DDPStrategy):
    """Lightning's launcher and process group round a plain module.

    Gradients of a step are summed once, by the model itself, when all its micro-batches are through; DDP's hooks
    would reduce at every backward pass.
    """

    def configure_ddp(self) -> None:
        pass

    def on_exception(self, exception: BaseException) -> None:
        """Take the processes down that this one started: they would wait for it for ever."""
        if isinstance(self.launcher, _SubprocessScriptLauncher) and not isinstance(exception, SystemExit):
            self.launcher.kill(signal.SIGKILL)
            self.launcher.procs.clear()  # Lightning's watch over them would kill this process too, before it has spoken

    @property
    def distributed_sampler_kwargs(self) -> dict:
        return {
            "num_replicas": parallel_state.get_data_parallel_world_size(),
            "rank": parallel_state.get_data_parallel_rank(),
        }


@rank_zero_only
def say(message: str, **how) -> None:
    """Print, once for all processes."""
    print(message, **how)


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients of all data-parallel ranks, in place."""
    group = parallel_state.get_data_parallel_group()
    if group.size() == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:  # a rank whose share of a small last batch was empty
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


def gather_lists(items: list[Any]) -> list[Any]:
    """The items of all data-parallel ranks, in order of ranks."""
    group = parallel_state.get_data_parallel_group()
    lists: list[list[Any]] = [items] * group.size()
    if group.size() > 1:
        dist.all_gather_object(lists, items, group=group)
    return [item for part in lists for item in part]


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to a total norm; parameters sliced over tensor-parallel ranks count with all their slices.

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
    sliced = [p.grad for p in parameters if p.grad is not None and is_sharded(p)]
    whole = [p.grad for p in parameters if p.grad is not None and not is_sharded(p)]
    square = get_total_norm(sliced) ** 2
    if group.size() > 1:
        dist.all_reduce(square, group=group)
    norm = (square + get_total_norm(whole) ** 2).sqrt()
    if max_norm != float("inf"):
        clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
