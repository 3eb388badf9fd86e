"""What feeding pretraining costs: index, random access, corruption, loader.

    python benchmarks/data.py                      # 500,000 generated records
    python benchmarks/data.py --records 5000000

Lengths are log-normal, 258 residues on average (UniRef50's proteins of up to 512: 250).
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from prott5nv.data.corruption import corrupt_spans
from prott5nv.data.dataset import CSVDataset, GlobalBatchSampler, PretrainingDataset
from prott5nv.model.tokenizer import RESIDUES

GLOBAL_BATCH_SIZE = 2688  # the original run's
FILES = 50


def same(item):
    return item


def write_csv(folder: Path, num_records: int) -> tuple[int, int]:
    """Generate the records; bytes and residues written."""
    random = np.random.default_rng(0)
    letters = np.frombuffer(RESIDUES[:20].encode(), dtype=np.uint8)
    text = letters[random.integers(0, 20, size=1 << 24, dtype=np.uint8)].tobytes().decode()
    folder.mkdir()
    num_bytes = num_residues = record = 0
    for number, count in enumerate(np.diff(np.linspace(0, num_records, FILES + 1).astype(int))):
        lengths = np.exp(random.normal(np.log(230), 0.6, size=count)).astype(int).clip(30, 512)
        starts = random.integers(0, len(text) - 512, size=count)
        with open(folder / f"x{number:03d}.csv", "w") as file:
            file.write("record_id,record_name,sequence_length,sequence\n")
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                file.write(f"{record},UniRef50_A0A{record:07d},{length},{text[start : start + length]}\n")
                record += 1
            num_bytes += file.tell()
        num_residues += int(lengths.sum())
    return num_bytes, num_residues


def peak_memory() -> float:
    """MB, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=500_000)
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps to load")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # its memory is not the index's
            num_bytes, num_residues = pool.apply(write_csv, (Path(folder) / "train", arguments.records))
        print(f"{arguments.records:,} records, {num_residues:,} residues, {num_bytes / 1e6:.0f} MB in {FILES} files")

        before = peak_memory()
        start = time.perf_counter()
        records = CSVDataset(folder, "train", f"x[000..{FILES - 1:03d}]")
        seconds = time.perf_counter() - start
        index_bytes = sum(path.stat().st_size for path in Path(folder).glob("train/*.idx"))
        rate = f"{num_bytes / seconds / 1e6:10,.0f} MB/s, {len(records) / seconds / 1e6:.1f}M records/s"
        print(f"index built          {rate}, peak memory {peak_memory() - before:+.0f} MB")
        print(f"index size           {index_bytes / len(records):10.2f} bytes a record")

        start = time.perf_counter()
        records = CSVDataset(folder, "train", f"x[000..{FILES - 1:03d}]")
        print(f"opened again         {(time.perf_counter() - start) * 1e3:10.1f} ms")

        wanted = np.random.default_rng(1).integers(0, len(records), size=100_000).tolist()
        start = time.perf_counter()
        for record in wanted:
            records[record]
        print(f"random access        {len(wanted) / (time.perf_counter() - start):10,.0f} records/s")

        [batch] = PretrainingDataset(records, seed=1).__getitems__(range(GLOBAL_BATCH_SIZE))
        cu_seqlens = batch["enc_cu_seqlens"].numpy()
        tokens = np.random.default_rng(2).integers(5, 25, size=cu_seqlens[-1])
        start = time.perf_counter()
        for step in range(arguments.steps):
            corrupt_spans(tokens, cu_seqlens, np.arange(GLOBAL_BATCH_SIZE) + step * GLOBAL_BATCH_SIZE, seed=1)
        seconds = time.perf_counter() - start
        print(f"span corruption      {arguments.steps * len(tokens) / seconds / 1e6:10.1f} M residues/s")

        dataset = PretrainingDataset(records, seed=1, tokens_per_micro_batch=16384)
        loader = torch.utils.data.DataLoader(
            dataset, batch_sampler=GlobalBatchSampler(GLOBAL_BATCH_SIZE), collate_fn=same, num_workers=1
        )
        steps = iter(loader)
        next(steps)  # the worker's start is not the rate
        residues = 0
        start = time.perf_counter()
        for _ in range(arguments.steps):
            residues += sum(len(batch["enc_tokens"]) for batch in next(steps))
        print(f"loader, one worker   {residues / (time.perf_counter() - start) / 1e6:10.1f} M residues/s")


if __name__ == "__main__":
    main()
