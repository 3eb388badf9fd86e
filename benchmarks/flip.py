"""Score a model on the five FLIP tasks, beside the baselines, and write one report.

    prott5nv prepare flip all --from FLIP/ -o flip
    python benchmarks/flip.py --data flip -o results/flip                      # frozen encoder, all tasks
    python benchmarks/flip.py --data flip -o results/flip --mode lora --task conservation
    python benchmarks/flip.py --data flip -o results/flip --task conservation --precision fp32 --precision bf16

Each task is fine-tuned with ``prott5nv finetune``, which trains with three seeds and scores the baselines too.
Arguments that this script does not know, such as ``'seeds=[1]'``, are passed on as settings. Finished runs are kept, so
the same command continues where it stopped.

With several precisions of the frozen encoder, a head is trained for each of them, and a table compares the scores, and
the embeddings of the test proteins residue by residue, with those of the first precision.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import argument_parser, print_table

from prott5nv import Embedder, seqs_to_embedding

TASKS = ("secondary_structure", "conservation", "scl", "meltome", "gb1")
PROTEINS = 64  # embedded at once


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", default="flip", help="Folder that prott5nv prepare flip wrote.")
    parser.add_argument("--model", help="As for prott5nv finetune. The default is the built-in model.")
    parser.add_argument("--mode", default="frozen", choices=["frozen", "lora", "full"], help="What to train.")
    parser.add_argument("--task", action="append", choices=TASKS, help="Task to run, repeatable. The default is all.")
    parser.add_argument("--precision", action="append", choices=["fp32", "bf16", "fp16"],
                        help="Precision of the frozen encoder, repeatable. The default is auto.")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, default=Path("results/flip"), help="Folder for runs and report.")
    arguments, settings = parser.parse_known_args()
    prott5nv = [sys.executable, "-m", "prott5nv"]
    model = ["--model", arguments.model] if arguments.model else []
    tasks: list[list[Path]] = []
    for task in arguments.task or TASKS:
        tasks.append([])
        for precision in arguments.precision or [None]:
            run = arguments.output / "-".join(filter(None, [task, arguments.mode, precision]))
            if not (run / "result.json").is_file():
                options = [task, "--data", arguments.data, *model, "--mode", arguments.mode, "-o", run, *settings]
                options += [f"model.precision={precision}"] if precision else []
                subprocess.run([*prott5nv, "finetune", *options], check=True)
            tasks[-1].append(run)
    subprocess.run([*prott5nv, "report", arguments.output, "--overwrite"], check=True)
    if len(arguments.precision or []) > 1:
        columns = ["Task", "Precision", "Metric", "Score, 95 % interval", "Cosine of a residue: lowest, 1 %, 50 %"]
        print_table(columns, (row for runs in tasks for row in compared(runs)))


def compared(runs: list[Path]) -> Iterator[list[str]]:
    """Yield a row for each run of a task, which differ in the precision of the encoder."""
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    for result in results:
        metric, score = result["metric"], result["results"]["encoder"]["all"][result["metric"]]
        scores = f"{score['mean']:.4f} [{score['low']:.4f}, {score['high']:.4f}]"
        cosines = "reference"
        if result is not results[0]:
            percentiles = np.percentile(residue_cosines(runs[0], results[0], result), [0, 1, 50])
            cosines = ", ".join(f"{value:.6f}" for value in percentiles)
        yield [result["task"], result["configuration"]["model"]["precision"], metric, scores, cosines]


def residue_cosines(run: Path, *results: Any) -> np.ndarray:
    """Return the cosine of the rows of two runs for all residues of the test proteins."""
    with open(results[0]["configuration"]["task"]["file"], newline="") as file:
        sequences = {row["id"]: row["sequence"] for row in csv.DictReader(file)}
    with open(run / "predictions.csv", newline="") as file:
        proteins = [sequences[name] for name in dict.fromkeys(row["original_id"] for row in csv.DictReader(file))]
    embedders = [
        Embedder(result["model"]["path"], precision=result["configuration"]["model"]["precision"]) for result in results
    ]
    cosines = []
    for first in range(0, len(proteins), PROTEINS):
        both = [seqs_to_embedding(proteins[first : first + PROTEINS], each, long="window") for each in embedders]
        for a_LD, b_LD in zip(*both, strict=True):
            norms_L = np.linalg.norm(a_LD, axis=1) * np.linalg.norm(b_LD, axis=1)
            cosines.append((a_LD * b_LD).sum(axis=1, dtype=np.float64) / norms_L)
    return np.concatenate(cosines)


if __name__ == "__main__":
    main()
