"""ProtT5nv on FLIP: every task, frozen and with LoRA, three seeds each, beside baselines; then one report.

    prott5nv prepare flip all --from FLIP/ -o flip
    python benchmarks/flip.py --data flip -o results/flip                      # frozen, all tasks
    python benchmarks/flip.py --data flip -o results/flip --mode lora --task conservation

Runs that are there already are kept, so that the same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

TASKS = ("secondary_structure", "conservation", "scl", "meltome", "gb1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="flip", help="what prott5nv prepare flip wrote")
    parser.add_argument("--model", help="a .nemo file; by default the built-in model")
    parser.add_argument("--mode", default="frozen", choices=["frozen", "lora", "full"])
    parser.add_argument("--task", action="append", choices=TASKS, help="may be given several times")
    parser.add_argument("-o", "--output", type=Path, default=Path("results/flip"))
    arguments, overrides = parser.parse_known_args()
    command = [sys.executable, "-m", "prott5nv"]
    model = ["--model", arguments.model] if arguments.model else []
    for task in arguments.task or TASKS:
        run = arguments.output / f"{task}-{arguments.mode}"
        if not (run / "result.json").is_file():
            given = [task, "--data", arguments.data, *model, "--mode", arguments.mode, "-o", run, *overrides]
            subprocess.run([*command, "finetune", *given], check=True)
    subprocess.run([*command, "report", arguments.output], check=True)


if __name__ == "__main__":
    main()
