"""Figures of fine-tuning runs: scores side by side, confusion, prediction against measurement, learning curves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prott5nv.errors import ProtT5nvError
from prott5nv.flip.config import PREDICTIONS_FILE, RESULT_FILE
from prott5nv.flip.published import PUBLISHED
from prott5nv.flip.tasks import LONG
from prott5nv.io.delimited import DelimitedTable
from prott5nv.io.source import open_source

_OURS, _BASELINE, _PUBLISHED = "#0072B2", "#999999", "#E69F00"
_LENGTH_BINS = 8
_TITLE_WIDTH = 34  # characters above a panel


class _TestPredictions(NamedTuple):
    """The test proteins of a run that have scored targets."""

    lengths: np.ndarray  # residues of each protein
    scores: np.ndarray  # mean accuracy, or mean squared error, of each protein
    targets: list[np.ndarray]  # the next two only for numbers
    predictions: list[np.ndarray]


def overview(runs: Sequence[dict[str, Any]]) -> Figure:
    """Plot the scores of all runs, with one panel for each task.

    Parameters
    ----------
    runs : sequence of dict
        The output of :func:`prott5nv.flip.report.read_runs`.

    Returns
    -------
    Figure
        Runs and the baselines of the first run as bars with 95 % intervals, published scores as horizontal lines.
    """
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    figure = Figure(figsize=(3.6 * len(tasks), 3.6), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        of_task = [run for run in runs if run["task"] == task]
        first = of_task[0]
        metric = first["metric"]
        bars = [
            (name, scores["all"][metric], _BASELINE) for name, scores in first["results"].items() if name != "encoder"
        ]
        names = _distinct_names(of_task)
        bars += [
            (name, run["results"]["encoder"]["all"][metric], _OURS) for name, run in zip(names, of_task, strict=True)
        ]
        means = np.array([score["mean"] for _, score, _ in bars])
        errors = [means - [score["low"] for _, score, _ in bars], [score["high"] for _, score, _ in bars] - means]
        axis.bar(range(len(bars)), means, color=[colour for *_, colour in bars], yerr=np.maximum(errors, 0), capsize=3)
        axis.set_xticks(range(len(bars)), [_literal(name) for name, *_ in bars], rotation=40, ha="right")
        if task in PUBLISHED:
            published = PUBLISHED[task].scores
            axis.axhline(published["ProtT5nv"], color=_PUBLISHED, ls="--", label="ProtT5nv, published")
            axis.axhline(published["one-hot"], color=_PUBLISHED, ls=":", label="one-hot, published")
            axis.legend(fontsize="x-small", loc="lower right")
        note = f"\n({first['note']})" if first["note"] else ""
        axis.set_title("\n".join(map(_wrapped, _literal(f"{task}{note}").split("\n"))), fontsize="medium")
        axis.set(ylabel=_literal(metric))
    return figure


def _distinct_names(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return head and mode of each run, and its folder where several runs have the same."""
    names = [f"{run['head']}, {run['mode']}" for run in runs]
    return [
        _wrapped(f"{run['run']}: {name}" if names.count(name) > 1 else name)
        for name, run in zip(names, runs, strict=True)
    ]


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _TITLE_WIDTH)


def run_plots(run: dict[str, Any]) -> Figure:
    """Plot the learning curves of a run, its predictions for the test set, and its scores by protein length.

    Parameters
    ----------
    run : dict
        One of the output of :func:`prott5nv.flip.report.read_runs`.

    Returns
    -------
    Figure
        The middle panel is a confusion matrix for classes, and prediction against measurement for numbers.

    Raises
    ------
    ProtT5nvError
        If the folder of the run has no ``predictions.csv``.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _plot_learning_curves(left, run)
    test = _read_predictions(run)
    if run["label"] == "class":
        _plot_confusion(middle, run)
    else:
        _plot_against_measured(middle, test)
    _plot_by_length(right, test, run["metric"])
    return figure


def _literal(text: str) -> str:
    """Return a label in which matplotlib shows dollar signs instead of parsing mathematics."""
    return text.replace("$", r"\$")


def _plot_learning_curves(axis: Axes, run: dict[str, Any]) -> None:
    for seed, history in run["history"].items():
        epochs = [epoch["epoch"] for epoch in history]
        scores = [epoch[run["metric"]] for epoch in history]
        axis.plot(epochs, scores, "o-", ms=3, label=_literal(f"seed {seed}"))
    axis.set(title="Validation", xlabel="epoch", ylabel=_literal(run["metric"]))
    axis.legend(frameon=False, fontsize="small")


def _plot_confusion(axis: Axes, run: dict[str, Any]) -> None:
    counts_KK = np.array(run["confusion"])
    fractions_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    axis.imshow(fractions_KK, cmap="Blues", vmin=0, vmax=1)
    classes = [_literal(name) for name in run["classes"]]
    positions = range(len(classes))
    axis.set_xticks(positions, classes, rotation=90 if max(map(len, classes)) > 1 else 0)
    axis.set_yticks(positions, classes)
    for (row, column), fraction in np.ndenumerate(fractions_KK):
        colour = "white" if fraction > 0.5 else "black"
        axis.text(column, row, f"{100 * fraction:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set(title="Percent of each true class", xlabel="predicted", ylabel="true")


def _plot_against_measured(axis: Axes, test: _TestPredictions) -> None:
    measured, predicted = np.concatenate(test.targets), np.concatenate(test.predictions)
    axis.plot(measured, predicted, ".", ms=2, alpha=0.4, color=_OURS)
    ends = [np.nanmin(measured), np.nanmax(measured)]
    axis.plot(ends, ends, color="grey", lw=1)
    axis.set(title="Test set, best seed", xlabel="measured", ylabel="predicted")


def _plot_by_length(axis: Axes, test: _TestPredictions, metric: str) -> None:
    lengths, scores = test.lengths, test.scores
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _LENGTH_BINS + 1)))
    bins = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, max(0, len(edges) - 2))
    groups = [bins == number for number in np.unique(bins)]
    means = [scores[group].mean() for group in groups]
    errors = [1.96 * scores[group].std() / np.sqrt(group.sum()) for group in groups]
    axis.errorbar([np.median(lengths[group]) for group in groups], means, errors, fmt="o-", capsize=3, color=_OURS)
    axis.axvline(LONG, color="grey", ls=":", lw=1)
    axis.set(title="By length, mean over proteins", xlabel="residues", ylabel=_literal(metric))


def _read_predictions(run: dict[str, Any]) -> _TestPredictions:
    lengths, scores = [], []
    targets: list[np.ndarray] = []
    predictions: list[np.ndarray] = []
    path = Path(run["folder"]) / PREDICTIONS_FILE
    if not path.is_file():
        raise ProtT5nvError(f"{path}: no such file; prott5nv finetune writes it beside {RESULT_FILE}")
    with open_source(path) as stream:
        for _, row in DelimitedTable(stream, str(path)).dictionaries():
            target, prediction = row["target"], row["prediction"]
            if run["label"] == "number":
                measured, predicted = (np.array(text.split(), dtype=float) for text in (target, prediction))
                row_scores = (measured - predicted)[~np.isnan(measured)] ** 2
                targets.append(measured)
                predictions.append(predicted)
            elif run["level"] == "residue":
                row_scores = np.array([a == b for a, b in zip(target, prediction, strict=True) if a != "-"])
            else:
                row_scores = np.array([target == prediction])
            if len(row_scores):
                lengths.append(int(row["length"]))
                scores.append(row_scores.mean())
    return _TestPredictions(np.array(lengths), np.array(scores), targets, predictions)
