"""HTML pages. A page holds its data and all of its code, Plotly included, so it opens without a network."""

from __future__ import annotations

import html
import json
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from prott5nv.extras import require_extra
from prott5nv.io.atomic import write_text
from prott5nv.plots.pictures import PICTURES

if TYPE_CHECKING:
    import plotly.graph_objects as go

_FOLDER = Path(__file__).parent


def graph_objects() -> Any:
    """Return the module ``plotly.graph_objects``, or raise an error that says how to install it."""
    require_extra("plot", "an HTML page", "plotly")
    import plotly.graph_objects as go

    return go


def require_library(path: Path) -> None:
    """Raise an error if the library that draws a file is missing, without importing it.

    Parameters
    ----------
    path : Path
        File to write: a picture if it ends in ``.png``, ``.svg`` or ``.pdf``, otherwise a page.

    Raises
    ------
    ProtT5nvError
        Names the library and the command that installs it.
    """
    if path.suffix in PICTURES:
        require_extra("plot", "a picture", "matplotlib")
    else:
        require_extra("plot", "an HTML page", "plotly")


def write_figure(path: Path, figure: go.Figure, script: str, **texts: str) -> None:
    """Write a Plotly figure as a page; see :func:`write_page` for the parameters.

    Escape text of users in the figure with :func:`escaped`.
    """
    from plotly.offline import get_plotlyjs

    # Plotly's JSON writes each "<" as "\\u003c", so no name in the data can end the script element.
    write_page(path, figure.to_json(engine="json"), script, library=get_plotlyjs(), **texts)


def write_data(path: Path, data: object, script: str, **texts: str) -> None:
    """Write a page that draws JSON data without Plotly; see :func:`write_page` for the parameters."""
    write_page(path, json.dumps(data).replace("<", "\\u003c"), script, **texts)


def write_page(
    path: Path, data: str, script: str, *, title: str, model: str, search: str, instructions: str, library: str = ""
) -> None:
    """Write one self-contained HTML page with a search box.

    Parameters
    ----------
    path : Path
        File to write.
    data : str
        JSON for the script, without ``<``.
    script : str
        Name of the JavaScript file in this folder that draws the data and answers the search box.
    title : str
        Heading of the page.
    model : str
        Label of the model, and what should be known about it.
    search : str
        Placeholder of the search box.
    instructions : str
        One line that explains how to use the page.
    library : str
        JavaScript that the script needs.

    Raises
    ------
    ProtT5nvError
        If the file cannot be written.
    """
    # Template replaces every placeholder in one pass, so a $ in the data stays as it is.
    page = Template((_FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        model=html.escape(model),
        placeholder=html.escape(search),
        help=html.escape(instructions),
        library=library,
        data=data,
        controls=(_FOLDER / "controls.js").read_text(encoding="utf-8"),
        script=(_FOLDER / script).read_text(encoding="utf-8"),
    )
    write_text(path, page)


def escaped(text: str) -> str:
    """Escape text for a Plotly figure, which would otherwise interpret tags such as ``<b>`` and formulas in ``$``.

    >>> escaped("<b>A&B $x$")
    '&lt;b&gt;A&amp;B &#36;x&#36;'
    """
    return html.escape(text, quote=False).replace("$", "&#36;")
