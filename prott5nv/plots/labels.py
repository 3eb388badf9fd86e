"""Labels of proteins, read from a table, and the colours that stand for them.

Shapes: N proteins.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from prott5nv.errors import ProtT5nvError, warn
from prott5nv.io.annotations import AnnotatedRow, read_annotations
from prott5nv.io.cleaning import InputWarning, is_missing
from prott5nv.io.source import source_name
from prott5nv.io.text import counted, parse_number

UNKNOWN = "unknown"
GREY = "#bbbbbb"
# Okabe and Ito (2008): distinct for readers with the common forms of colour blindness.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
# No more colours are distinct for everyone, so further groups use the same colours with other shapes.
_SHAPES = ("circle", "diamond", "square")
_MOST_GROUPS = len(COLOURS) * len(_SHAPES)
_MOST_GROUPS_BY_DEFAULT = 20
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


def read_labels(path: str | os.PathLike[str], proteins: Sequence[tuple[str, str]], column: str | None = None) -> Labels:
    """Read one label per protein from a TSV or CSV file, gzipped or not, such as one that UniProt offers.

    The file has a header line. The ids are in the column that names most of the proteins: by accession, by entry name
    such as ``HBA_HUMAN``, by full id, or by the accession in an id of UniRef. All other columns appear in the hover
    text. A label that is empty or a word such as ``NA`` is unknown, and so is infinity among numbers.

    Parameters
    ----------
    path : str or PathLike
        The file or pipe, or ``-`` for standard input.
    proteins : sequence of tuple of (str, str)
        Accession and original id of each of the N proteins, in the order of the result.
    column : str, optional
        Header of the label column. By default it is the first column with 2 to 20 different labels, some of them
        shared, or else the first column of all.

    Returns
    -------
    Labels

    Raises
    ------
    ProtT5nvError
        If the file is not a readable table of two or more columns, it has no such column, a protein has two labels, or
        no column names the proteins.

    Warns
    -----
    InputWarning
        If labels of proteins are unknown, in which case the message counts them. If a few texts among numbers prevent a
        colour scale.
    """
    name = source_name(path)
    annotations = read_annotations(path, proteins)
    headers = annotations.columns
    if not annotations.rows:
        raise ProtT5nvError(f"{name}: none of its accessions is among the proteins, such as {proteins[0][0]}")
    if column is not None and column not in headers:
        raise ProtT5nvError(f"{name}: no column {column!r}; choose one of {', '.join(headers)}")

    first_row: dict[int, list[str]] = {}
    first_difference: dict[int, AnnotatedRow] = {}
    for row in annotations.rows:
        first = first_row.setdefault(row.protein, row.cells)
        for index, (cell, other) in enumerate(zip(row.cells, first, strict=True)):
            if cell != other:
                first_difference.setdefault(index, row)
    no_cells = [""] * len(headers)
    texts = [
        [first_row.get(number, no_cells)[index] for number in range(len(proteins))] for index in range(len(headers))
    ]
    chosen = headers.index(column) if column is not None else _first_with_groups(texts)
    if chosen in first_difference:
        row = first_difference[chosen]
        raise ProtT5nvError(f"{name}: line {row.line}: {row.name} has another label on an earlier line")
    others = [
        (header, cells) for index, (header, cells) in enumerate(zip(headers, texts, strict=True)) if index != chosen
    ]
    labels = _known_labels(texts[chosen])
    _warn_of_unknown(f"{name}: {headers[chosen]}", labels, texts[chosen], len(first_row))
    _warn_of_texts_among_numbers(f"{name}: {headers[chosen]}", labels)
    return Labels(headers[chosen], labels, others)


def _known_labels(texts: list[str]) -> list[str]:
    """Replace missing labels, and infinity among numbers, by `UNKNOWN`."""
    labels = [UNKNOWN if is_missing(text) else text for text in texts]
    numbers = {label: parse_number(label) for label in labels if label != UNKNOWN}
    values = [value for value in numbers.values() if value is not None]
    if len(values) < len(numbers) or not any(map(math.isfinite, values)):
        return labels
    return [UNKNOWN if math.isinf(numbers.get(label) or 0) else label for label in labels]


def _warn_of_unknown(what: str, labels: list[str], texts: list[str], num_rows: int) -> None:
    """Warn of proteins without a label, with the number of each reason."""
    missing = sum(is_missing(text) or text == UNKNOWN for text in texts)
    absent = len(texts) - num_rows
    infinite = labels.count(UNKNOWN) - missing
    reasons = [
        f"{count:,} {reason}"
        for count, reason in [
            (absent, "not in the table"),
            (missing - absent, "empty, or a word such as NA"),
            (infinite, "infinite"),
        ]
        if count
    ]
    if reasons:
        message = (
            f"{what}: unknown for {missing + infinite:,} of {counted(len(labels), 'protein')} ({'; '.join(reasons)})"
        )
        warn(message, InputWarning)


def _warn_of_texts_among_numbers(what: str, labels: list[str]) -> None:
    """Warn if labels would be on a colour scale without the few that are not numbers, such as ``>90`` or ``65,5``."""
    known = [label for label in labels if label != UNKNOWN]
    texts = [label for label in known if parse_number(label) is None]
    without_comma = {label: label.replace(",", ".") for label in texts}
    values = [without_comma.get(label, label) for label in known]
    numbers = [value for value in values if parse_number(value) is not None]
    if not texts or 2 * len(numbers) <= len(known) or _measured(numbers) is None:
        return
    # A text that is no number even without its comma has precedence, because correcting it needs thought.
    first = next((label for label in texts if parse_number(without_comma[label]) is None), texts[0])
    remedy = "; write numbers such as 65.5 and 1200, without commas" if any("," in label for label in texts) else ""
    message = (
        f"{what}: {len(known) - len(texts):,} of {counted(len(known), 'value')} are numbers; {first!r} is not, so the "
        f"values are groups and not on a colour scale{remedy}"
    )
    warn(message, InputWarning)


def _first_with_groups(texts: list[list[str]]) -> int:
    """Return the first column with a few different labels, some of them shared; the first of all if there is none."""
    for index, cells in enumerate(texts):
        known = [cell for cell in cells if not is_missing(cell)]
        if 2 <= len(set(known)) <= _MOST_GROUPS_BY_DEFAULT and len(set(known)) < len(known):
            return index
    return 0


def choose_colours(labels: Labels) -> Colouring:
    """Give each label a colour.

    Up to 8 labels differ in colour, and up to 24 in colour and shape. Numbers form a colour scale if there are more
    than 24 different ones, or more than 8 that fewer than two proteins share on average. Of more than 24 texts, the
    most frequent ones are groups, and the others share a grey group. Unknown labels are grey, too.

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
    by_frequency = sorted(counts, key=lambda text: (-counts[text], _with_padded_numbers(text), text))
    if values := _measured(labels.texts):
        return _on_a_scale(values)
    groups = [
        Group(text, COLOURS[number % len(COLOURS)], _SHAPES[number // len(COLOURS)], counts[text])
        for number, text in enumerate(by_frequency[:_MOST_GROUPS])
    ]
    others = by_frequency[_MOST_GROUPS:]
    if others:
        groups.append(Group(f"{len(others)} others", GREY, _SHAPES[0], sum(counts[text] for text in others)))
    group_of_text = {text: min(number, _MOST_GROUPS) for number, text in enumerate(by_frequency)}
    if UNKNOWN in labels.texts:
        group_of_text[UNKNOWN] = len(groups)
        groups.append(Group(UNKNOWN, GREY, _SHAPES[0], labels.texts.count(UNKNOWN)))
    group = [group_of_text[text] for text in labels.texts]
    return Colouring([groups[number].colour for number in group], groups, group)


def one_colour(count: int) -> Colouring:
    """Give all proteins the same colour."""
    return Colouring([COLOURS[0]] * count, [], [-1] * count)


def _measured(texts: Sequence[str]) -> list[float | None] | None:
    """Return the values of a measurement, NaN for unknown ones; None for texts and for the numbers of groups."""
    known = [text for text in texts if text != UNKNOWN]
    numbers = {text: parse_number(text) for text in known}
    most = _MOST_GROUPS if len(known) >= 2 * len(numbers) else len(COLOURS)
    if None in numbers.values() or len(set(numbers.values())) <= most:
        return None
    return [float("nan") if text == UNKNOWN else numbers[text] for text in texts]


def _on_a_scale(values: list[float | None]) -> Colouring:
    values_N = np.array(values, dtype=np.float64)
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


def _with_padded_numbers(text: str) -> str:
    """Return a text that sorts ``group 2`` before ``group 10``."""
    return re.sub(r"[0-9]+", lambda number: number[0].zfill(20), text)
