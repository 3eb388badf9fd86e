"""Tracks of the predicted class of each residue beside the sequence, as a picture or as an interactive page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING

from prott5nv.errors import ProtT5nvError
from prott5nv.plots.labels import COLOURS, GREY
from prott5nv.plots.page import require_library, write_data
from prott5nv.plots.pictures import PICTURES, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

_RESIDUES_PER_ROW = 80
_MOST_ROWS = 150  # of a picture
_BAR_COLOUR = "#999999"  # of the confidence
_ROW_HEIGHT, _NAME_HEIGHT = 3.5, 1.3  # of a picture, in units of a quarter of an inch
#: Names, shapes and colours of the states of secondary structure.
_STATES = {"H": ("helix", "helix", "#D55E00"), "E": ("strand", "strand", "#0072B2"), "C": ("other", "line", "#666666")}


@dataclass(frozen=True)
class Track:
    """The predicted classes of the residues of a protein.

    Attributes
    ----------
    protein : str
        Accession.
    original_id : str
        Id in the input.
    sequence : str
        Its residues.
    prediction : str
        One letter for each residue.
    confidence : str
        One digit for each residue: 9 means a probability of 0.9 or more.
    description : str
        Whole FASTA header, or empty.
    """

    protein: str
    original_id: str
    sequence: str
    prediction: str
    confidence: str
    description: str = ""


@dataclass(frozen=True)
class _Class:
    """How a class is drawn: ``helix``, ``strand``, ``line`` or ``box``, in a colour."""

    letter: str
    name: str
    shape: str
    colour: str


def write_tracks(
    path: Path, tracks: Iterable[Track], classes: Sequence[str], *, task: str, model: str, encoder: str = ""
) -> int:
    """Draw tracks, one for each protein.

    Parameters
    ----------
    path : Path
        File to write. A name that ends in ``.png``, ``.svg`` or ``.pdf`` gives a picture, which needs
        matplotlib; any other name gives an interactive page.
    tracks : iterable of Track
        The proteins.
    classes : sequence of str
        All letters of the predictions. H, E and C are drawn as helices, strands and lines.
    task : str
        What is predicted.
    model : str
        Label of the predictor.
    encoder : str
        Label of the encoder that it uses.

    Returns
    -------
    int
        Number of proteins.

    Raises
    ------
    ProtT5nvError
        If a library is missing, the proteins are too many for a picture, or the file cannot be written.
    """
    drawn = list(tracks)
    title, description = f"{task.replace('_', ' ')}, predicted", f"{model}, {encoder}" if encoder else model
    if path.suffix in PICTURES:
        _write_picture(path, drawn, _styles(classes), title, description)
    else:
        _write_html(path, drawn, _styles(classes), title, description, model)
    return len(drawn)


def _styles(classes: Sequence[str]) -> list[_Class]:
    if set(classes) == set(_STATES):
        return [_Class(letter, *_STATES[letter]) for letter in sorted(classes, reverse=True)]
    return [
        _Class(letter, letter, "box", COLOURS[index] if index < len(COLOURS) else GREY)
        for index, letter in enumerate(classes)
    ]


def _write_html(
    path: Path, tracks: Sequence[Track], styles: Sequence[_Class], title: str, description: str, model: str
) -> None:
    write_data(
        path,
        {
            "classes": [asdict(style) for style in styles],
            "proteins": [asdict(track) for track in tracks],
            "model": model,
        },
        "track.js",
        title=title,
        model=description,
        search="Find header or sequence",
        instructions="The bars below a track are the confidence: a full bar means a probability of 0.9 or more. Point "
        "at a residue, or tap it, to read its prediction.",
    )


def _write_picture(path: Path, tracks: Sequence[Track], styles: Sequence[_Class], title: str, description: str) -> None:
    require_library(path)
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = [(track, start) for track in tracks for start in range(0, max(1, len(track.sequence)), _RESIDUES_PER_ROW)]
    if len(rows) > _MOST_ROWS:
        raise ProtT5nvError(
            f"{path}: a picture has room for {_MOST_ROWS} rows of {_RESIDUES_PER_ROW} residues, and these proteins "
            f"need {len(rows):,}; write a page (.html) instead"
        )
    style_of = {style.letter: style for style in styles}
    # Axes for each row, and texts and patches of their own, would take many times as long. The edges of the axes cut
    # off a run of residues that continues in the row before or after.
    tops = list(accumulate((_ROW_HEIGHT + _NAME_HEIGHT * (start == 0) for _, start in rows), initial=0.0))
    units = max(1.0, tops[-1])
    width, height = 14.0, units / 4 + 1.3
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((0.25 / width, 0.2 / height, 1 - 0.5 / width, units / 4 / height))
    axis.set(xlim=(0, _RESIDUES_PER_ROW), ylim=(units, 0))
    axis.set_axis_off()
    patches: list[Patch] = []
    letters: dict[str, list[tuple[float, float]]] = {}
    for (track, start), top in zip(rows, tops, strict=False):
        patches += _draw_row(axis, track, start, top, style_of, letters)
    axis.add_collection(PatchCollection(patches, match_original=True), autolim=False)
    for letter, points in letters.items():
        axis.add_collection(_same_letters(figure, axis, letter, points), autolim=False)
    figure.suptitle(f"{title}\nModel: {description}", y=1 - 0.1 / height, va="top", fontsize=11, parse_math=False)
    handles = [Patch(color=style.colour, label=style.name) for style in styles]
    handles.append(Patch(color=_BAR_COLOUR, label="confidence; a full bar means 0.9 or more"))
    below_title = (0.5, 1 - 0.6 / height)
    columns = min(9, len(handles))
    figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=below_title,
        borderaxespad=0,
        ncols=columns,
        fontsize="small",
    )
    save_picture(figure, path, dpi=120)


def _draw_row(
    axis: Axes,
    track: Track,
    start: int,
    top: float,
    style_of: dict[str, _Class],
    letters: dict[str, list[tuple[float, float]]],
) -> list[Patch]:
    """Draw the name and the positions of up to 80 residues, and return their shapes and bars of confidence.

    One unit is a residue in x and a quarter of an inch in y, which grows downwards. The centres of the residues are
    added to `letters`.
    """
    from matplotlib.patches import Rectangle

    end = min(start + _RESIDUES_PER_ROW, len(track.sequence))
    if start == 0:
        name = track.protein if track.protein == track.original_id else f"{track.protein} ({track.original_id})"
        axis.text(0, top + 0.7, name, va="center", fontsize=8, weight="bold", parse_math=False)
        top += _NAME_HEIGHT
    bars: list[Patch] = []
    for index in range(start, end):
        x = index - start
        letters.setdefault(track.sequence[index], []).append((x + 0.5, top + 0.4))
        if (index + 1) % 10 == 0:
            axis.text(x + 0.5, top + 2.95, str(index + 1), ha="center", va="center", fontsize=7)
        height = (int(track.confidence[index]) + 1) / 10
        bars.append(Rectangle((x + 0.1, top + 2.65 - height), 0.8, height, color=_BAR_COLOUR, linewidth=0))
    runs = [
        (first - start, last - start, letter) for first, last, letter in _runs(track) if first < end and last > start
    ]
    return bars + [_shape(style_of[letter], first, last, top + 1.2) for first, last, letter in runs]


def _same_letters(figure: Figure, axis: Axes, letter: str, points: Sequence[tuple[float, float]]) -> PathCollection:
    """Return one letter at many points. Its outline is computed once."""
    from matplotlib.collections import PathCollection
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    outline = TextPath((0, 0), letter, size=7.5, prop=FontProperties("monospace"))
    box = outline.get_extents()
    centred = Affine2D().translate(-(box.x0 + box.x1) / 2, -2.7).scale(1 / 72)  # inches; 2.7 points: half a capital
    return PathCollection(
        [outline],
        offsets=points,
        offset_transform=axis.transData,
        transform=centred + figure.dpi_scale_trans,
        facecolor="black",
        linewidth=0,
        snap=False,  # as snapping makes some strokes twice as wide as others
    )


def _runs(track: Track) -> Iterator[tuple[int, int, str]]:
    """Yield the first residue, the end and the class of each run of residues of one class."""
    first = 0
    for letter, group in groupby(track.prediction):
        last = first + len(list(group))
        yield first, last, letter
        first = last


def _shape(style: _Class, left: float, right: float, y: float) -> Patch:
    """Return the shape of a run of residues, with its centre at `y`."""
    from matplotlib.patches import FancyArrow, FancyBboxPatch, Rectangle

    length = right - left
    if style.shape == "line":
        return Rectangle((left, y - 0.07), length, 0.14, color=style.colour, linewidth=0)
    if style.shape == "strand":
        return FancyArrow(
            left, y, length, 0, width=0.45, head_width=0.9, head_length=1, length_includes_head=True,
            color=style.colour, linewidth=0,
        )  # fmt: skip
    rounding = f"round,pad=0,rounding_size={0.35 if style.shape == 'helix' else 0}"
    return FancyBboxPatch((left, y - 0.35), length, 0.7, boxstyle=rounding, color=style.colour, linewidth=0)
