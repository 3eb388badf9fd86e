"""Read the figure back out of an HTML page of `prott5nv.plots`."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
from plotly.offline import get_plotlyjs


def read_figure(page: str) -> dict:
    """Return the Plotly figure of a page, with its binary arrays decoded."""
    [figure] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(figure, object_hook=_decode)


def check_self_contained(page: str, plotly: bool = True) -> None:
    """Check that the page loads nothing: it has no addresses outside of Plotly's own code, and four whole scripts."""
    assert page.count(get_plotlyjs()) == plotly
    own = page.replace(get_plotlyjs(), "").replace("http://www.w3.org/2000/svg", "")  # the name of SVG, not an address
    assert not re.search(r"https?:|//\w|src=|href=|<link|@import|url\(|fetch\(|XMLHttpRequest|import\(", own)
    assert own.count("<script") == own.count("</script>") == 4


def _decode(item: dict) -> object:
    if "bdata" not in item:
        return item
    array = np.frombuffer(base64.b64decode(item["bdata"]), np.dtype(item["dtype"]))
    return array.reshape([int(length) for length in item["shape"].split(",")]) if "shape" in item else array
