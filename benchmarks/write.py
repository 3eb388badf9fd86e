"""Measure how fast embeddings are written, beside the disk's own rate of sequential writing.

    python benchmarks/write.py --folder /scratch --gb 8

Rows per residue come from a stand-in for the encoder that returns random numbers at once, so that everything else in
`embed_file` is measured. The disk's rate is that of one file of the same size, written in blocks of 16 MiB. Both times
end when the file is on the disk. Pooled vectors come from a real encoder with random weights.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from common import AMINO_ACIDS, argument_parser, describe_machine, peak_mib, print_table

from prott5nv import Embedder, ModelConfig, ProtT5
from prott5nv.embedding.job import embed_file
from prott5nv.io.reader import read_records
from prott5nv.model.encoder import Encoder, LayerStack

HIDDEN_SIZE = 768  # of ProtT5nv
BLOCK = 1 << 24
Result = TypeVar("Result")


class RandomRows(Encoder):
    """An encoder that returns the same random rows for every batch."""

    rows_TD: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.config = replace(ModelConfig.preset("tiny"), hidden_size=HIDDEN_SIZE)
        self.tokenizer = ProtT5(ModelConfig.preset("tiny")).tokenizer
        self.encoder = LayerStack()
        self.register_buffer("rows_TD", torch.randn(1, HIDDEN_SIZE))

    def encode(self, tokens_T: torch.Tensor, cu_seqlens_B1: torch.Tensor) -> torch.Tensor:
        if len(self.rows_TD) < len(tokens_T):
            self.rows_TD = torch.randn(len(tokens_T), HIDDEN_SIZE, device=tokens_T.device)
        return self.rows_TD[: len(tokens_T)]

    def fusible_parts(self) -> Iterator[torch.nn.Module]:
        return iter(())


def write_fasta(path: Path, residues: int) -> int:
    """Write random proteins of 50 to 470 residues and return their number of residues."""
    rng = random.Random(0)
    letters = "".join(rng.choices(AMINO_ACIDS, k=10_000))
    count = number = 0
    with open(path, "w") as file:
        while count < residues:
            start, length = rng.randrange(9_000), rng.randint(50, 470)
            file.write(f">sp|Q{number:08}|R_TEST\n{letters[start : start + length]}\n")
            count, number = count + length, number + 1
    return count


def timed(work: Callable[..., Result], *arguments: Any, **options: Any) -> tuple[float, Result]:
    start = time.perf_counter()
    result = work(*arguments, **options)
    return time.perf_counter() - start, result


def write_plain(path: Path, size: int) -> None:
    block = os.urandom(BLOCK)
    with open(path, "wb", buffering=0) as file:
        for _ in range(size // BLOCK):
            file.write(block)
        os.fsync(file.fileno())
    path.unlink()


def per_residue(folder: Path, size: int) -> Iterator[tuple[str, ...]]:
    """Write about `size` bytes in each data type. The disk is measured before each."""
    embedder = Embedder(RandomRows())
    for dtype, width in ("float16", 2), ("float32", 4):
        fasta, output = folder / "proteins.fasta", folder / "out.h5"
        residues = write_fasta(fasta, size // (width * HIDDEN_SIZE))
        written = residues * width * HIDDEN_SIZE
        disk = written / timed(write_plain, folder / "plain", written)[0]
        seconds, summary = timed(embed_file, fasta, output, embedder, dtype=dtype)
        output.unlink()
        yield (f"per residue, {dtype}, .h5", f"{residues / seconds:,.0f}", f"{written / seconds / 1e6:,.0f}",
               f"{disk / 1e6:,.0f}", f"{written / seconds / disk:.0%} of the disk's rate",
               f"{summary.seconds_writing / seconds:.0%}")  # fmt: skip


def pooled(folder: Path, preset: str, residues: int) -> Iterator[tuple[str, ...]]:
    """Write one vector per protein in each format."""
    embedder = Embedder(ProtT5(ModelConfig.preset(preset)))
    fasta, few = folder / "proteins.fasta", folder / "few.fasta"
    residues = write_fasta(fasta, residues)
    write_fasta(few, 1)
    only = min(timed(list, embedder.embed(read_records(fasta), pooling="mean"))[0] for _ in range(2))
    yield f"mean, {preset}, not written", f"{residues / only:,.0f}", "", "", "", ""
    for suffix in ".h5", ".npz", ".parquet":
        output = folder / f"out{suffix}"
        embed_file(few, folder / f"few{suffix}", embedder, pooling="mean")  # imports what is needed
        seconds, summary = timed(embed_file, fasta, output, embedder, pooling="mean")
        megabytes = output.stat().st_size / seconds / 1e6
        yield (f"mean, {preset}, {suffix}", f"{residues / seconds:,.0f}", f"{megabytes:,.1f}", "",
               f"{only / seconds:.0%} of not written", f"{summary.seconds_writing / seconds:.0%}")  # fmt: skip


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argument_parser(__doc__)
    parser.add_argument("--gb", type=float, default=4 if on_gpu else 0.3, help="Size of each file of rows per residue.")
    parser.add_argument("--folder", type=Path, help="Folder on the disk to measure.")
    parser.add_argument("--preset", default="prott5nv" if on_gpu else "tiny", choices=ModelConfig.preset_names(),
                        help="Model for the pooled vectors.")  # fmt: skip
    parser.add_argument("--residues", type=int, default=4_000_000 if on_gpu else 20_000, help="Residues to pool.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        size = int(min(arguments.gb * 1e9, shutil.disk_usage(folder).free / 3))
        print(f"{size / 1e9:.1f} GB, {describe_machine('cuda' if on_gpu else 'cpu')}\n")

        rows = chain(per_residue(folder, size), pooled(folder, arguments.preset, arguments.residues))
        print_table(("output", "residues/s", "MB/s", "disk, MB/s", "fraction", "waiting for writing"), rows)
    print(f"\nPeak memory: {peak_mib():,.0f} MiB")


if __name__ == "__main__":
    main()
