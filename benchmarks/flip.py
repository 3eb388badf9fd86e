"""Score a model on the five FLIP tasks, beside the baselines, and write one report.

    prott5nv prepare flip all --from FLIP/ -o flip
    python benchmarks/flip.py --data flip -o results/flip                      # frozen encoder, all tasks
    python benchmarks/flip.py --data flip -o results/flip --mode lora --task conservation

Each task is fine-tuned with ``prott5nv finetune``, which trains with three seeds and scores the baselines too.
Arguments that this script does not know, such as ``'seeds=[1]'``, are passed on as settings. Finished runs are kept, so
the same command continues where it stopped.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from common import argument_parser

TASKS = ("secondary_structure", "conservation", "scl", "meltome", "gb1")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", default="flip", help="Folder that prott5nv prepare flip wrote.")
    parser.add_argument("--model", help="A .nemo file. The default is the built-in model.")
    parser.add_argument("--mode", default="frozen", choices=["frozen", "lora", "full"], help="What to train.")
    parser.add_argument("--task", action="append", choices=TASKS, help="Task to run, repeatable. The default is all.")
    parser.add_argument("-o", "--output", type=Path, default=Path("results/flip"), help="Folder for runs and report.")
    arguments, settings = parser.parse_known_args()
    prott5nv = [sys.executable, "-m", "prott5nv"]
    model = ["--model", arguments.model] if arguments.model else []
    for task in arguments.task or TASKS:
        run = arguments.output / f"{task}-{arguments.mode}"
        if not (run / "result.json").is_file():
            options = [task, "--data", arguments.data, *model, "--mode", arguments.mode, "-o", run, *settings]
            subprocess.run([*prott5nv, "finetune", *options], check=True)
    subprocess.run([*prott5nv, "report", arguments.output], check=True)


if __name__ == "__main__":
    main()
