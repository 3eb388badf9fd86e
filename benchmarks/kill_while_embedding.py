"""Kill ``prott5nv embed`` with SIGKILL at random moments, many times, and see whether it ends as if undisturbed.

    python benchmarks/kill_while_embedding.py --kills 20

Moments are drawn evenly from the length of an undisturbed run. A killed run is started again, and killed again, until
it is done; what it wrote must then equal the undisturbed run's output in keys, their order, values and attributes.
Runs are forked from a process that has imported PyTorch, so that hardly a kill falls into the imports.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import h5py
import torch
from embed_memory import write_fasta

from prott5nv import ModelConfig, ProtT5, ProtT5nvInference
from prott5nv.checkpoint import save_nemo
from prott5nv.embedding.job import embed_file


def contents(path: Path) -> list:
    """Keys in order, values and attributes of everything in an HDF5 file."""
    with h5py.File(path) as file:
        proteins = [(key, file[key][()].tobytes(), file[key].shape, dict(file[key].attrs)) for key in file]
        return [dict(file.attrs), *proteins]


def embed(fasta: Path, output: Path, checkpoint: Path) -> None:
    embed_file(fasta, output, ProtT5nvInference(checkpoint), model_path=checkpoint)


def stage(output: Path) -> str:
    """What a killed run was doing, from what it left."""
    partial = output.with_name(output.name + ".partial")
    if output.exists():
        return "with the output in place"
    if (partial / "assembled.h5").exists():
        return "assembling the output"
    if (partial / "rows.bin").exists() and (partial / "rows.bin").stat().st_size:
        return "embedding"
    return "before the first row"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--proteins", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # PyTorch's threads do not survive the fork
    draw = random.Random(arguments.seed)
    context = multiprocessing.get_context("fork")
    stages: Counter[str] = Counter()
    completed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint, fasta, expected, output = folder / "t.nemo", folder / "p.fasta", folder / "e.h5", folder / "o.h5"
        model = ProtT5(ModelConfig.preset("tiny"))
        save_nemo(checkpoint, model.config, model.state_dict())
        write_fasta(fasta, arguments.proteins)

        def start(path: Path) -> multiprocessing.Process:
            process = context.Process(target=embed, args=(fasta, path, checkpoint))
            process.start()
            return process

        began = time.perf_counter()
        start(expected).join()
        undisturbed = time.perf_counter() - began
        while True:
            process = start(output)
            process.join(draw.uniform(0, undisturbed) if stages.total() < arguments.kills else None)
            if process.is_alive():
                process.kill()
                process.join()
                stages[stage(output)] += 1
                continue
            assert process.exitcode == 0, f"after {stages.total()} kills: exit code {process.exitcode}"
            assert contents(output) == contents(expected), f"after {stages.total()} kills: the output differs"
            completed += 1
            if stages.total() >= arguments.kills:
                break
            output.unlink()
    print(f"{arguments.proteins:,} proteins, {undisturbed:.1f} s undisturbed; killed {stages.total()} times:")
    for doing, count in stages.most_common():
        print(f"  {count} {doing}")
    print(f"{completed} outputs were completed, each equal to the undisturbed one")


if __name__ == "__main__":
    main()
