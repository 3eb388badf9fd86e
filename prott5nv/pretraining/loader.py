"""Data loaders whose batches are optimizer steps, and which report an error on all ranks alike."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from omegaconf import DictConfig
from torch.utils.data import DataLoader, Dataset

from prott5nv.data.corruption import max_targets
from prott5nv.data.dataset import GlobalBatchSampler, PretrainingDataset
from prott5nv.data.memmap import CSVDataset
from prott5nv.data.micro_batch import BatchShape, MicroBatch, PackedStep, choose_shape
from prott5nv.errors import ProtT5nvError
from prott5nv.io.text import counted
from prott5nv.model.config import ModelConfig

logger = logging.getLogger(__name__)

_MEASURED_SAMPLES = 2048  # whose lengths decide the constant size of micro-batches

_Item = TypeVar("_Item")


class StepLoader(DataLoader):
    """A loader whose batches are lists of micro-batches, or the error that reading them raised."""

    def __iter__(self) -> Iterator[list[MicroBatch] | ProtT5nvError]:  # type: ignore[override]
        """Yield the steps."""
        for step in super().__iter__():
            yield step.micro_batches() if isinstance(step, PackedStep) else step


class StepDataset(Dataset):
    """Optimizer steps of one rank. An error in the data is returned as a value instead of raised.

    If one rank raised the error alone, the others would wait for its gradients. An exception from a worker process
    would also carry the traceback of that process.

    Parameters
    ----------
    samples : PretrainingDataset
    """

    def __init__(self, samples: PretrainingDataset):
        self.samples = samples

    def __getitems__(self, sample_numbers: Sequence[int]) -> list[MicroBatch] | ProtT5nvError:
        """Return the micro-batches of these samples, or the error that reading them raised."""
        try:
            return self.samples.__getitems__(sample_numbers)
        except ProtT5nvError as error:
            return error


def split_dataset(
    cfg: DictConfig, config: ModelConfig, split: str, *, shuffle: bool, random_crop: bool
) -> PretrainingDataset:
    """Open a split of the training data.

    Parameters
    ----------
    cfg : DictConfig
        The ``model`` section of the configuration.
    config : ModelConfig
        The architecture, with the maximum length and the masked fraction.
    split : {"train", "val", "test"}
    shuffle, random_crop : bool
        As for :class:`~prott5nv.data.dataset.PretrainingDataset`.

    Returns
    -------
    PretrainingDataset

    Raises
    ------
    ProtT5nvError
        If a file is missing or not valid.
    """
    data = cfg.data
    return PretrainingDataset(
        CSVDataset(data.dataset_path, split, data.dataset[split]),
        seed=cfg.seed,
        seq_length=config.seq_length,
        micro_batch_size=cfg.get("micro_batch_size"),
        tokens_per_micro_batch=data.get("tokens_per_micro_batch"),
        shuffle=shuffle,
        random_crop=random_crop,
        masked_lm_prob=config.masked_lm_prob,
        num_sentinels=config.num_sentinel_tokens,
        mean_span_length=float(data.get("mean_span_length", 1.0)),
    )


def constant_shape(samples: PretrainingDataset, proteins: int, config: ModelConfig) -> BatchShape:
    """Choose the constant size of the micro-batches of a split from its first samples, and log it.

    Parameters
    ----------
    samples : PretrainingDataset
        With a limit of its micro-batches, which is kept approximately.
    proteins : int
        Number of proteins of a rank in a step.
    config : ModelConfig

    Returns
    -------
    BatchShape
    """
    micro_batches = samples.__getitems__(range(min(len(samples), _MEASURED_SAMPLES)))
    lengths_B2 = np.concatenate([batch["lengths"] for batch in micro_batches])
    max_tokens = samples.tokens_per_micro_batch
    if max_tokens is None:
        max_tokens = int((samples.micro_batch_size or proteins) * lengths_B2.sum() / len(lengths_B2))
    longest = config.seq_length, max_targets(config.seq_length, config.masked_lm_prob)
    shape = choose_shape(lengths_B2, proteins, max_tokens, *longest)
    logger.info(
        "micro-batches of constant size: %s encoder and %s decoder tokens",
        f"{shape.encoder_tokens:,}",
        f"{shape.decoder_tokens:,}",
    )
    return shape


def step_loader(
    samples: PretrainingDataset,
    global_batch_size: int,
    num_workers: int,
    *,
    device: torch.device,
    start_step: int = 0,
    num_samples: int | None = None,
) -> StepLoader:
    """Build the loader of this data-parallel rank's part of each optimizer step.

    Parameters
    ----------
    samples : PretrainingDataset
    global_batch_size : int
        Proteins per step, over all ranks.
    num_workers : int
        Number of processes that read and mask the proteins.
    device : torch.device
        Device that will compute. For a GPU, batches are in pinned memory, from which copies overlap with computation.
    start_step, num_samples
        As for :class:`~prott5nv.data.dataset.GlobalBatchSampler`.

    Returns
    -------
    StepLoader
    """
    sampler = GlobalBatchSampler(
        global_batch_size,
        rank=parallel_state.get_data_parallel_rank(),
        world_size=parallel_state.get_data_parallel_world_size(),
        start_step=start_step,
        num_samples=num_samples,
    )
    return StepLoader(
        StepDataset(samples),
        batch_sampler=sampler,
        collate_fn=_packed,
        num_workers=num_workers,
        worker_init_fn=_ignore_signals,
        persistent_workers=num_workers > 0,
        pin_memory=device.type == "cuda",
    )


def check_records(samples: PretrainingDataset, split: str) -> None:
    """Check all records of a split before they are used, and log the rate. All ranks call this together.

    Each rank checks a part of the records, and an error of one is raised on every rank. There is a warning if random
    windows are asked for, but all records fit the model.

    Parameters
    ----------
    samples : PretrainingDataset
        Samples of the records.
    split : {"train", "val", "test"}
        Name of the split in the log.

    Raises
    ------
    ProtT5nvError
        If a record cannot be used. The message names file and line.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    started = time.monotonic()
    records, error = samples.records, None
    residues = longest = 0
    try:
        residues, longest = records.check(len(records) * rank // size, len(records) * (rank + 1) // size)
    except ProtT5nvError as caught:
        error = caught
    raise_together(error)
    longest = max(_from_all_ranks(longest))
    if rank == 0:
        rate = residues / max(time.monotonic() - started, 1e-6)
        number = counted(len(records), "record")
        logger.info("checked %s of %s: %s residues/s on each rank", number, split, f"{rate:,.0f}")
        if samples.random_crop and longest <= samples.seq_length:
            logger.warning(
                "model.data.random_crop=true changes nothing: the longest protein of %s has %d residues, and the model "
                "takes %d; prott5nv prepare uniref50 --max-length N keeps longer ones",
                split,
                longest,
                samples.seq_length,
            )


def raise_together(error: ProtT5nvError | None) -> None:
    """Raise the first error of any rank on every rank; all ranks call this together.

    Parameters
    ----------
    error : ProtT5nvError, optional
        The error of this rank.
    """
    for each in _from_all_ranks(error):
        if each is not None:
            raise each


def _from_all_ranks(value: _Item) -> list[_Item]:
    values = [value] * dist.get_world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def _ignore_signals(worker: int) -> None:
    """Let a worker live on when a signal reaches the whole process group, since the last step needs its samples."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """End the workers that are left after an error. They ignore SIGTERM, so Python would wait for them forever."""
    if workers := multiprocessing.active_children():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch would report that a worker was killed.
        for worker in workers:
            worker.kill()


def _packed(step: list[MicroBatch] | ProtT5nvError) -> PackedStep | list[MicroBatch] | ProtT5nvError:
    """Pack a step, unless it is an error, or has no protein for this rank."""
    return PackedStep.of(step) if isinstance(step, list) and step else step
