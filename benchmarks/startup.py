"""Start-up: seconds from the start of a process to its first embedding, with the built-in model.

    python benchmarks/startup.py --runs 5

The first line is Python alone, the second PyTorch, for which everything built on it has to wait. CPU time is given as
well, since it hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        fasta, output = Path(name, "ubiquitin.fasta"), Path(name, "ubiquitin.h5")
        fasta.write_text(f">P0CG48\n{UBIQUITIN}\n")
        commands = {
            "python": ["-c", ""],
            "import torch": ["-c", "import torch"],
            "prott5nv embed --help": ["-m", "prott5nv", "embed", "--help"],
            "seqs_to_embedding": ["-c", f"import prott5nv; prott5nv.seqs_to_embedding(['{UBIQUITIN}'])"],
            "prott5nv embed, file to file": ["-m", "prott5nv", "embed", fasta, "-o", output],
        }
        print("| | median | range | CPU time |\n|---|---|---|---|")
        for label, command in commands.items():
            seconds, cpu = [], []
            for run in range(arguments.runs + 1):
                output.unlink(missing_ok=True)
                start = time.perf_counter()
                process = subprocess.Popen(
                    [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                _, status, usage = os.wait4(process.pid, 0)
                if status:
                    raise SystemExit(f"{label} failed")
                if run:  # the first one fills the file cache
                    seconds.append(time.perf_counter() - start)
                    cpu.append(usage.ru_utime + usage.ru_stime)
            wall = f"{statistics.median(seconds):.2f} s | {min(seconds):.2f}-{max(seconds):.2f}"
            print(f"| {label} | {wall} | {statistics.median(cpu):.2f} s |", flush=True)


if __name__ == "__main__":
    main()
