"""Proteins as points: principal components of pooled embeddings, as a picture or a page to explore.

Shapes: N proteins, D hidden size.
"""

from __future__ import annotations

import csv
import html
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prott5nv.errors import ProtT5nvError
from prott5nv.io.embeddings_h5 import EmbeddingStore

# Distinct under common colour blindness (Okabe and Ito 2008); then they repeat.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")


def pooled_embeddings(store: EmbeddingStore) -> tuple[list[str], np.ndarray]:
    """Accessions and one row per protein, the mean over its residues: ndarray, shape=(N, D), dtype=float32."""
    keys = list(store)
    if len(keys) < 3:
        raise ProtT5nvError(f"{store.path}: {len(keys)} proteins; a plot needs at least 3")
    return keys, np.stack([np.atleast_2d(store[key]).mean(axis=0, dtype=np.float32) for key in keys])


def principal_components(pooled_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions of largest variance.

    Parameters
    ----------
    pooled_ND : ndarray, shape=(N, D), dtype=float32

    Returns
    -------
    points : ndarray, shape=(N, 2), dtype=float64
    explained : ndarray, shape=(2,), dtype=float64
        Share of the variance along each.

    Examples
    --------
    >>> points, explained = principal_components(np.array([[0, 0, 1], [3, 0, 1], [6, 1, 1]], dtype=np.float32))
    >>> points.shape, bool(explained[0] > 0.9)
    ((3, 2), True)
    """
    centred_ND = pooled_ND - pooled_ND.mean(axis=0, dtype=np.float64)
    variances, directions_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    directions_D2 = directions_DD[:, :-3:-1]
    # The sign of a component is arbitrary; fixed here, so that the same data give the same picture.
    directions_D2 = directions_D2 * np.sign(directions_D2[np.abs(directions_D2).argmax(axis=0), [0, 1]])
    return centred_ND @ directions_D2, variances[:-3:-1] / max(variances.sum(), np.finfo(float).tiny)


def read_labels(path: str | os.PathLike, keys: Sequence[str]) -> list[str]:
    """One label per protein from a TSV file: a header line, accessions in the first column, labels in the second.

    Raises
    ------
    ProtT5nvError
        If the file has no two columns, or knows none of the proteins. One that it does not name is ``unknown``.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, delimiter="\t") if row]
    except (OSError, UnicodeDecodeError) as error:
        raise ProtT5nvError(f"{path}: {error}") from None
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise ProtT5nvError(f"{path}: line {number} has no second column; separate them by a tab")
    labels = {row[0]: row[1] for row in rows[1:]}
    if not labels.keys() & set(keys):
        raise ProtT5nvError(f"{path}: none of its accessions is among the proteins, such as {keys[0]}")
    return [labels.get(key, "unknown") for key in keys]


def write_png(path: Path, points_N2: np.ndarray, axes: Sequence[str], labels: Sequence[str] | None) -> None:
    """A picture; needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ProtT5nvError(
            "a PNG needs matplotlib (pip install matplotlib); or choose a name that ends in .html"
        ) from None
    figure = Figure(figsize=(7, 6), layout="constrained")
    axis = figure.subplots()
    for number, label in enumerate(sorted(set(labels or [""]))):
        chosen = [labels is None or other == label for other in labels or points_N2]
        axis.scatter(*points_N2[chosen].T, s=12, color=COLOURS[number % len(COLOURS)], label=label or None)
    axis.set_xlabel(axes[0])
    axis.set_ylabel(axes[1])
    if labels:
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def write_html(
    path: Path, keys: Sequence[str], points_N2: np.ndarray, axes: Sequence[str], labels: Sequence[str] | None
) -> None:
    """One page that needs nothing else: point at a protein to read its name, click on a label to hide it."""
    low, high = points_N2.min(axis=0), points_N2.max(axis=0)
    scaled = (points_N2 - low) / np.where(high > low, high - low, 1)
    groups = sorted(set(labels or ["proteins"]))
    data = {
        "keys": list(keys),
        "x": [round(float(x), 4) for x in scaled[:, 0]],
        "y": [round(1 - float(y), 4) for y in scaled[:, 1]],
        "group": [groups.index(label) for label in labels] if labels else [0] * len(keys),
        "groups": groups,
        "colours": [COLOURS[number % len(COLOURS)] for number in range(len(groups))],
    }
    page = _PAGE.replace("AXIS_X", html.escape(axes[0])).replace("AXIS_Y", html.escape(axes[1]))
    # "</" would end the script wherever it stands, in a label as well.
    path.write_text(page.replace("DATA", json.dumps(data).replace("</", "<\\/")), encoding="utf-8")


_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Protein embeddings</title>
<style>body{font:14px sans-serif;margin:1em}svg{border:1px solid #ccc;width:min(90vw,80vh);height:min(90vw,80vh)}
circle{opacity:.75}circle:hover{stroke:#000;opacity:1}
button{margin:.2em;border:0;border-left:1em solid;padding:.2em .6em}
.off{opacity:.3}</style>
<p>across: AXIS_X, upwards: AXIS_Y <b id="shown"></b></p><svg viewBox="-2 -2 104 104"></svg><div></div>
<script>
const data = DATA, svg = document.querySelector("svg"), shown = document.getElementById("shown"), dots = [];
data.keys.forEach((key, i) => {
  const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  const shape = {cx: 100 * data.x[i], cy: 100 * data.y[i], r: .8, fill: data.colours[data.group[i]]};
  for (const [attribute, value] of Object.entries(shape)) dot.setAttribute(attribute, value);
  dot.onmouseover = () => shown.textContent = key + " (" + data.groups[data.group[i]] + ")";
  dots.push(svg.appendChild(dot));
});
data.groups.forEach((group, g) => {
  const button = document.querySelector("div").appendChild(document.createElement("button"));
  button.textContent = group; button.style.borderColor = data.colours[g];
  button.onclick = () => {
    const hidden = button.classList.toggle("off");
    dots.forEach((dot, i) => { if (data.group[i] === g) dot.style.display = hidden ? "none" : ""; });
  };
});
</script></html>
"""
