"""Tracks of the predicted class of each residue beside the sequence, as a picture or as an interactive page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file
from prott5nv.plots.labels import COLOURS, GREY
from prott5nv.plots.page import require_library, write_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RESIDUES_PER_ROW = 80
_MOST_ROWS = 150  # of a picture
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
    """

    protein: str
    original_id: str
    sequence: str
    prediction: str
    confidence: str


@dataclass(frozen=True)
class _Class:
    """How a class is drawn: ``helix``, ``strand``, ``line`` or ``box``, in a colour."""

    letter: str
    name: str
    shape: str
    colour: str


def write_tracks(path: Path, tracks: Iterable[Track], classes: Sequence[str], *, task: str, model: str) -> int:
    """Draw tracks, one for each protein.

    Parameters
    ----------
    path : Path
        File to write. A name that ends in ``.png`` gives a picture, which needs matplotlib; any other name gives an
        interactive page.
    tracks : iterable of Track
        The proteins.
    classes : sequence of str
        All letters of the predictions. H, E and C are drawn as helices, strands and lines.
    task : str
        What is predicted.
    model : str
        Label of the model.

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
    write = _write_png if path.suffix == ".png" else _write_html
    write(path, drawn, _styles(classes), f"{task.replace('_', ' ')}, predicted", model)
    return len(drawn)


def _styles(classes: Sequence[str]) -> list[_Class]:
    if set(classes) == set(_STATES):
        return [_Class(letter, *_STATES[letter]) for letter in sorted(classes, reverse=True)]
    return [
        _Class(letter, letter, "box", COLOURS[index] if index < len(COLOURS) else GREY)
        for index, letter in enumerate(classes)
    ]


def _write_html(path: Path, tracks: Sequence[Track], styles: Sequence[_Class], title: str, model: str) -> None:
    write_data(
        path,
        {"classes": [asdict(style) for style in styles], "proteins": [asdict(track) for track in tracks]},
        "track.js",
        title=title,
        model=model,
        search="Find in names and sequences",
        instructions="The bars below a track are the confidence: a full bar means a probability of 0.9 or more. Point "
        "at a residue, or tap it, to read its prediction.",
    )


def _write_png(path: Path, tracks: Sequence[Track], styles: Sequence[_Class], title: str, model: str) -> None:
    require_library(path)
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = [(track, start) for track in tracks for start in range(0, max(1, len(track.sequence)), _RESIDUES_PER_ROW)]
    if len(rows) > _MOST_ROWS:
        raise ProtT5nvError(
            f"{path}: a picture has room for {_MOST_ROWS} rows of {_RESIDUES_PER_ROW} residues, and these proteins "
            f"need {len(rows):,}; write a page (.html) instead"
        )
    style_of = {style.letter: style for style in styles}
    figure = Figure(figsize=(14, 0.95 * len(rows) + 1.3), layout="constrained")
    axes = figure.subplots(max(1, len(rows)), squeeze=False)[:, 0]
    for axis, (track, start) in zip(axes, rows, strict=False):
        _draw_row(axis, track, start, style_of)
    figure.suptitle(f"{title}\nModel: {model}", fontsize=11, parse_math=False)
    handles = [Patch(color=style.colour, label=style.name) for style in styles]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(9, len(handles)), fontsize="small")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _draw_row(axis: Axes, track: Track, start: int, style_of: dict[str, _Class]) -> None:
    """Draw up to 80 residues: letters at the top, the shapes of their classes, and bars of confidence."""
    from matplotlib.patches import FancyArrow, FancyBboxPatch

    end = min(start + _RESIDUES_PER_ROW, len(track.sequence))
    axis.set(xlim=(-0.5, _RESIDUES_PER_ROW - 0.5), ylim=(0, 3), yticks=[])
    axis.set_frame_on(False)
    axis.set_xticks([i - start for i in range(start, end) if (i + 1) % 10 == 0])
    axis.set_xticklabels([str(i + 1) for i in range(start, end) if (i + 1) % 10 == 0], fontsize=7)
    axis.tick_params(length=0, pad=1)
    if start == 0:
        name = track.protein if track.protein == track.original_id else f"{track.protein} ({track.original_id})"
        axis.set_title(name, fontsize=8, loc="left", parse_math=False)
    for index in range(start, end):
        axis.text(index - start, 2.6, track.sequence[index], ha="center", va="center", fontsize=7, family="monospace")
        height = (int(track.confidence[index]) + 1) / 10
        axis.bar(index - start, height, width=0.8, color="#999999")
    for letter, group in groupby(range(start, end), key=lambda i: track.prediction[i]):
        indices = list(group)
        left, length, style = indices[0] - start - 0.5, len(indices), style_of[letter]
        if style.shape == "line":
            axis.plot([left, left + length], [1.6, 1.6], color=style.colour, linewidth=2)
        elif style.shape == "strand":
            head = min(1.2, length)
            axis.add_patch(
                FancyArrow(left, 1.6, length, 0, width=0.45, head_width=0.9, head_length=head,
                           length_includes_head=True, color=style.colour, linewidth=0)
            )  # fmt: skip
        else:
            rounding = f"round,pad=0,rounding_size={0.35 if style.shape == 'helix' else 0}"
            axis.add_patch(
                FancyBboxPatch((left, 1.25), length, 0.7, boxstyle=rounding, color=style.colour, linewidth=0)
            )
