"""Figures of fine-tuning runs: scores side by side, confusion, prediction against measurement, learning curves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prott5nv.checkpoint.models import model_name
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.config import PREDICTIONS_FILE, RESULT_FILE
from prott5nv.flip.metrics import decimals
from prott5nv.flip.published import COMPARABLE, PUBLISHED
from prott5nv.flip.tasks import LONG
from prott5nv.flip.zero_shot import ZeroShot
from prott5nv.io.delimited import DelimitedTable
from prott5nv.io.source import open_source

_OURS = "#0072B2"
_STYLES = {"ours": (_OURS, "s"), "baseline": ("#777777", "o"), "published": ("#D55E00", "D")}  # colour and marker
_PANELS_PER_ROW = 3
_PANEL_WIDTH, _PANEL_FRAME, _POINT_HEIGHT = 4.6, 1.2, 0.26  # inches
_LENGTH_BINS = 8
_TITLE_WIDTH = 34  # characters above a panel


class _Point(NamedTuple):
    """One line of a panel."""

    name: str
    score: dict[str, Any]  # "mean", and "low" and "high" if it has an interval
    kind: str  # a key of _STYLES


class _Panel(NamedTuple):
    """One panel of the overview."""

    title: str
    label: str  # of the axis
    digits: int  # after the decimal point
    points: list[_Point]


class _TestPredictions(NamedTuple):
    """The test proteins of a run that have scored targets."""

    lengths: np.ndarray  # residues of each protein
    scores: np.ndarray  # mean accuracy, or mean squared error, of each protein
    targets: list[np.ndarray]  # the next two only for numbers
    predictions: list[np.ndarray]


def overview(runs: Sequence[dict[str, Any]], zero_shot: Sequence[ZeroShot] = ()) -> Figure:
    """Plot the scores of all runs, with one panel for each task and each zero-shot benchmark.

    Parameters
    ----------
    runs : sequence of dict
        The output of :func:`prott5nv.flip.report.read_runs`.
    zero_shot : sequence of ZeroShot, optional
        The output of :func:`prott5nv.flip.zero_shot.read_zero_shot`.

    Returns
    -------
    Figure
        Points with 95 % intervals: the baselines, the runs, and published scores. The published error
        of a task is left out if the run has other proteins, because it depends on the spread of the measured values.
    """
    panels = _panels(runs, zero_shot)
    columns = min(_PANELS_PER_ROW, len(panels))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [max(map(_height, row)) for row in rows]
    figure = Figure(figsize=(_PANEL_WIDTH * columns, sum(heights)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, panel in zip(axes.flat, panels, strict=False):
        _plot_panel(axis, panel)
    return figure


def overview_panels(runs: Sequence[dict[str, Any]], zero_shot: Sequence[ZeroShot] = ()) -> dict[str, Figure]:
    """Plot the panels of :func:`overview` one by one.

    Parameters
    ----------
    runs, zero_shot
        As for :func:`overview`.

    Returns
    -------
    dict of str to Figure
        Each panel by its title.
    """
    figures = {}
    for panel in _panels(runs, zero_shot):
        figures[panel.title] = Figure(figsize=(_PANEL_WIDTH, _height(panel)), layout="constrained")
        _plot_panel(figures[panel.title].subplots(), panel)
    return figures


def _height(panel: _Panel) -> float:
    """Return the height of a panel in inches. All points get the space of the longest name."""
    lines = max((point.name.count("\n") + 1 for point in panel.points), default=1)
    return _PANEL_FRAME + _POINT_HEIGHT * (1 + 0.6 * (lines - 1)) * len(panel.points)


def _panels(runs: Sequence[dict[str, Any]], zero_shot: Sequence[ZeroShot]) -> list[_Panel]:
    tasks = dict.fromkeys((run["task"], run["metric"]) for run in runs)
    return [_task_panel(*task, runs) for task in tasks] + [_zero_shot_panel(one) for one in zero_shot]


def _task_panel(task: str, metric: str, runs: Sequence[dict[str, Any]]) -> _Panel:
    of_task = [run for run in runs if (run["task"], run["metric"]) == (task, metric)]
    first = of_task[0]
    note = first["note"]
    points = [_Point(name, score, "baseline") for name, score in _distinct_baselines(of_task, metric)]
    several_models = len({run["model"]["sha256"] for run in runs}) > 1
    for name, run in zip(_distinct_names(of_task, several_models), of_task, strict=True):
        points.append(_Point(name, run["results"]["encoder"]["all"][metric], "ours"))
    if task in PUBLISHED and not (note and first["label"] == "number"):
        published = PUBLISHED[task].scores
        points += [_Point(f"{name}, published", {"mean": published[name]}, "published") for name in COMPARABLE]
    title = group_name(task, first["split"]) + (f"\n({note})" if note else "")
    if metric == "mse":
        digits = max(decimals(metric, point.score["mean"]) for point in points)
        return _Panel(title, "MSE, lower is better", digits, points)
    return _Panel(title, f"{metric}, higher is better", 3, points)


def group_name(task: str, split: str) -> str:
    """Return what a group of runs is called. A table of the user's own gives its name to the task and the split."""
    table, bracket, note = split.partition(" (")  # a note may follow, as the column of the targets may in the task
    return f"{task}{bracket}{note}" if table == task.partition(" (")[0] else f"{task}, {split}"


