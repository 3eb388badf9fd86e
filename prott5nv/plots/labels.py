"""Labels of proteins, read from a table, and the colours that stand for them.

Shapes: N proteins.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import is_missing
from prott5nv.io.delimited import DelimitedTable
from prott5nv.io.source import open_source, source_name

UNKNOWN = "unknown"
GREY = "#bbbbbb"
# Okabe and Ito (2008): distinct for readers with the common forms of colour blindness.
_FEW_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
# Matplotlib's tab20 without its greys. No 18 colours are distinct for everyone, so these groups also differ in shape.
_MANY_COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf"),
    *("#aec7e8", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#dbdb8d", "#9edae5"),
)
_SHAPES = ("circle", "diamond", "square")
# Matplotlib's viridis.
SCALE = (
    *("#440154", "#482878", "#3e4989", "#31688e", "#26828e"),
    *("#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"),
)


@dataclass
class Labels:
    """Labels of N proteins.

    Attributes
    ----------
    title : str
        Header of the label column.
    texts : list of str, length=N
        Label of each protein; `UNKNOWN` where the table has none.
    columns : list of tuple of (str, list of str)
        Headers and texts of the other columns, for the hover text. Each list of texts has length N.
    """

    title: str
    texts: list[str]
    columns: list[tuple[str, list[str]]] = field(default_factory=list)


@dataclass(frozen=True)
class Group:
    """Proteins that share a colour and an entry in the legend.

    Attributes
    ----------
    name : str
        Text of the legend.
    colour : str
        Colour as ``#rrggbb``.
    shape : str
        ``circle``, ``diamond`` or ``square``.
    count : int
        Number of proteins.
    """

    name: str
    colour: str
    shape: str
    count: int


@dataclass
class Colouring:
    """Colours of N proteins.

    Attributes
    ----------
    colours : list of str, length=N
        Colour of each protein as ``#rrggbb``.
    groups : list of Group
        Entries of the legend; empty if all proteins look the same.
    group : list of int, length=N
        Index of each protein's group in `groups`; -1 for proteins without a group.
    scale : tuple of float, optional
        Lowest and highest value if the labels are numbers on a colour scale.
    values : list of float, length=N
        The labels as numbers if there is a scale, NaN for unknown ones; otherwise empty.
    """

    colours: list[str]
    groups: list[Group]
    group: list[int]
    scale: tuple[float, float] | None = None
    values: list[float] = field(default_factory=list)


def read_labels(path: str | os.PathLike[str], keys: Sequence[str]) -> Labels:
    """Read one label per protein from a TSV or CSV file, gzipped or not.

    The file has a header line. The first column holds accessions, the second the labels; further columns appear in the
    hover text. A label that is empty or a word such as ``NA`` is unknown.

    Parameters
    ----------
    path : str or PathLike
        The file or pipe, or ``-`` for standard input.
    keys : sequence of str
        Accessions of the N proteins, in the order of the result.

    Returns
    -------
    Labels

    Raises
    ------
    ProtT5nvError
        If the file is not a readable table of two or more columns, an accession has two labels, or no accession is
        among `keys`.
    """
    name = source_name(path)
    row_of_key: dict[str, list[str]] = {}
    with open_source(path) as stream:
        table = DelimitedTable(stream, name)
        if len(table.columns) < 2:
            raise ProtT5nvError(f"{name}: line {table.header_line} has no second column; separate columns with a tab")
        for line, cells in table:
            if row_of_key.setdefault(cells[0], cells)[1] != cells[1]:
                raise ProtT5nvError(f"{name}: line {line}: {cells[0]} has another label on an earlier line")
    if not row_of_key.keys() & set(keys):
        raise ProtT5nvError(f"{name}: none of its accessions is among the proteins, such as {keys[0]}")

    def column(index: int) -> list[str]:
        rows = (row_of_key.get(key, []) for key in keys)
        return [row[index] if row else "" for row in rows]

    _, title, *others = table.columns
    columns = [(header, column(index)) for index, header in enumerate(others, 2)]
    return Labels(title, [UNKNOWN if is_missing(text) else text for text in column(1)], columns)


def choose_colours(labels: Labels) -> Colouring:
    """Give each label a colour.

    If there are more distinct labels than colours and all of them are numbers, they form a colour scale. If they are
    texts, the most frequent ones get a colour each, and the others share a grey group. Unknown labels are grey, too.

    Parameters
    ----------
    labels : Labels
        Labels of N proteins.

    Returns
    -------
    Colouring

    Examples
    --------
    >>> for group in choose_colours(Labels("family", ["globin", "kinase", "globin", UNKNOWN])).groups:
    ...     print(group)
    Group(name='globin', colour='#0072B2', shape='circle', count=2)
    Group(name='kinase', colour='#E69F00', shape='circle', count=1)
    Group(name='unknown', colour='#bbbbbb', shape='circle', count=1)
    """
    counts = Counter(text for text in labels.texts if text != UNKNOWN)
    by_frequency = sorted(counts, key=lambda text: (-counts[text], text))
    if len(by_frequency) > len(_MANY_COLOURS):
        try:
            return _on_a_scale([float("nan") if text == UNKNOWN else float(text) for text in labels.texts])
        except ValueError:
            pass
    few = len(by_frequency) <= len(_FEW_COLOURS)
    palette = _FEW_COLOURS if few else _MANY_COLOURS
    groups = [
        Group(text, colour, _SHAPES[0] if few else _SHAPES[number % len(_SHAPES)], counts[text])
        for number, (text, colour) in enumerate(zip(by_frequency, palette, strict=False))
    ]
    others = by_frequency[len(palette) :]
    if others:
        groups.append(Group(f"{len(others)} others", GREY, _SHAPES[0], sum(counts[text] for text in others)))
    group_of_text = {text: min(number, len(palette)) for number, text in enumerate(by_frequency)}
    if UNKNOWN in labels.texts:
        group_of_text[UNKNOWN] = len(groups)
        groups.append(Group(UNKNOWN, GREY, _SHAPES[0], labels.texts.count(UNKNOWN)))
    group = [group_of_text[text] for text in labels.texts]
    return Colouring([groups[number].colour for number in group], groups, group)


def one_colour(count: int) -> Colouring:
    """Give all proteins the same colour."""
    return Colouring([_FEW_COLOURS[0]] * count, [], [-1] * count)


def _on_a_scale(values: list[float]) -> Colouring:
    values_N = np.array(values)
    unknown_N = ~np.isfinite(values_N)
    values_N[unknown_N] = np.nan
    low, high = float(np.nanmin(values_N)), float(np.nanmax(values_N))
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in SCALE])
    fraction_N = np.nan_to_num((values_N - low) / (high - low)) * (len(stops) - 1)
    channels = [np.interp(fraction_N, range(len(stops)), stops[:, c]).round().astype(int) for c in range(3)]
    colours = [
        GREY if unknown else "#{:02x}{:02x}{:02x}".format(*rgb)
        for unknown, *rgb in zip(unknown_N, *channels, strict=True)
    ]
    groups = [Group(UNKNOWN, GREY, _SHAPES[0], int(unknown_N.sum()))] if unknown_N.any() else []
    return Colouring(colours, groups, [0 if unknown else -1 for unknown in unknown_N], (low, high), values_N.tolist())
