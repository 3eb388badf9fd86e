"""Builds the micro-batches of an optimizer step from records, with the same samples on any number of ranks.

An epoch has N records. Sample n is position ``n mod N`` of epoch ``n div N``. A seeded permutation of the epoch maps
the position to a record, and the seed and n determine the corruption. Step s takes the G samples from
``s * G`` on, where G is the number of proteins in a global batch. Everything follows from the sample number, so the
step is the only state to save.

Shapes: B proteins, T packed tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from prott5nv.data.corruption import CROP, SHUFFLE, corrupt_spans, hash64, sample_keys
from prott5nv.data.memmap import CSVDataset
from prott5nv.data.micro_batch import BatchShape, MicroBatch, cut_micro_batches
from prott5nv.model.tokenizer import NUM_SENTINELS, ProteinTokenizer

_ROUNDS = 4


def shuffled_records(sample_numbers: np.ndarray, num_records: int, seed: int) -> np.ndarray:
    """Return the records of samples, where every epoch visits all records in its own order.

    A Feistel network computes the order. It permutes the numbers below a power of two that is at least the number of
    records. A result beyond the last record is permuted again until it is a record (cycle walking). The permutation can
    have any size, and it takes no memory.

    Parameters
    ----------
    sample_numbers : ndarray, shape=(B,), dtype=int64
    num_records : int
    seed : int

    Returns
    -------
    ndarray, shape=(B,), dtype=int64
        Records from 0 to `num_records` - 1, each once per epoch.

    Examples
    --------
    >>> order = shuffled_records(np.arange(20), 10, seed=1)
    >>> sorted(order[:10].tolist()) == sorted(order[10:].tolist()) == list(range(10))
    True
    """
    epoch, position = np.divmod(np.asarray(sample_numbers, dtype=np.int64), num_records)
    key = sample_keys(seed, epoch, SHUFFLE)
    record = _permute(position.astype(np.uint64), key, num_records)
    while (outside := np.flatnonzero(record >= num_records)).size:
        record[outside] = _permute(record[outside], key[outside], num_records)
    return record.astype(np.int64)


def _permute(value: np.ndarray, key: np.ndarray, num_records: int) -> np.ndarray:
    bits = max(2, (num_records - 1).bit_length())
    low_bits, high_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    one = np.uint64(1)
    low, high = value & ((one << low_bits) - one), value >> low_bits
    for round_number in range(_ROUNDS):
        # A hash of one half changes the other half, so each round can be undone. It is therefore a permutation.
        high = high ^ (hash64(hash64(key + np.uint64(2 * round_number)) ^ low) & ((one << high_bits) - one))
        low = low ^ (hash64(hash64(key + np.uint64(2 * round_number + 1)) ^ high) & ((one << low_bits) - one))
    return (high << low_bits) | low


class GlobalBatchSampler:
    """Yields the sample numbers of one rank, one list for each optimizer step.

    Parameters
    ----------
    global_batch_size : int
        Proteins per step, over all ranks.
    rank, world_size : int
        Data-parallel rank, and the number of them. Each rank takes a contiguous part of the global batch. The sizes of
        the parts differ by at most one, and a part of the last global batch may be empty.
    start_step : int, default 0
        First step to yield: the number of steps already taken.
    num_samples : int, optional
        Number of samples after which to stop; the last global batch may be smaller. Without it, the sampler yields one
        epoch after another without end, and has no length.

    Examples
    --------
    >>> list(GlobalBatchSampler(4, rank=1, world_size=2, num_samples=7))
    [[2, 3], [5, 6]]
    """

    def __init__(
        self,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        num_samples: int | None = None,
    ):
        self.global_batch_size = global_batch_size
        self.rank = rank
        self.world_size = world_size
        self.start_step = start_step
        self.num_samples = num_samples

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start_step
        while (first := step * self.global_batch_size) != (stop := self._stop(first)):
            size = stop - first
            start, end = (first + size * rank // self.world_size for rank in (self.rank, self.rank + 1))
            yield list(range(start, end))
            step += 1

    def _stop(self, first: int) -> int:
        stop = first + self.global_batch_size
        return stop if self.num_samples is None else max(first, min(stop, self.num_samples))

    def __len__(self) -> int:
        if self.num_samples is None:
            raise TypeError("the stream of training samples has no end")
        return max(0, -(-self.num_samples // self.global_batch_size) - self.start_step)


class PretrainingDataset(torch.utils.data.Dataset):
    """Maps the sample numbers of an optimizer step to its micro-batches of corrupted, packed proteins.

    Use it as ``DataLoader(dataset, batch_sampler=GlobalBatchSampler(...), collate_fn=unchanged)``, where ``unchanged``
    returns its argument. An item of the loader is then the list of a rank's micro-batches for one step.

    Parameters
    ----------
    records : CSVDataset
    seed : int
    seq_length : int
        Maximum number of residues. A longer protein is cut to its first `seq_length` residues.
    micro_batch_size, tokens_per_micro_batch, batch_shape
        Limits of a micro-batch: `max_proteins`, `max_tokens` and `shape` of
        :func:`~prott5nv.data.micro_batch.cut_micro_batches`.
    shuffle : bool, default True
        Whether each epoch has its own order, as in training; otherwise records keep the order of the files.
    random_crop : bool, default False
        Whether to cut a longer protein to a random window, which changes in each epoch, instead of to its start.
    masked_lm_prob, num_sentinels, mean_span_length
        As for `corrupt_spans`.
    """

    def __init__(
        self,
        records: CSVDataset,
        seed: int,
        *,
        seq_length: int = 512,
        micro_batch_size: int | None = None,
        tokens_per_micro_batch: int | None = None,
        batch_shape: BatchShape | None = None,
        shuffle: bool = True,
        random_crop: bool = False,
        masked_lm_prob: float = 0.15,
        num_sentinels: int = NUM_SENTINELS,
        mean_span_length: float = 1.0,
    ):
        self.records = records
        self.seed = seed
        self.seq_length = seq_length
        self.micro_batch_size = micro_batch_size
        self.tokens_per_micro_batch = tokens_per_micro_batch
        self.batch_shape = batch_shape
        self.shuffle = shuffle
        self.random_crop = random_crop
        self.corruption: dict[str, Any] = {
            "masked_lm_prob": masked_lm_prob,
            "num_sentinels": num_sentinels,
            "mean_span_length": mean_span_length,
        }
        self.tokenizer = ProteinTokenizer()

    def __len__(self) -> int:
        """Return the number of records, which is the number of samples in an epoch."""
        return len(self.records)

    def __getitem__(self, sample_number: int) -> MicroBatch:
        """Return the micro-batch that holds one sample."""
        return self.__getitems__([sample_number])[0]

    def __getitems__(self, sample_numbers: Sequence[int]) -> list[MicroBatch]:
        """Return the micro-batches of these samples, in order; an empty list for no samples."""
        numbers = np.asarray(sample_numbers, dtype=np.int64)
        rows = [self.records.row(record) for record in self._records_of(numbers)]
        names, sequences = [name for name, _ in rows], self._cropped([sequence for _, sequence in rows], numbers)
        tokens_T, cu_seqlens_B1 = self.tokenizer.encode_batch(sequences, names)
        batch = corrupt_spans(tokens_T, cu_seqlens_B1, numbers, self.seed, **self.corruption)
        return cut_micro_batches(
            batch,
            numbers,
            max_proteins=self.micro_batch_size,
            max_tokens=self.tokens_per_micro_batch,
            shape=self.batch_shape,
        )

    def record_names(self, sample_numbers: Sequence[int]) -> list[str]:
        """Return the names of the records of these samples."""
        numbers = np.asarray(sample_numbers, dtype=np.int64)
        return [self.records.record_name(record) for record in self._records_of(numbers)]

    def _records_of(self, numbers: np.ndarray) -> list[int]:
        if self.shuffle:
            return shuffled_records(numbers, len(self), self.seed).tolist()
        return (numbers % len(self)).tolist()

    def _cropped(self, sequences: list[str], numbers: np.ndarray) -> list[str]:
        if not self.random_crop:
            return [sequence[: self.seq_length] for sequence in sequences]
        choices = [max(1, len(sequence) - self.seq_length + 1) for sequence in sequences]
        starts = (sample_keys(self.seed, numbers, CROP) % np.array(choices, dtype=np.uint64)).tolist()
        return [sequence[start : start + self.seq_length] for sequence, start in zip(sequences, starts, strict=True)]
