"""Compare the confidence of the ready predictors with how often they are right, on the test sets of FLIP.

    prott5nv prepare flip secondary_structure --from FLIP/ -o flip
    prott5nv prepare flip scl --from FLIP/ -o flip
    python benchmarks/confidence.py --data flip

A row is a range of the confidence, a tenth wide.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import argument_parser, print_table

from prott5nv import Predictor
from prott5nv.flip.tasks import Task, load_task

TASKS = {
    "secondary_structure": ("secondary_structure/sampled.csv", "residue"),
    "localization": ("scl/mixed_soft.csv", "protein"),
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("flip"), help="Folder that prott5nv prepare flip wrote.")
    arguments = parser.parse_args()
    for name, (table, level) in TASKS.items():
        task = load_task(arguments.data / table, name=name, level=level, label="class")
        what = f"{name}: confidence of a {level}"
        print_table([what, "Share", "Mean confidence", "Right"], ranges(*confidence(Predictor(name), task)))


def confidence(predictor: Predictor, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of the predicted class of all scored residues or proteins, and whether it is right."""
    test = task.indices("test")
    predictions = predictor.predict([task.sequences[i] for i in test])
    order = [task.classes.index(name) for name in predictor.output_spec.classes]
    probabilities, right = [], []
    for i, prediction in zip(test, predictions, strict=True):
        scored = task.scored(i)
        probabilities.append(prediction.rows.max(-1)[scored])
        right.append(np.take(order, prediction.rows.argmax(-1))[scored] == task.targets[i][scored])
    return np.concatenate(probabilities), np.concatenate(right)


def ranges(probabilities: np.ndarray, right: np.ndarray) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row of the table for each tenth of the confidence, from the highest, and one for all."""
    tenths = np.minimum(9, (probabilities * 10).astype(int))
    for tenth in range(9, -1, -1):
        if (chosen := tenths == tenth).any():
            name = f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}"
            yield name, f"{chosen.mean():.0%}", f"{probabilities[chosen].mean():.2f}", f"{right[chosen].mean():.0%}"
    yield "all", "100%", f"{probabilities.mean():.2f}", f"{right.mean():.0%}"


if __name__ == "__main__":
    main()
