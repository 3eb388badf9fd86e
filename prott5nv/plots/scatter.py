"""Scatter plots of proteins, as a picture or as an interactive page.

Shapes: N proteins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prott5nv.plots.labels import GREY, SCALE, UNKNOWN, Colouring, Group, Labels, choose_colours, one_colour
from prott5nv.plots.page import escaped, graph_objects, require_library, write_figure
from prott5nv.plots.pictures import save_picture

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MATPLOTLIB_MARKERS = {"circle": "o", "diamond": "D", "square": "s"}
# With more points than this, a page draws with WebGL: SVG, which is crisper and works everywhere, becomes slow.
_MOST_SVG_POINTS = 2000
_LONGEST_ENTRY = 40  # characters of a legend entry


def write_picture(path: Path, points_N2: np.ndarray, axes: Sequence[str], labels: Labels | None, *, model: str) -> None:
    """Draw proteins as points in a picture. Needs matplotlib.

    Parameters
    ----------
    path : Path
        File to write.
    points_N2 : ndarray, shape=(N, 2), dtype=float64
        Coordinates of the proteins.
    axes : sequence of str
        Titles of the two axes.
    labels : Labels, optional
        Labels that determine the colours.
    model : str
        Label of the model.

    Raises
    ------
    ProtT5nvError
        If matplotlib is missing, or the file cannot be written.
    """
    require_library(path)
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colouring = choose_colours(labels) if labels else one_colour(len(points_N2))
    colours_N, group_N = np.array(colouring.colours), np.array(colouring.group)
    area = float(np.clip(700 / np.sqrt(len(points_N2)), 4, 12))
    figure = Figure(figsize=(8, 6), layout="constrained")
    axis = figure.subplots()
    axis.set_title(f"{len(points_N2):,} proteins, model {model}", fontsize="medium", parse_math=False)
    axis.set_xlabel(axes[0])
    axis.set_ylabel(axes[1])
    for number in _drawing_order(colouring):
        of_group_N = group_N == number
        marker = _MATPLOTLIB_MARKERS[colouring.groups[number].shape] if number >= 0 else "o"
        axis.scatter(points_N2[of_group_N, 0], points_N2[of_group_N, 1], s=area, c=colours_N[of_group_N], marker=marker)
    if labels and colouring.scale:
        colours = LinearSegmentedColormap.from_list("viridis", SCALE)
        bar = figure.colorbar(ScalarMappable(Normalize(*colouring.scale), colours), ax=axis)
        bar.set_label(labels.title, parse_math=False)
    if labels and colouring.groups:
        handles = [
            Line2D(
                [], [], linestyle="", marker=_MATPLOTLIB_MARKERS[group.shape], color=group.colour, label=_entry(group)
            )
            for group in colouring.groups
        ]
        legend = figure.legend(handles=handles, loc="outside right upper", fontsize="small", title=labels.title)
        for text in (legend.get_title(), *legend.get_texts()):
            text.set_parse_math(False)  # a $ in a label is not a formula
    save_picture(figure, path)


def write_html(
    path: Path,
    proteins: Sequence[tuple[str, str]],
    points_N2: np.ndarray,
    axes: Sequence[str],
    labels: Labels | None,
    *,
    model: str,
) -> None:
    """Write an interactive page that shows proteins as points. Needs plotly.

    Parameters
    ----------
    path : Path
        File to write.
    proteins : sequence of tuple of (str, str)
        Accession and original id of each of the N proteins.
    points_N2 : ndarray, shape=(N, 2), dtype=float64
        Coordinates of the proteins.
    axes : sequence of str
        Titles of the two axes.
    labels : Labels, optional
        Labels that determine the colours. The hover text shows all their columns.
    model : str
        Label of the model.

    Raises
    ------
    ProtT5nvError
        If plotly is missing, or the file cannot be written.
    """
    figure = _figure(proteins, points_N2.astype(np.float32), axes, labels, model)
    write_figure(
        path,
        figure,
        "scatter.js",
        title=f"{len(proteins):,} proteins" + (f" by {labels.title}" if labels else ""),
        model=model,
        search="Find in ids and labels",
        instructions="Point at a protein to read its name. Click on it, or tap it, to list all that is known about it. "
        "Scroll to zoom, drag to move, double-click to see all; on a touch screen, use the buttons of the plot to zoom."
        + (" Click on a label to hide its proteins." if figure.layout.showlegend else ""),
    )


def _figure(
    proteins: Sequence[tuple[str, str]], points_N2: np.ndarray, axes: Sequence[str], labels: Labels | None, model: str
) -> go.Figure:
    """Build the Plotly figure, with one trace per group of proteins."""
    go = graph_objects()
    colouring = choose_colours(labels) if labels else one_colour(len(proteins))
    own_columns = []
    if any(key != original_id for key, original_id in proteins):
        own_columns.append(("original_id", [original_id for _, original_id in proteins]))
    columns = own_columns
    if labels:
        # In the table that the page saves, each name occurs once.
        own_names = {"protein", "model", *(name for name, _ in own_columns)}
        others = [column for column in labels.columns if column[0] not in own_names]
        title = labels.title if labels.title not in {*own_names, "x", "y"} else f"{labels.title} (label)"
        columns = [(title, labels.texts), *others, *own_columns]
    rows = zip((key for key, _ in proteins), *(texts for _, texts in columns), strict=True)
    hover_NC = np.array([[escaped(text) for text in row] for row in rows], dtype=object)
    template = "<b>%{customdata[0]}</b>" + "".join(
        f"<br>{_literal(header)}: %{{customdata[{index}]}}" for index, (header, _) in enumerate(columns, 1)
    )
    size = float(np.clip(600 / np.sqrt(len(proteins)), 4, 9))
    trace = go.Scattergl if len(proteins) > _MOST_SVG_POINTS else go.Scatter
    title = escaped(labels.title) if labels else ""
    figure = go.Figure()
    for number in _drawing_order(colouring):
        of_group_N = np.array(colouring.group) == number
        group = colouring.groups[number] if number >= 0 else None
        figure.add_trace(
            trace(
                x=points_N2[of_group_N, 0],
                y=points_N2[of_group_N, 1],
                customdata=hover_NC[of_group_N],
                hovertemplate=template + "<extra></extra>",
                mode="markers",
                marker={"size": size, "opacity": 0.8, **_marker(colouring, group, of_group_N)},
                name=escaped(_entry(group)) if group else "",
                showlegend=group is not None,
                legendrank=1 + number,
                selected={"marker": {"opacity": 1, "size": size + 4, "color": "black"}},
                unselected={"marker": {"opacity": 0.1}},
            )
        )
    meta = {
        "columns": ["protein", *(header for header, _ in columns)],
        "model": model,
        "unknown": UNKNOWN if labels else None,
    }
    figure.update_layout(
        template="simple_white",
        xaxis={"title": {"text": axes[0]}, "zeroline": False},
        yaxis={"title": {"text": axes[1]}, "zeroline": False},
        legend={"title": {"text": "" if colouring.scale else title}, "itemsizing": "constant"},
        showlegend=bool(colouring.groups),
        margin={"t": 30, "l": 60, "b": 60},
        dragmode="pan",
        hovermode="closest",
        meta=meta,
    )
    if colouring.scale:
        low, high = colouring.scale
        figure.update_layout(
            coloraxis={"cmin": low, "cmax": high, "colorscale": list(SCALE), "colorbar": {"title": {"text": title}}}
        )
    return figure


def _marker(colouring: Colouring, group: Group | None, of_group_N: np.ndarray) -> dict[str, object]:
    """Return the shape and the colour of a trace; proteins without a group are on the scale or have one colour."""
    if group:
        return {"symbol": group.shape, "color": group.colour}
    if colouring.scale:
        return {"symbol": "circle", "color": np.array(colouring.values)[of_group_N], "coloraxis": "coloraxis"}
    return {"symbol": "circle", "color": colouring.colours[0]}


def _drawing_order(colouring: Colouring) -> list[int]:
    """Return the indices of groups, or -1 for proteins without one, from the bottom of the plot to the top.

    Grey points are at the bottom and rare labels at the top, so that the frequent do not cover the rare.
    """
    present = sorted(set(colouring.group))
    return sorted(present, key=lambda number: number < 0 or colouring.groups[number].colour != GREY)


def _entry(group: Group) -> str:
    name = group.name if len(group.name) <= _LONGEST_ENTRY else f"{group.name[:19]}...{group.name[-18:]}"
    return f"{name} ({group.count:,})"


def _literal(header: str) -> str:
    """Escape a column header for a hover template, where ``%{`` would begin a placeholder."""
    return escaped(header).replace("%", "&#37;")
