"""Plots the training curves of a run from its TensorBoard files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prott5nv.io.atomic import whole_file

PANELS = (
    ("Loss over target tokens", {"loss": "training", "val_loss": "validation"}),
    ("Residue perplexity", {"train_residue_perplexity": "training", "val_residue_perplexity": "validation"}),
    ("Residue accuracy", {"train_residue_accuracy": "training", "val_residue_accuracy": "validation"}),
)
UNIGRAM_PERPLEXITY = 18.1  # of a model that has learnt only the amino acid composition of UniRef50


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read all scalars below a folder, including those of earlier parts of a resumed run.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    dict of list of (int, float)
        Steps and values of each scalar by its name, in the order of the steps.
    """
    # TensorBoard ships no types.
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    points: dict[str, dict[int, float]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime):
        if not file.is_file():
            continue
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            points.setdefault(tag, {}).update({event.step: event.value for event in events.Scalars(tag)})
    return {tag: sorted(by_step.items()) for tag, by_step in points.items()}


def plot_curves(folder: Path) -> Path | None:
    """Plot loss, residue perplexity, residue accuracy and the scores of downstream validation against the step.

    Parameters
    ----------
    folder : Path
        Folder of a run.

    Returns
    -------
    Path or None
        ``curves.png`` in that folder, or None if nothing was logged.
    """
    scalars = read_scalars(folder)
    downstream = [(tag.replace("_", " ").replace("/", ": "), {tag: "validation"}) for tag in scalars if "/" in tag]
    panels = [(title, lines) for title, lines in [*PANELS, *downstream] if lines.keys() & scalars.keys()]
    if not panels:
        return None
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4.2), constrained_layout=True, squeeze=False)
    for axis, (title, lines) in zip(axes[0], panels, strict=True):
        for tag, label in lines.items():
            if tag in scalars:
                steps, values = zip(*scalars[tag], strict=True)
                validation = label == "validation"
                marked = validation or len(steps) == 1  # a line needs two points
                axis.plot(steps, values, "o-" if marked else "-", ms=3, lw=1.5 if validation else 0.8, label=label)
        if "perplexity" in title:
            axis.set_ylim(perplexity_limits([line.get_ydata() for line in axis.lines]))
            axis.axhline(UNIGRAM_PERPLEXITY, color="grey", ls=":", lw=1, label="composition of UniRef50 alone")
        axis.set(title=title, xlabel="optimizer step")
        axis.legend(frameon=False)
    path = folder / "curves.png"
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)
    return path


def perplexity_limits(curves: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Choose the limits of a panel that shows all but the first steps, whose perplexity may be many times higher.

    Parameters
    ----------
    curves : sequence of sequence of float
        The values of each curve, in the order of the steps.

    Returns
    -------
    lowest : float
    highest : float

    Examples
    --------
    >>> lowest, highest = perplexity_limits([[90.0, 30.0, 25.0, 20.0]])
    >>> round(lowest, 2), highest
    (16.29, 31.5)
    """
    lowest = min(UNIGRAM_PERPLEXITY, *(min(values) for values in curves))
    highest = max(max(values[len(values) // 4 :]) for values in curves)
    return 0.9 * lowest, max(1.3 * UNIGRAM_PERPLEXITY, 1.05 * highest)
