"""From a dataset to a loader of optimizer steps whose mistakes stop all ranks alike."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.utils.data import DataLoader, Dataset

from prott5nv.data.dataset import GlobalBatchSampler, PretrainingDataset
from prott5nv.errors import ProtT5nvError


class StepDataset(Dataset):
    """Optimizer steps of one rank; a mistake in the data comes out as a value.

    A rank that raised alone would leave the others waiting for its gradients, and an exception out of a worker
    process would carry that worker's traceback.
    """

    def __init__(self, samples: PretrainingDataset):
        self.samples = samples

    def __getitems__(self, sample_numbers: Sequence[int]) -> list[dict[str, torch.Tensor]] | ProtT5nvError:
        try:
            return self.samples.__getitems__(sample_numbers)
        except ProtT5nvError as error:
            return error


def step_loader(samples: PretrainingDataset, global_batch_size: int, num_workers: int, **stream: int) -> DataLoader:
    """Loader of this data-parallel rank's share of each optimizer step.

    Parameters
    ----------
    samples : PretrainingDataset
    global_batch_size : int
        Proteins a step, all ranks together.
    num_workers : int
    **stream
        ``start_step`` or ``num_samples``, as :class:`~prott5nv.data.dataset.GlobalBatchSampler` takes them.
    """
    sampler = GlobalBatchSampler(
        global_batch_size,
        rank=parallel_state.get_data_parallel_rank(),
        world_size=parallel_state.get_data_parallel_world_size(),
        **stream,
    )
    return DataLoader(
        StepDataset(samples),
        batch_sampler=sampler,
        collate_fn=_same,
        num_workers=num_workers,
        worker_init_fn=_leave_signals_to_the_trainer,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def raise_together(error: ProtT5nvError | None) -> None:
    """Raise on every rank the first mistake that any of them met; each must call this at the same place."""
    errors: list[ProtT5nvError | None] = [error]
    if dist.get_world_size() > 1:
        errors = [None] * dist.get_world_size()
        dist.all_gather_object(errors, error)
    for met in errors:
        if met is not None:
            raise met


def _leave_signals_to_the_trainer(worker: int) -> None:
    """A signal to the whole group must not take away the workers that the last step needs."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)


def _same(item):
    return item
