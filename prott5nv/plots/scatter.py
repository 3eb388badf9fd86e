"""Proteins as points, in a picture or on a page to explore, coloured by a table.

Shapes: N proteins.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file

UNKNOWN = "unknown"
_PAGE = Path(__file__).with_name("scatter.html")
_GREY = "#bbbbbb"
# Distinct under common colour blindness (Okabe and Ito 2008).
_FEW_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
# Matplotlib's tab20 without its greys: about as many as can be told apart at all.
_MANY_COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf"),
    *("#aec7e8", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#dbdb8d", "#9edae5"),
)
# Matplotlib's viridis.
_SCALE = (
    *("#440154", "#482878", "#3e4989", "#31688e", "#26828e"),
    *("#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"),
)


@dataclass
class Labels:
    """What a table says of each protein.

    Attributes
    ----------
    title : str
        Of the table's column.
    texts : list of str, length N
        `UNKNOWN` where the table says nothing.
    """

    title: str
    texts: list[str]


@dataclass
class Group:
    """Proteins of one colour in a legend."""

    name: str
    colour: str
    count: int


@dataclass
class Colouring:
    """How proteins are coloured.

    Attributes
    ----------
    colours : list of str, length N
    groups : list of Group
        The legend; it is empty where there is nothing to tell apart.
    group : list of int, length N
        Of each protein, its place in `groups`; -1 for those on a scale.
    scale : tuple of float, optional
        The lowest and the highest number, where labels are numbers.
    """

    colours: list[str]
    groups: list[Group]
    group: list[int]
    scale: tuple[float, float] | None = None


def read_labels(path: str | os.PathLike, keys: Sequence[str]) -> Labels:
    """Read one label per protein from a TSV file: a header line, accessions in the first column, labels in the second.

    Raises
    ------
    ProtT5nvError
        If the file has no two columns, or knows none of the proteins.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, delimiter="\t") if row]
    except (OSError, UnicodeDecodeError) as error:
        raise ProtT5nvError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise ProtT5nvError(f"{path}: line {number} has no second column; separate them by a tab")
    labels = {row[0]: row[1] for row in rows[1:]}
    if not labels.keys() & set(keys):
        raise ProtT5nvError(f"{path}: none of its accessions is among the proteins, such as {keys[0]}")
    return Labels(rows[0][1], [labels.get(key) or UNKNOWN for key in keys])


def choose_colours(labels: Labels) -> Colouring:
    """Give each label a colour.

    More different numbers than there are colours make a scale. Of more different texts the most frequent ones get
    colours of their own, and the others are one grey group, as are unknown ones.

    Examples
    --------
    >>> choose_colours(Labels("family", ["globin", "kinase", "globin", UNKNOWN])).groups
    [Group(name='globin', colour='#0072B2', count=2), Group(name='kinase', colour='#E69F00', count=1), \
Group(name='unknown', colour='#bbbbbb', count=1)]
    """
    counts = Counter(text for text in labels.texts if text != UNKNOWN)
    frequent = sorted(counts, key=lambda text: (-counts[text], text))
    if len(frequent) > len(_MANY_COLOURS):
        try:
            return _on_a_scale([np.nan if text == UNKNOWN else float(text) for text in labels.texts])
        except ValueError:
            pass
    palette = _FEW_COLOURS if len(frequent) <= len(_FEW_COLOURS) else _MANY_COLOURS
    groups = [Group(text, colour, counts[text]) for text, colour in zip(frequent, palette, strict=False)]
    others = frequent[len(palette) :]
    if others:
        groups.append(Group(f"{len(others)} others", _GREY, sum(counts[text] for text in others)))
    place = {text: min(number, len(palette)) for number, text in enumerate(frequent)}
    if UNKNOWN in labels.texts:
        place[UNKNOWN] = len(groups)
        groups.append(Group(UNKNOWN, _GREY, labels.texts.count(UNKNOWN)))
    group = [place[text] for text in labels.texts]
    return Colouring([groups[number].colour for number in group], groups, group)


def write_png(path: Path, points_N2: np.ndarray, axes: Sequence[str], labels: Labels | None) -> None:
    """Draw a picture; needs matplotlib.

    Parameters
    ----------
    path : Path
    points_N2 : ndarray, shape=(N, 2), dtype=float64
    axes : sequence of str
        What the two coordinates are.
    labels : Labels, optional
        By which to colour.
    """
    try:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LinearSegmentedColormap, Normalize
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError:
        raise ProtT5nvError(
            "a PNG needs matplotlib (pip install matplotlib); or choose a name that ends in .html"
        ) from None
    colouring = choose_colours(labels) if labels else _plain(len(points_N2))
    figure = Figure(figsize=(8, 6), layout="constrained")
    axis = figure.subplots()
    axis.set_xlabel(axes[0])
    axis.set_ylabel(axes[1])
    axis.scatter(*points_N2.T, s=12, c=colouring.colours)
    if colouring.scale:
        colours = LinearSegmentedColormap.from_list("viridis", _SCALE)
        figure.colorbar(ScalarMappable(Normalize(*colouring.scale), colours), ax=axis, label=labels.title)
    if colouring.groups:
        dots = [
            Line2D([], [], linestyle="", marker="o", color=group.colour, label=f"{group.name} ({group.count:,})")
            for group in colouring.groups
        ]
        figure.legend(handles=dots, loc="outside right upper", fontsize="small", title=labels.title)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def write_html(
    path: Path, keys: Sequence[str], points_N2: np.ndarray, axes: Sequence[str], labels: Labels | None
) -> None:
    """Write one page that needs nothing else: point at a protein to read its name, click on a label to hide it.

    Parameters
    ----------
    path : Path
    keys : sequence of str
        Names of the N proteins.
    points_N2, axes, labels
        As for :func:`write_png`.
    """
    colouring = choose_colours(labels) if labels else _plain(len(keys))
    data = {
        "keys": list(keys),
        "x": [float(f"{x:.5g}") for x in points_N2[:, 0]],
        "y": [float(f"{y:.5g}") for y in points_N2[:, 1]],
        "axes": list(axes),
        "title": labels.title if labels else "",
        "labels": labels.texts if labels else [],
        "scaleColours": _SCALE,
        **asdict(colouring),
    }
    # "</" would end the script wherever it stands, in a label as well.
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    with whole_file(path) as temporary:
        temporary.write_text(_PAGE.read_text(encoding="utf-8").replace("DATA", text), encoding="utf-8")


def _plain(count: int) -> Colouring:
    return Colouring([_FEW_COLOURS[0]] * count, [], [-1] * count)


def _on_a_scale(numbers: list[float]) -> Colouring:
    values_N = np.array(numbers)
    unknown_N = ~np.isfinite(values_N)
    low, high = float(np.min(values_N[~unknown_N])), float(np.max(values_N[~unknown_N]))
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in _SCALE])
    share_N = np.nan_to_num((values_N - low) / (high - low)) * (len(stops) - 1)
    parts = [np.interp(share_N, range(len(stops)), stops[:, part]).round().astype(int) for part in range(3)]
    colours = [
        _GREY if unknown else "#{:02x}{:02x}{:02x}".format(*rgb)
        for unknown, *rgb in zip(unknown_N, *parts, strict=True)
    ]
    groups = [Group(UNKNOWN, _GREY, int(unknown_N.sum()))] if unknown_N.any() else []
    return Colouring(colours, groups, [0 if unknown else -1 for unknown in unknown_N], (low, high))