def _distinct_baselines(runs: Sequence[dict[str, Any]], metric: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the baselines of all runs. A name that occurs twice gets that of its run."""
    found = [
        (name, run["run"], scores["all"][metric])
        for run, baselines in zip(runs, own_baselines(runs), strict=True)
        for name, scores in baselines.items()
    ]
    names = [name for name, *_ in found]
    return [(f"{name} ({run})" if names.count(name) > 1 else name, score) for name, run, score in found]


def baseline_key(run: dict[str, Any], name: str) -> tuple[Any, ...]:
    """Return what decides whether two runs share a baseline: the proteins, its name and its scores."""
    return run["task"], run["split"], run["note"], name, run["results"].get(name)


def own_baselines(runs: Sequence[dict[str, Any]]) -> list[dict[str, dict[str, Any]]]:
    """Return for each run its baselines that no earlier run shares.

    Parameters
    ----------
    runs : sequence of dict
        The output of :func:`prott5nv.flip.report.read_runs`.

    Returns
    -------
    list of dict
        The scores of each baseline by its name.
    """
    seen: list[tuple[Any, ...]] = []
    own: list[dict[str, dict[str, Any]]] = []
    for run in runs:
        own.append({})
        for name, scores in run["results"].items():
            key = baseline_key(run, name)
            if name != "encoder" and key not in seen:
                seen.append(key)
                own[-1][name] = scores
    return own


def _zero_shot_panel(benchmark: ZeroShot) -> _Panel:
    points = [_Point(score.name, score._asdict(), score.kind) for score in benchmark.scores]
    return _Panel(benchmark.title, f"{benchmark.metric}, higher is better", 3, points)


def _plot_panel(axis: Axes, panel: _Panel) -> None:
    """Draw one line for each point: its name, its interval, and its value at the right edge."""
    for y, point in enumerate(panel.points):
        colour, marker = _STYLES[point.kind]
        mean = point.score["mean"]
        if "low" in point.score:
            axis.plot([point.score["low"], point.score["high"]], [y, y], color=colour, lw=2, solid_capstyle="butt")
        axis.plot(mean, y, marker, color=colour, ms=6)
        axis.text(
            1.02, y, f"{mean:.{panel.digits}f}", transform=axis.get_yaxis_transform(), va="center", fontsize="small"
        )
    axis.set_yticks(range(len(panel.points)), [_literal(point.name) for point in panel.points])
    axis.set_ylim(len(panel.points) - 0.5, -0.5)
    axis.margins(x=0.08)
    axis.grid(axis="x", color="#dddddd", lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("\n".join(map(_wrapped, _literal(panel.title).split("\n"))), fontsize="medium")
    axis.set(xlabel=_literal(panel.label))


def _distinct_names(runs: Sequence[dict[str, Any]], with_model: bool) -> list[str]:
    """Return head, mode and distinctive settings of each run, and its folder where several runs agree in these.

    The name of the model comes first if asked.
    """
    names = [", ".join(filter(None, (run["head"], run["mode"], run["settings"]))) for run in runs]
    if with_model:
        names = [f"{model_name(Path(run['model']['path']))}, {name}" for run, name in zip(runs, names, strict=True)]
    return [
        _wrapped(f"{run['run']}: {name}" if names.count(name) > 1 else name)
        for name, run in zip(names, runs, strict=True)
    ]


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _TITLE_WIDTH)


def run_plots(run: dict[str, Any]) -> dict[str, Figure]:
    """Plot the learning curves of a run, its predictions for the test set, and its scores by protein length.

    Parameters
    ----------
    run : dict
        One of the output of :func:`prott5nv.flip.report.read_runs`.

    Returns
    -------
    dict of str to Figure
        Three figures by their titles. The second is a confusion matrix for classes, and prediction against measurement
        for numbers.

    Raises
    ------
    ProtT5nvError
        If the folder of the run has no ``predictions.csv``.
    """
    test = _read_predictions(run)
    figures = [Figure(figsize=(_PANEL_WIDTH, 4), layout="constrained") for _ in range(3)]
    left, middle, right = (figure.subplots() for figure in figures)
    _plot_learning_curves(left, run)
    if run["label"] == "class":
        _plot_confusion(middle, run)
    else:
        _plot_against_measured(middle, test)
    _plot_by_length(right, test, run["metric"])
    return {axis.get_title(): figure for axis, figure in zip((left, middle, right), figures, strict=True)}


def _literal(text: str) -> str:
    """Return a label in which matplotlib shows dollar signs instead of parsing mathematics."""
    return text.replace("$", r"\$")


def _plot_learning_curves(axis: Axes, run: dict[str, Any]) -> None:
    metric = run["metric"]
    for seed, history in run["history"].items():
        metric = "macro_f1" if "macro_f1" in history[0] else metric  # a run with weighted classes
        epochs = [epoch["epoch"] for epoch in history]
        scores = [epoch[metric] for epoch in history]
        axis.plot(epochs, scores, "o-", ms=3, label=_literal(f"seed {seed}"))
    axis.set(title="Validation", xlabel="epoch", ylabel=_literal(metric))
    axis.locator_params("x", integer=True)
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
    axis.set(title="Percent of each true class, all seeds", xlabel="predicted", ylabel="true")


def _plot_against_measured(axis: Axes, test: _TestPredictions) -> None:
    measured, predicted = np.concatenate(test.targets), np.concatenate(test.predictions)
    size = np.clip(50 / np.sqrt(len(measured)), 2, 8)
    axis.plot(measured, predicted, ".", ms=size, alpha=0.4, color=_OURS)
    ends = [np.nanmin(measured), np.nanmax(measured)]
    axis.plot(ends, ends, color="grey", lw=1)
    axis.set(title="Test set, best seed", xlabel="measured", ylabel="predicted")


def _plot_by_length(axis: Axes, test: _TestPredictions, metric: str) -> None:
    lengths, scores = test.lengths, test.scores
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _LENGTH_BINS + 1)))
    bins = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, max(0, len(edges) - 2))
    groups = [bins == number for number in np.unique(bins)]
    means = [scores[group].mean() for group in groups]
    errors = np.array([1.96 * scores[group].std() / np.sqrt(group.sum()) for group in groups])
    # No mean lies outside of the range of the scores, as the bounds for few proteins do.
    bounds = np.minimum(errors, means - scores.min()), np.minimum(errors, scores.max() - means)
    axis.errorbar([np.median(lengths[group]) for group in groups], means, bounds, fmt="o-", capsize=3, color=_OURS)
    if lengths.max() > LONG:
        axis.axvline(LONG, color="grey", ls=":", lw=1)
    axis.set(title="By length, best seed: mean, 95 % interval", xlabel="residues", ylabel=_literal(metric))


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
