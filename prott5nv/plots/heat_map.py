"""Scores of all single substitutions as a picture, or a page to explore.

Shapes: L residues of a protein, A amino acids.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from prott5nv.decoding.masking import AMINO_ACIDS
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file

_PAGE = Path(__file__).with_name("heat_map.html")
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
    if np.isnan(scores_LA).all():
        raise ProtT5nvError(f"{name} has none of the 20 amino acids: there is nothing to draw")
    # A few extreme substitutions would leave the others without colour.
    strongest = float(np.percentile(np.abs(scores_LA[~np.isnan(scores_LA)]), 99))
    if path.suffix == ".png":
        _write_png(path, name, sequence, scores_LA, strongest)
    else:
        data = {
            "name": name,
            "sequence": sequence,
            "aminoAcids": AMINO_ACIDS,
            "strongest": strongest,
            "scores": [[None if np.isnan(x) else round(float(x), 3) for x in scores_A] for scores_A in scores_LA],
        }
        # "</" would end the script, in a name as well.
        page = _PAGE.read_text(encoding="utf-8").replace("DATA", json.dumps(data).replace("</", "<\\/"))
        with whole_file(path) as temporary:
            temporary.write_text(page, encoding="utf-8")


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
        if wild_type:
            axis.plot(*zip(*wild_type, strict=True), ".k", markersize=3)
        axis.set_xlim(-0.5, min(len(sequence), _RESIDUES_PER_ROW) - 0.5)
        axis.set_xticks(range(len(stretch)), stretch, fontsize=7)
        axis.set_yticks(range(len(AMINO_ACIDS)), AMINO_ACIDS, fontsize=7)
        axis.set_title(f"{start + 1} to {start + len(stretch)}", fontsize=8, loc="left")
    figure.suptitle(f"{name}: log p(mutant) - log p(wild type); dots are the wild type")
    figure.colorbar(image, ax=axes.tolist(), shrink=0.8 / len(starts))
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
