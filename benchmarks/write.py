"""Measure how fast embeddings are written, beside the disk's own rate of sequential writing.

    python benchmarks/write.py                      # into a temporary folder
    python benchmarks/write.py --gb 8 --folder /scratch --preset prott5nv

Rows per residue come from a stand-in for the encoder that returns random numbers at once, so that the rest of
`embed_file` is measured: reading FASTA, packing, copying rows to the host, and writing HDF5. The disk's rate is that of
one file of the same size, written in blocks of 16 MiB. Both times include waiting until the file is on the disk.

Pooled vectors come from a real encoder with random weights. Their rate is compared with the rate when nothing is
written.
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

import torch
from common import AMINO_ACIDS, argument_parser, describe_machine, peak_mib, print_table

from prott5nv import Embedder, ModelConfig, ProtT5
from prott5nv.embedding.job import embed_file
from prott5nv.io.reader import read_records
from prott5nv.model.encoder import Encoder

HIDDEN_SIZE = 768  # of ProtT5nv
BLOCK = 1 << 24


class RandomRows(Encoder):
    """An encoder that returns the same random rows for every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.config = replace(ModelConfig.preset("tiny"), hidden_size=HIDDEN_SIZE)
        self.tokenizer = ProtT5(ModelConfig.preset("tiny")).tokenizer
        self.encoder = torch.nn.Identity()
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


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


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
        disk = written / seconds(lambda: write_plain(folder / "plain", written))  # noqa: B023 (called at once)
        rate = written / seconds(lambda: embed_file(fasta, output, embedder, dtype=dtype))  # noqa: B023
        output.unlink()
        yield (f"per residue, {dtype}, .h5", f"{residues / written * rate:,.0f}", f"{rate / 1e6:,.0f}",
               f"{disk / 1e6:,.0f}", f"{rate / disk:.0%} of the disk")  # fmt: skip


def pooled(folder: Path, preset: str, residues: int) -> Iterator[tuple[str, ...]]:
    """Write one vector per protein in each format."""
    embedder = Embedder(ProtT5(ModelConfig.preset(preset)))
    fasta = folder / "proteins.fasta"
    residues = write_fasta(fasta, residues)
    write_fasta(folder / "warm-up.fasta", 1)
    only = residues / min(seconds(lambda: list(embedder.embed(read_records(fasta), pooling="mean"))) for _ in range(2))
    yield f"mean, {preset}, not written", f"{only:,.0f}", "", "", ""
    for suffix in ".h5", ".npz", ".parquet":
        output = folder / f"out{suffix}"
        embed_file(folder / "warm-up.fasta", folder / f"warm-up{suffix}", embedder, pooling="mean")
        rate = residues / seconds(lambda: embed_file(fasta, output, embedder, pooling="mean"))  # noqa: B023
        megabytes = output.stat().st_size * rate / residues / 1e6
        yield f"mean, {preset}, {suffix}", f"{rate:,.0f}", f"{megabytes:,.1f}", "", f"{rate / only:.0%} of not written"


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argument_parser(__doc__)
    parser.add_argument("--gb", type=float, default=4 if on_gpu else 0.3, help="Size of each file of rows per residue.")
    parser.add_argument("--folder", type=Path, help="Folder on the disk to measure.")
    parser.add_argument("--preset", default="prott5nv" if on_gpu else "tiny", choices=ModelConfig.preset_names(),
                        help="Model for the pooled vectors.")  # fmt: skip
    parser.add_argument("--residues", type=int, default=4_000_000 if on_gpu else 50_000, help="Residues to pool.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        size = int(min(arguments.gb * 1e9, shutil.disk_usage(folder).free / 3))
        print(f"{size / 1e9:.1f} GB, {describe_machine('cuda' if on_gpu else 'cpu')}\n")

        rows = chain(per_residue(folder, size), pooled(folder, arguments.preset, arguments.residues))
        print_table(("output", "residues/s", "MB/s", "disk, MB/s", "fraction"), rows)
    print(f"\nPeak memory: {peak_mib():,.0f} MiB")


if __name__ == "__main__":
    main()
