"""Kill ``prott5nv embed`` with SIGKILL at random moments and check that it still ends with the right output.

    python benchmarks/kill_while_embedding.py --kills 20

A first run without kills gives the expected output and its duration; the moments of the kills are drawn uniformly from
that duration. A killed run is started again, and killed again, until it finishes. Its output must equal the expected
one in keys, order of keys, values and attributes.

The runs are forked from a process that has imported PyTorch already, so that few kills fall into the imports.
"""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import h5py
import torch
from common import argument_parser, save_random_model, write_random_fasta

from prott5nv import Embedder, ModelConfig
from prott5nv.embedding.job import embed_file
from prott5nv.io.hdf5_in_place import FIRST_VALUE


def contents(path: Path) -> list[Any]:
    """Read the file's attributes, then key, values, shape and attributes of each dataset in order."""
    with h5py.File(path) as file:
        proteins = [(key, file[key][()].tobytes(), file[key].shape, dict(file[key].attrs)) for key in file]
        return [dict(file.attrs), *proteins]


def embed(fasta: Path, output: Path, checkpoint: Path) -> None:
    embed_file(fasta, output, Embedder(checkpoint))


def stage(output: Path) -> str:
    """Infer from its files what a killed run was doing."""
    partial = output.with_name(output.name + ".partial")
    if output.exists():
        return "after the output was complete"
    rows = partial / "rows.bin"
    if rows.exists() and rows.stat().st_size > FIRST_VALUE:
        with open(rows, "rb") as file:
            return "while adding the structure" if file.read(1) != b"\0" else "while embedding"
    return "before the first row was stored"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--kills", type=int, default=20, help="Number of kills.")
    parser.add_argument("--proteins", type=int, default=5000, help="Number of proteins in the input.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the random moments.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # PyTorch's threads do not survive the fork
    rng = random.Random(arguments.seed)
    context = multiprocessing.get_context("fork")
    kills: Counter[str] = Counter()
    completed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fasta, expected, output = folder / "proteins.fasta", folder / "expected.h5", folder / "output.h5"
        checkpoint = save_random_model(folder / "model.nemo", ModelConfig.preset("tiny"))
        write_random_fasta(fasta, arguments.proteins)

        def start(path: Path) -> BaseProcess:
            process = context.Process(target=embed, args=(fasta, path, checkpoint))
            process.start()
            return process

        began = time.perf_counter()
        start(expected).join()
        duration = time.perf_counter() - began
        while True:
            process = start(output)
            process.join(rng.uniform(0, duration) if kills.total() < arguments.kills else None)
            if process.is_alive():
                process.kill()
                process.join()
                kills[stage(output)] += 1
                continue
            assert process.exitcode == 0, f"after {kills.total()} kills: exit code {process.exitcode}"
            assert contents(output) == contents(expected), f"after {kills.total()} kills: the output differs"
            completed += 1
            if kills.total() >= arguments.kills:
                break
            output.unlink()
    print(f"{arguments.proteins:,} proteins, {duration:.1f} s without kills; killed {kills.total()} times:")
    for moment, count in kills.most_common():
        print(f"  {count} {moment}")
    print(f"{completed} outputs were completed; each equals the expected one")


if __name__ == "__main__":
    main()
