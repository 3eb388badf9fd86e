"""Heat maps of the scores of all single substitutions, as a picture or as an interactive page.

Shapes: L residues of a protein, A amino acids.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prott5nv.decoding.masking import AMINO_ACIDS
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file
from prott5nv.plots.page import graph_objects, require_library, write_page

_RESIDUES_PER_ROW = 80
_MOST_RESIDUES_WITH_GAPS = 150  # with more, gaps between cells would cover the cells of the range slider
_MISSING_COLOUR = "#cccccc"
_COLOUR_TITLE = "log p(mutant) - log p(wild type)"


def write_heat_map(path: Path, name: str, sequence: str, scores_LA: np.ndarray) -> None:
    """Draw the scores of all single substitutions of one protein.

    Red cells are substitutions that the model finds more likely than the wild type, blue cells less likely ones.
    Black dots mark the wild type.

    Parameters
    ----------
    path : Path
        File to write. A name that ends in ``.png`` gives a picture, which needs matplotlib; any other name gives an
        interactive page, which needs plotly.
    name : str
        Name of the protein.
    sequence : str
        Its L residues.
    scores_LA : ndarray, shape=(L, A), dtype=float32
        Result of :func:`prott5nv.score_substitutions`.

    Raises
    ------
    ProtT5nvError
        If a library is missing, no residue has a score, or the file cannot be written.
    """
    if np.isnan(scores_LA).all():
        raise ProtT5nvError(f"{name} has none of the 20 amino acids: there is nothing to draw")
    # The maximum would let a few extreme substitutions take all the contrast.
    strongest = float(np.nanpercentile(np.abs(scores_LA), 99)) or 1.0
    write = _write_png if path.suffix == ".png" else _write_html
    write(path, name, sequence.upper(), scores_LA, strongest)


def _write_html(path: Path, name: str, sequence: str, scores_LA: np.ndarray, strongest: float) -> None:
    go = graph_objects()
    residues = [f"{letter}{position}" for position, letter in enumerate(sequence, 1)]
    gap = 1 if len(sequence) <= _MOST_RESIDUES_WITH_GAPS else 0
    whole_protein = [-0.5, len(sequence) - 0.5]
    heat_map = go.Heatmap(
        x=residues,
        y=list(AMINO_ACIDS),
        z=np.ascontiguousarray(scores_LA.T, dtype=np.float32),
        coloraxis="coloraxis",
        hovertemplate="<b>%{x}%{y}</b><br>score %{z:.2f}<extra></extra>",
        hoverongaps=False,
        xgap=gap,
        ygap=gap,
    )
    wild_type = go.Scatter(
        x=[residue for residue, letter in zip(residues, sequence, strict=True) if letter in AMINO_ACIDS],
        y=[letter for letter in sequence if letter in AMINO_ACIDS],
        mode="markers",
        marker={"color": "black", "size": 4},
        xaxis="x2",
        hoverinfo="skip",
        showlegend=False,
    )
    figure = go.Figure([heat_map, wild_type])
    figure.update_layout(
        template="simple_white",
        xaxis={
            "type": "category",
            "tickangle": -90,
            "range": whole_protein,
            "rangeslider": {"visible": True, "thickness": 0.08, "range": whole_protein},
        },
        # The dots have an axis of their own, because the range slider would draw them far too large.
        xaxis2={"type": "category", "overlaying": "x", "matches": "x", "visible": False},
        yaxis={"type": "category", "range": [len(AMINO_ACIDS) - 0.5, -0.5], "fixedrange": True, "dtick": 1},
        coloraxis={
            "cmin": -strongest,
            "cmax": strongest,
            "colorscale": "RdBu_r",
            "colorbar": {"title": {"text": _COLOUR_TITLE, "side": "right"}},
        },
        plot_bgcolor=_MISSING_COLOUR,
        margin={"t": 20, "l": 40, "r": 20, "b": 20},
        dragmode="pan",
    )
    write_page(
        path,
        figure,
        "heat_map.js",
        title=f"{name}: single substitutions",
        search="Go to a position",
        instructions="Red: the model finds the mutant more likely than the wild type; blue: less likely. Dots mark the "
        "wild type. Drag to move, scroll to zoom; the strip below shows the whole protein.",
    )


def _write_png(path: Path, name: str, sequence: str, scores_LA: np.ndarray, strongest: float) -> None:
    require_library(path)
    from matplotlib.figure import Figure

    starts = range(0, len(sequence), _RESIDUES_PER_ROW)
    figure = Figure(figsize=(14, 3.6 * len(starts)), layout="constrained")
    axes = figure.subplots(len(starts), squeeze=False)[:, 0]
    for axis, start in zip(axes, starts, strict=True):
        row = sequence[start : start + _RESIDUES_PER_ROW]
        image = axis.imshow(
            scores_LA[start : start + len(row)].T, cmap="RdBu_r", vmin=-strongest, vmax=strongest, aspect="auto"
        )
        wild_type = [(index, AMINO_ACIDS.index(letter)) for index, letter in enumerate(row) if letter in AMINO_ACIDS]
        if wild_type:
            axis.plot(*zip(*wild_type, strict=True), ".k", markersize=3)
        axis.set_facecolor(_MISSING_COLOUR)
        axis.set_xlim(-0.5, min(len(sequence), _RESIDUES_PER_ROW) - 0.5)
        axis.set_xticks(range(len(row)), row, fontsize=7)
        axis.set_yticks(range(len(AMINO_ACIDS)), AMINO_ACIDS, fontsize=7)
        axis.set_title(f"{start + 1} to {start + len(row)}", fontsize=8, loc="left")
    figure.suptitle(f"{name}: {_COLOUR_TITLE}; dots mark the wild type", parse_math=False)
    figure.colorbar(image, ax=axes.tolist(), shrink=0.8 / len(starts))
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
