"""Pictures of runs: scores side by side, confusions, predicted against measured, learning curves, scores by length."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prott5nv.flip.published import PUBLISHED

_OURS, _BASELINE, _PUBLISHED = "#0072B2", "#999999", "#E69F00"
_LENGTH_BINS = 8


def overview(runs: list[dict]) -> Figure:
    """One panel for each task: runs and baselines with their intervals, published figures of ProtT5nv as lines."""
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    figure = Figure(figsize=(3.6 * len(tasks), 3.6), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        chosen = [run for run in runs if run["task"] == task]
        metric = chosen[0]["metric"]
        bars = [(name, scores["all"][metric], _BASELINE) for name, scores in chosen[0]["results"].items()][1:]
        bars += [(run["mode"], run["results"]["encoder"]["all"][metric], _OURS) for run in chosen]
        means = np.array([score["mean"] for _, score, _ in bars])
        errors = [means - [score["low"] for _, score, _ in bars], [score["high"] for _, score, _ in bars] - means]
        axis.bar(range(len(bars)), means, color=[colour for *_, colour in bars], yerr=np.maximum(errors, 0), capsize=3)
        axis.set_xticks(range(len(bars)), [name for name, *_ in bars], rotation=40, ha="right")
        if task in PUBLISHED:
            axis.axhline(PUBLISHED[task][2]["ProtT5nv"], color=_PUBLISHED, ls="--", label="ProtT5nv, published")
            axis.axhline(PUBLISHED[task][2]["one-hot"], color=_PUBLISHED, ls=":", label="one-hot, published")
            axis.legend(fontsize="x-small", loc="lower right")
        note = f"\n({chosen[0]['note']})" if chosen[0]["note"] else ""
        axis.set(title=f"{task}{note}", ylabel=metric)
    return figure


def plots_of(run: dict) -> Figure:
    """Learning curves, and what the kind of task has to show."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    curves, middle, right = figure.subplots(1, 3)
    _learning_curves(curves, run)
    lengths, scores, targets, predictions = _read_predictions(run)
    if run["label"] == "class":
        _confusion(middle, run)
    else:
        _against_measured(middle, targets, predictions)
    _by_length(right, lengths, scores, run["metric"])
    return figure


def _learning_curves(axis: Axes, run: dict) -> None:
    for seed, history in run["history"].items():
        epochs = [epoch["epoch"] for epoch in history]
        axis.plot(epochs, [epoch[run["metric"]] for epoch in history], "o-", ms=3, label=f"seed {seed}")
    axis.set(title="Validation", xlabel="epoch", ylabel=run["metric"])
    axis.legend(frameon=False, fontsize="small")


def _confusion(axis: Axes, run: dict) -> None:
    counts_KK = np.array(run["confusion"])
    shares_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    axis.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1)
    places = range(len(run["classes"]))
    axis.set_xticks(places, run["classes"], rotation=90 if max(map(len, run["classes"])) > 1 else 0)
    axis.set_yticks(places, run["classes"])
    for (row, column), share in np.ndenumerate(shares_KK):
        colour = "white" if share > 0.5 else "black"
        axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set(title="Percent of each true class", xlabel="predicted", ylabel="true")


def _against_measured(axis: Axes, targets: list, predictions: list) -> None:
    measured, predicted = np.concatenate(targets), np.concatenate(predictions)
    axis.plot(measured, predicted, ".", ms=2, alpha=0.4, color=_OURS)
    ends = [np.nanmin(measured), np.nanmax(measured)]
    axis.plot(ends, ends, color="grey", lw=1)
    axis.set(title="Test set, best seed", xlabel="measured", ylabel="predicted")


def _by_length(axis: Axes, lengths: np.ndarray, scores: np.ndarray, metric: str) -> None:
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _LENGTH_BINS + 1)))
    bins = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, max(0, len(edges) - 2))
    groups = [bins == number for number in np.unique(bins)]
    means = [scores[group].mean() for group in groups]
    errors = [1.96 * scores[group].std() / np.sqrt(group.sum()) for group in groups]
    axis.errorbar([np.median(lengths[group]) for group in groups], means, errors, fmt="o-", capsize=3, color=_OURS)
    axis.axvline(512, color="grey", ls=":", lw=1)
    axis.set(title="By length, mean over proteins", xlabel="residues", ylabel=metric)


def _read_predictions(run: dict) -> tuple[np.ndarray, np.ndarray, list, list]:
    """Length and score of each scored test protein, and targets and predictions that are numbers."""
    lengths, scores, targets, predictions = [], [], [], []
    with open(Path(run["folder"]) / "predictions.csv", newline="") as file:
        for row in csv.DictReader(file):
            target, predicted = row["target"], row["prediction"]
            if run["label"] == "number":
                true, guess = (np.array(text.split(), dtype=float) for text in (target, predicted))
                agreement = (true - guess)[~np.isnan(true)] ** 2
                targets.append(true)
                predictions.append(guess)
            elif run["level"] == "residue":
                agreement = np.array([a == b for a, b in zip(target, predicted, strict=True) if a != "-"])
            else:
                agreement = np.array([target == predicted])
            if len(agreement):
                lengths.append(int(row["length"]))
                scores.append(agreement.mean())
    return np.array(lengths), np.array(scores), targets, predictions
