"""Peak memory of ``prott5nv embed``, file to file, for few and for many proteins.

    python benchmarks/embed_memory.py                          # 100 and 20,000 proteins, tiny model
    python benchmarks/embed_memory.py --preset small --proteins 100 2000

Proteins are random, of 20 to 200 residues: memory is a matter of their number here.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from prott5nv import ModelConfig, ProtT5
from prott5nv.checkpoint import save_nemo
from prott5nv.model.tokenizer import RESIDUES


def write_fasta(path: Path, proteins: int) -> None:
    """Random proteins."""
    rng = random.Random(0)
    with open(path, "w") as file:
        for number in range(proteins):
            file.write(f">sp|Q{number:07}|R_TEST\n{''.join(rng.choices(RESIDUES[:20], k=rng.randint(20, 200)))}\n")


def peak_memory(command: list) -> float:
    """MB, of the command from start to end."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(map(str, command))} failed")
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", choices=["tiny", "small", "prott5nv"])
    parser.add_argument("--proteins", type=int, nargs="+", default=[100, 20_000])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--pooling", default="none")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "model.nemo")
        model = ProtT5(ModelConfig.preset(arguments.preset))
        save_nemo(checkpoint, model.config, model.state_dict())
        print("| proteins | peak memory | file |\n|---|---|---|")
        for proteins in arguments.proteins:
            fasta, output = Path(folder, "proteins.fasta"), Path(folder, f"{proteins}.h5")
            write_fasta(fasta, proteins)
            options = ["--model", checkpoint, "--precision", arguments.precision, "--pooling", arguments.pooling]
            peak = peak_memory([sys.executable, "-m", "prott5nv", "embed", fasta, "-o", output, *options])
            print(f"| {proteins:,} | {peak:.0f} MB | {output.stat().st_size / 2**20:.0f} MB |", flush=True)
            output.unlink()


if __name__ == "__main__":
    # Threads and their arenas would blur the figures.
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
