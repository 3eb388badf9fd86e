"""Measure the start-up time: seconds from the start of a process to its first embedding.

    python benchmarks/startup.py --runs 5

Each command runs in a process of its own, with the built-in model and one protein. The first two rows are the lower
bounds: Python itself, and the import of PyTorch. CPU time is listed too, because it depends less on other programs that
run at the same time.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from common import argument_parser, print_table, run_process

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"


def measure(commands: dict[str, list[str]], output: Path, runs: int) -> Iterator[Sequence[str]]:
    """Run each command `runs` times and yield its row of the table."""
    for label, command in commands.items():
        usages = []
        for _ in range(runs + 1):
            output.unlink(missing_ok=True)
            usages.append(run_process([sys.executable, *command]))
        usages = usages[1:]  # the first run fills the operating system's file cache
        seconds = [usage.seconds for usage in usages]
        cpu_seconds = statistics.median(usage.cpu_seconds for usage in usages)
        yield (
            label,
            f"{statistics.median(seconds):.2f} s",
            f"{min(seconds):.2f}-{max(seconds):.2f}",
            f"{cpu_seconds:.2f} s",
        )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--runs", type=int, default=5, help="Number of measured runs of each command.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        fasta, output = Path(name, "ubiquitin.fasta"), Path(name, "ubiquitin.h5")
        fasta.write_text(f">P0CG48\n{UBIQUITIN}\n")
        commands = {
            "python": ["-c", ""],
            "import torch": ["-c", "import torch"],
            "prott5nv embed --help": ["-m", "prott5nv", "embed", "--help"],
            "seqs_to_embedding": ["-c", f"import prott5nv; prott5nv.seqs_to_embedding(['{UBIQUITIN}'])"],
            "prott5nv embed, file to file": ["-m", "prott5nv", "embed", str(fasta), "-o", str(output)],
        }
        print_table(("command", "median", "range", "CPU time"), measure(commands, output, arguments.runs))


if __name__ == "__main__":
    main()
