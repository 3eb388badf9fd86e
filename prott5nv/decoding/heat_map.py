"""Scores of all single substitutions as a picture, or a page to explore.

Shapes: L residues of a protein, A amino acids.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np

from prott5nv.decoding.hiding import AMINO_ACIDS
from prott5nv.errors import ProtT5nvError

_RESIDUES_PER_ROW = 80


def write_heat_map(path: Path, name: str, sequence: str, scores_LA: np.ndarray) -> None:
    """Draw what :func:`prott5nv.score_substitutions` returned.

    Parameters
    ----------
    path : Path
        Ends in ``.png``, which needs matplotlib, or ``.html``, a page that needs nothing else.
    name, sequence : str
        Of the protein.
    scores_LA : ndarray, shape=(L, A), dtype=float32
    """
    # A few extreme substitutions would leave the others without colour.
    strongest = max(float(np.nanpercentile(np.abs(scores_LA), 99)), 1e-6) if not np.isnan(scores_LA).all() else 1.0
    if path.suffix == ".png":
        _write_png(path, name, sequence, scores_LA, strongest)
    else:
        data = {
            "sequence": sequence,
            "aminoAcids": AMINO_ACIDS,
            "strongest": strongest,
            "scores": [[None if np.isnan(x) else round(float(x), 3) for x in scores_A] for scores_A in scores_LA],
        }
        page = _PAGE.replace("NAME", html.escape(name)).replace("DATA", json.dumps(data))
        path.write_text(page, encoding="utf-8")


def _write_png(path: Path, name: str, sequence: str, scores_LA: np.ndarray, strongest: float) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ProtT5nvError(
            "a PNG needs matplotlib (pip install matplotlib); or choose a name that ends in .html"
        ) from None
    starts = range(0, len(sequence), _RESIDUES_PER_ROW)
    figure = Figure(figsize=(14, 3.6 * len(starts)), layout="constrained")
    axes = figure.subplots(len(starts), squeeze=False)[:, 0]
    for axis, start in zip(axes, starts, strict=True):
        stretch = sequence[start : start + _RESIDUES_PER_ROW]
        image = axis.imshow(
            scores_LA[start : start + len(stretch)].T, cmap="RdBu_r", vmin=-strongest, vmax=strongest, aspect="auto"
        )
        wild_type = [(place, AMINO_ACIDS.find(letter)) for place, letter in enumerate(stretch) if letter in AMINO_ACIDS]
        axis.plot(*zip(*wild_type, strict=True), ".k", markersize=3) if wild_type else None
        axis.set_xlim(-0.5, _RESIDUES_PER_ROW - 0.5)
        axis.set_xticks(range(len(stretch)), stretch, fontsize=7)
        axis.set_yticks(range(len(AMINO_ACIDS)), AMINO_ACIDS, fontsize=7)
        axis.set_title(f"{start + 1} to {start + len(stretch)}", fontsize=8, loc="left")
    figure.suptitle(f"{name}: log p(mutant) - log p(wild type); dots are the wild type")
    figure.colorbar(image, ax=axes.tolist(), shrink=0.8 / len(starts))
    figure.savefig(path, dpi=150)


_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>NAME: single substitutions</title>
<style>body{font:14px sans-serif;margin:1em}canvas{display:block;margin-bottom:8px}b{font-weight:600}</style>
<p><b>NAME</b>: log p(mutant) - log p(wild type). Red: the model finds the mutant more likely; blue: less; dots: the
wild type. <b id="shown"></b></p>
<script>
const data = DATA, size = 14, left = 24, top_ = 28, perRow = 80, shown = document.getElementById("shown");
const colour = score => {
  if (score === null) return "#ccc";
  const x = Math.max(-1, Math.min(1, score / data.strongest)), pale = Math.round(255 * (1 - Math.abs(x)));
  return x > 0 ? `rgb(255,${pale},${pale})` : `rgb(${pale},${pale},255)`;
};
for (let start = 0; start < data.sequence.length; start += perRow) {
  const stretch = data.sequence.slice(start, start + perRow);
  const canvas = document.body.appendChild(document.createElement("canvas"));
  canvas.width = left + size * perRow; canvas.height = top_ + size * data.aminoAcids.length;
  const pen = canvas.getContext("2d");
  pen.font = "11px sans-serif"; pen.textAlign = "center"; pen.textBaseline = "middle";
  [...data.aminoAcids].forEach((letter, a) => pen.fillText(letter, left / 2, top_ + size * (a + .5)));
  [...stretch].forEach((residue, i) => {
    const x = left + size * i, position = start + i + 1;
    pen.fillStyle = "#000"; pen.fillText(residue, x + size / 2, top_ - 6);
    if (position % 10 === 0) pen.fillText(position, x + size / 2, 8);
    [...data.aminoAcids].forEach((letter, a) => {
      pen.fillStyle = colour(data.scores[start + i][a]);
      pen.fillRect(x, top_ + size * a, size - 1, size - 1);
      if (letter === residue) {
        pen.fillStyle = "#000"; pen.fillRect(x + size / 2 - 2, top_ + size * (a + .5) - 2, 3, 3);
      }
    });
  });
  canvas.onmousemove = event => {
    const i = Math.floor((event.offsetX - left) / size), a = Math.floor((event.offsetY - top_) / size);
    if (i < 0 || i >= stretch.length || a < 0) { shown.textContent = ""; return; }
    const score = data.scores[start + i][a];
    const variant = stretch[i] + (start + i + 1) + data.aminoAcids[a];
    shown.textContent = variant + (score === null ? "" : " " + score.toFixed(2));
  };
}
</script></html>
"""
