"""Pictures in the formats that journals and slides take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prott5nv.io.atomic import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Suffixes of pictures: of pixels (PNG), or of lines and text that stay sharp at every size (SVG and PDF).
PICTURES = (".png", ".svg", ".pdf")


def save_picture(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure in the format of its name, which appears only when it is complete.

    Parameters
    ----------
    figure : Figure
    path : Path
        File that ends in one of `PICTURES`.
    dpi : int, default 150
        Pixels per inch of a PNG.
    """
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format=path.suffix.removeprefix("."))
