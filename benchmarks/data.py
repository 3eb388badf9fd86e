"""Measure what it costs to feed pretraining: the record index, random access, span corruption and the data loader.

    python benchmarks/data.py                      # 500,000 generated records
    python benchmarks/data.py --records 5000000

The generated CSV files have the layout that ``prott5nv prepare uniref50`` writes. Their lengths are log-normal with a
mean of 258 residues; the proteins of UniRef50 with up to 512 residues have a mean of 250.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import AMINO_ACIDS, argument_parser, peak_mib

from prott5nv.data.corruption import corrupt_spans
from prott5nv.data.dataset import GlobalBatchSampler, PretrainingDataset
from prott5nv.data.memmap import CSVDataset

GLOBAL_BATCH_SIZE = 2688  # that of the original ProtT5nv
FILES = 50
NAMES = f"x[000..{FILES - 1:03d}]"


def identity(item: Any) -> Any:
    """Collate nothing: the dataset returns complete batches."""
    return item


def write_csv(folder: Path, num_records: int) -> tuple[int, int]:
    """Generate the records and return how many bytes and residues were written."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(AMINO_ACIDS.encode(), dtype=np.uint8)
    text = letters[rng.integers(0, 20, size=1 << 24, dtype=np.uint8)].tobytes().decode()
    folder.mkdir()
    num_bytes = num_residues = record = 0
    for number, count in enumerate(np.diff(np.linspace(0, num_records, FILES + 1).astype(int))):
        lengths = np.exp(rng.normal(np.log(230), 0.6, size=count)).astype(int).clip(30, 512)
        starts = rng.integers(0, len(text) - 512, size=count)
        with open(folder / f"x{number:03d}.csv", "w") as file:
            file.write("record_id,record_name,sequence_length,sequence\n")
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                file.write(f"{record},UniRef50_A0A{record:07d},{length},{text[start : start + length]}\n")
                record += 1
            num_bytes += file.tell()
        num_residues += int(lengths.sum())
    return num_bytes, num_residues


def measure_index(folder: str, num_bytes: int) -> CSVDataset:
    """Build the index, open it again, and read random records."""
    memory_before = peak_mib()
    start = time.perf_counter()
    records = CSVDataset(folder, "train", NAMES)
    seconds = time.perf_counter() - start
    index_bytes = sum(path.stat().st_size for path in Path(folder).glob("train/*.idx"))
    rate = f"{num_bytes / seconds / 1e6:10,.0f} MB/s, {len(records) / seconds / 1e6:.1f}M records/s"
    print(f"index built          {rate}, peak memory {peak_mib() - memory_before:+.0f} MiB")
    print(f"index size           {index_bytes / len(records):10.2f} bytes per record")

    start = time.perf_counter()
    records = CSVDataset(folder, "train", NAMES)
    print(f"index opened again   {(time.perf_counter() - start) * 1e3:10.1f} ms")

    chosen = np.random.default_rng(1).integers(0, len(records), size=100_000).tolist()
    start = time.perf_counter()
    for record in chosen:
        records[record]
    print(f"random access        {len(chosen) / (time.perf_counter() - start):10,.0f} records/s")
    return records


def measure_corruption(records: CSVDataset, steps: int) -> None:
    """Corrupt spans of random tokens that have the lengths of one global batch."""
    [batch] = PretrainingDataset(records, seed=1).__getitems__(range(GLOBAL_BATCH_SIZE))
    cu_seqlens_B1 = batch["enc_cu_seqlens"].numpy()
    tokens_T = np.random.default_rng(2).integers(5, 25, size=cu_seqlens_B1[-1])
    start = time.perf_counter()
    for step in range(steps):
        corrupt_spans(tokens_T, cu_seqlens_B1, np.arange(GLOBAL_BATCH_SIZE) + step * GLOBAL_BATCH_SIZE, seed=1)
    seconds = time.perf_counter() - start
    print(f"span corruption      {steps * len(tokens_T) / seconds / 1e6:10.1f}M residues/s")


def measure_loader(records: CSVDataset, steps: int) -> None:
    """Load global batches in one worker process."""
    dataset = PretrainingDataset(records, seed=1, tokens_per_micro_batch=16384)
    sampler = GlobalBatchSampler(GLOBAL_BATCH_SIZE)
    batches = iter(torch.utils.data.DataLoader(dataset, batch_sampler=sampler, collate_fn=identity, num_workers=1))
    next(batches)  # the start of the worker process is not measured
    residues = 0
    start = time.perf_counter()
    for _ in range(steps):
        residues += sum(len(batch["enc_tokens"]) for batch in next(batches))
    print(f"loader, one worker   {residues / (time.perf_counter() - start) / 1e6:10.1f}M residues/s")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--records", type=int, default=500_000, help="Number of generated records.")
    parser.add_argument("--steps", type=int, default=20, help="Number of optimizer steps to load.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # A process of its own generates the files, so that its memory does not count as the index's.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            num_bytes, num_residues = pool.apply(write_csv, (Path(folder) / "train", arguments.records))
        print(f"{arguments.records:,} records, {num_residues:,} residues, {num_bytes / 1e6:.0f} MB in {FILES} files")
        records = measure_index(folder, num_bytes)
        measure_corruption(records, arguments.steps)
        measure_loader(records, arguments.steps)


if __name__ == "__main__":
    main()
