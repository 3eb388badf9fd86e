"""Heat maps of the scores of all single substitutions, as a picture or as an interactive page.

Shapes: L residues of a protein, A amino acids.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np

from prott5nv.decoding.masking import AMINO_ACIDS
from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record, accession
from prott5nv.plots.page import graph_objects, require_library, write_figure
from prott5nv.plots.pictures import PICTURES, save_picture

_RESIDUES_PER_ROW = 80
# ColorBrewer's RdBu, which readers with the common forms of colour blindness can tell apart. Low scores are red.
_COLOURS = (
    *("#67001f", "#b2182b", "#d6604d", "#f4a582", "#fddbc7", "#f7f7f7"),
    *("#d1e5f0", "#92c5de", "#4393c3", "#2166ac", "#053061"),
)
_MISSING_COLOUR = "#cccccc"
_COLOUR_TITLE = "log p(mutant) - log p(wild type)"
_COLOUR_MEANING = "Red: the model finds the mutant less likely than the wild type; blue: more likely. "
_MEAN = "mean"


def write_heat_map(path: Path, protein: Record, scores_LA: np.ndarray, *, model: str, note: str = "") -> None:
    """Draw the scores of all single substitutions of one protein, and the mean score of each position.

    Red cells are substitutions that the model finds less likely than the wild type, blue cells more likely ones.
    Black dots mark the wild type.

    Parameters
    ----------
    path : Path
        File to write. A name that ends in ``.png``, ``.svg`` or ``.pdf`` gives a picture, which needs
        matplotlib; any other name gives an interactive page, which needs plotly.
    protein : Record
        The protein, of L residues.
    scores_LA : ndarray, shape=(L, A), dtype=float32
        Result of :func:`prott5nv.score_substitutions`.
    model : str
        Label of the model.
    note : str
        What readers should know about the model.

    Raises
    ------
    ProtT5nvError
        If a library is missing, no residue has a score, or the file cannot be written.
    """
    key = accession(protein.id)
    if np.isnan(scores_LA).all():
        raise ProtT5nvError(f"{key} has none of the 20 amino acids: there is nothing to draw")
    # The maximum would let a few extreme substitutions take all the contrast.
    strongest = float(np.nanpercentile(np.abs(scores_LA), 99)) or 1.0
    description = f"{model}; {note}" if note else model
    name, sequence = key if key == protein.id else f"{key} ({protein.id})", protein.sequence.upper()
    if path.suffix in PICTURES:
        _write_picture(path, name, sequence, scores_LA, strongest, description)
    else:
        columns = {"protein": key, "original_id": protein.id, "model": model}
        _write_html(path, name, sequence, scores_LA, strongest, description, columns)


def _mean_of_positions(sequence: str, scores_LA: np.ndarray) -> np.ndarray:
    """Return the mean score of the 19 substitutions of each position; NaN where it has no scores."""
    is_mutant_LA = np.array(list(sequence))[:, None] != np.array(list(AMINO_ACIDS))
    totals_L = np.where(is_mutant_LA, scores_LA, 0).sum(1)
    means_L: np.ndarray = (totals_L / is_mutant_LA.sum(1)).astype(np.float32)
    return means_L


def _write_html(
    path: Path,
    name: str,
    sequence: str,
    scores_LA: np.ndarray,
    strongest: float,
    description: str,
    columns: dict[str, str],
) -> None:
    go = graph_objects()
    residues = [f"{letter}{position}" for position, letter in enumerate(sequence, 1)]
    whole_protein = [-0.5, len(sequence) - 0.5]
    heat_map = go.Heatmap(
        x=residues,
        y=list(AMINO_ACIDS),
        z=np.ascontiguousarray(scores_LA.T, dtype=np.float32),
        coloraxis="coloraxis",
        hovertemplate="<b>%{x}%{y}</b><br>score %{z:.2f}<extra></extra>",
        hoverongaps=False,
    )
    # Plotly expects rows for all categories of the axis.
    mean_AL = np.full((len(AMINO_ACIDS) + 1, len(sequence)), np.nan, np.float32)
    mean_AL[-1] = _mean_of_positions(sequence, scores_LA)
    mean = go.Heatmap(
        x=residues,
        y=[*AMINO_ACIDS, _MEAN],
        z=mean_AL,
        coloraxis="coloraxis",
        hovertemplate="<b>%{x}</b><br>mean of its substitutions %{z:.2f}<extra></extra>",
        hoverongaps=False,
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
    figure = go.Figure([heat_map, mean, wild_type])
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
        yaxis={"type": "category", "range": [len(AMINO_ACIDS) + 0.5, -0.5], "fixedrange": True, "dtick": 1},
        coloraxis={
            "cmin": -strongest,
            "cmax": strongest,
            "colorscale": list(_COLOURS),
            "colorbar": {"title": {"text": _COLOUR_TITLE, "side": "right"}},
        },
        plot_bgcolor=_MISSING_COLOUR,
        margin={"t": 20, "l": 40, "r": 20, "b": 20},
        dragmode="pan",
        meta=columns,
    )
    write_figure(
        path,
        figure,
        "heat_map.js",
        title=f"{name}: single substitutions",
        model=description,
        search="Go to a position",
        instructions=f"{_COLOUR_MEANING}Dots mark the wild type, and the last row is the mean of each position. Point "
        "at a cell to read its score; the strongest hundredth of the scores has the colours of the ends. Drag to move, "
        "scroll to zoom; the strip below shows the whole protein, and moves the plot on a touch screen."
        + (" Grey: no score, because the residue is not one of the 20." if np.isnan(scores_LA).any() else ""),
    )


def _write_picture(
    path: Path, name: str, sequence: str, scores_LA: np.ndarray, strongest: float, description: str
) -> None:
    require_library(path)
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    colours = LinearSegmentedColormap.from_list("RdBu", _COLOURS).with_extremes(bad=_MISSING_COLOUR)
    rows_LA = np.column_stack([scores_LA, _mean_of_positions(sequence, scores_LA)])
    labels = [*AMINO_ACIDS, _MEAN]

    starts = range(0, len(sequence), _RESIDUES_PER_ROW)
    figure = Figure(figsize=(14, 3.6 * len(starts)), layout="constrained")
    axes = figure.subplots(len(starts), squeeze=False)[:, 0]
    for axis, start in zip(axes, starts, strict=True):
        row = sequence[start : start + _RESIDUES_PER_ROW]
        image = axis.imshow(
            rows_LA[start : start + len(row)].T, cmap=colours, vmin=-strongest, vmax=strongest, aspect="auto"
        )
        axis.hlines(len(AMINO_ACIDS) - 0.5, -0.5, len(row) - 0.5, color="white", linewidth=2)
        wild_type = [(index, AMINO_ACIDS.index(letter)) for index, letter in enumerate(row) if letter in AMINO_ACIDS]
        if wild_type:
            axis.plot(*zip(*wild_type, strict=True), ".k", markersize=3)
        axis.set_frame_on(False)  # the last row may be shorter
        axis.set_xlim(-0.5, min(len(sequence), _RESIDUES_PER_ROW) - 0.5)
        # All of two lines, so that the letters stand at one height.
        numbered = [f"{letter}\n{'' if position % 10 else position}" for position, letter in enumerate(row, start + 1)]
        axis.set_xticks(range(len(row)), numbered, fontsize=7)
        axis.set_yticks(range(len(labels)), labels, fontsize=7)
        axis.set_title(f"{start + 1} to {start + len(row)}", fontsize=8, loc="left")
    text = f"{name}: single substitutions\nModel: {description}\n{_COLOUR_MEANING}Dots mark the wild type."
    figure.suptitle("\n".join(map(_wrapped, text.split("\n"))), fontsize=10, parse_math=False)
    figure.colorbar(image, ax=axes.tolist(), shrink=0.8 / len(starts), label=_COLOUR_TITLE, extend="both")
    save_picture(figure, path)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 150)
