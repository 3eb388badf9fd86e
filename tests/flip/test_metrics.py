"""Scores compared with torchmetrics, and intervals with theory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics", reason="needs the finetune extra")
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_matthews_corrcoef,
)

from prott5nv.flip.metrics import evaluate, selection_score
from prott5nv.flip.targets import IGNORED
from prott5nv.flip.tasks import Task


def make_task(level, label, targets, classes=()):
    count = len(targets)
    lengths = [len(target) if level == "residue" else 9 for target in targets]
    sequences = ["A" * length for length in lengths]
    return Task(
        "t", "s", level, label, classes, [str(i) for i in range(count)], sequences, targets, np.array(["test"] * count)
    )


@pytest.fixture
def residues():
    """Three classes, some masked residues, and predictions that copy 70 % of the targets."""
    rng = np.random.default_rng(0)
    targets = [rng.integers(3, size=rng.integers(10, 80)) for _ in range(60)]
    outputs = []
    for target in targets:
        guess = np.where(rng.random(len(target)) < 0.7, target, rng.integers(3, size=len(target)))
        outputs.append(np.eye(3, dtype=np.float32)[guess])
        target[rng.random(len(target)) < 0.1] = IGNORED
    return make_task("residue", "class", targets, ("C", "E", "H")), outputs


def test_class_scores_equal_those_of_torchmetrics(residues):
    task, outputs = residues
    scores = evaluate(task, range(60), [outputs])
    true, guess = torch.from_numpy(np.concatenate(task.targets)), torch.from_numpy(np.concatenate(outputs).argmax(-1))
    settings = {"num_classes": 3, "ignore_index": IGNORED}
    assert scores["accuracy"]["mean"] == pytest.approx(
        float(multiclass_accuracy(guess, true, average="micro", **settings))
    )
    assert scores["macro_f1"]["mean"] == pytest.approx(
        float(multiclass_f1_score(guess, true, average="macro", **settings))
    )
    assert scores["mcc"]["mean"] == pytest.approx(float(multiclass_matthews_corrcoef(guess, true, **settings)))
    recalls = multiclass_accuracy(guess, true, average="none", **settings)
    assert [scores[f"recall_{name}"]["mean"] for name in "CEH"] == pytest.approx(recalls.tolist())


def test_balanced_training_is_selected_by_macro_f1(residues):
    task, outputs = residues
    scores = evaluate(task, range(60), [outputs])
    assert selection_score(task, outputs, range(60)) == pytest.approx(scores["accuracy"]["mean"])
    assert selection_score(task, outputs, range(60), balanced=True) == pytest.approx(scores["macro_f1"]["mean"])


def test_average_over_proteins_gives_each_protein_the_same_weight():
    task = make_task("residue", "class", [np.zeros(1, dtype=int), np.zeros(99, dtype=int)], ("A", "B"))
    right, wrong = np.array([[1.0, 0.0]] * 1), np.array([[0.0, 1.0]] * 99)
    scores = evaluate(task, [0, 1], [[right, wrong]])
    assert scores["accuracy"]["mean"] == pytest.approx(0.01) and scores["accuracy_per_protein"]["mean"] == 0.5


def test_interval_is_as_wide_as_that_of_a_mean():
    """If about 70 % of 400 predictions are correct, the interval extends 1.96 standard errors to both sides."""
    rng = np.random.default_rng(1)
    task = make_task("protein", "class", [np.zeros(1, dtype=int)] * 400, ("A", "B"))
    outputs = [np.eye(2)[[int(rng.random() > 0.7)]] for _ in range(400)]
    accuracy = evaluate(task, range(400), [outputs])["accuracy"]
    expected = 1.96 * np.sqrt(accuracy["mean"] * (1 - accuracy["mean"]) / 400)
    assert accuracy["mean"] - accuracy["low"] == pytest.approx(expected, rel=0.2)
    assert accuracy["high"] - accuracy["mean"] == pytest.approx(expected, rel=0.2)


def test_residues_of_one_protein_are_drawn_together():
    """If the 100 residues of a protein are all correct or all wrong, 50 proteins count as 50 predictions."""
    task = make_task("residue", "class", [np.zeros(100, dtype=int)] * 50, ("A", "B"))
    outputs = [np.eye(2)[[number % 2] * 100] for number in range(50)]
    accuracy = evaluate(task, range(50), [outputs])["accuracy"]
    assert accuracy["high"] - accuracy["low"] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(50), rel=0.2)


@pytest.mark.slow
def test_numbers():
    rng = np.random.default_rng(2)
    measured = rng.normal(50, 5, size=300).astype(np.float32)
    task = make_task("protein", "number", [measured[i : i + 1] for i in range(300)])
    noise = rng.normal(0, 3, size=(2, 300)).astype(np.float32)
    outputs = [[(measured + errors)[i : i + 1] for i in range(300)] for errors in noise]
    scores = evaluate(task, range(300), outputs)
    assert scores["mse"]["seeds"] == pytest.approx(np.square(noise).mean(1).tolist(), rel=1e-4)
    assert scores["mse"]["spread"] == pytest.approx(np.std(scores["mse"]["seeds"], ddof=1))
    assert scores["rmse"]["seeds"] == pytest.approx(np.sqrt(scores["mse"]["seeds"]))
    assert scores["r2"]["seeds"] == pytest.approx((1 - np.square(noise).mean(1) / measured.var()).tolist(), rel=1e-3)
    assert 0.8 < scores["spearman"]["low"] < scores["spearman"]["mean"] < scores["spearman"]["high"] < 1


def test_constant_numbers():
    task = make_task("protein", "number", [np.float32([number]) for number in range(20)])
    scores = evaluate(task, range(20), [[np.float32([9.5])] * 20])
    assert scores["spearman"]["mean"] == 0 and scores["r2"]["mean"] == pytest.approx(0)
