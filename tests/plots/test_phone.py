"""Pages on the screen of a phone, in Chromium."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("plotly", reason="needs the plot extra")
pytest.importorskip("aiohttp", reason="drives Chromium")
from helpers.browser import CHROMIUM, open_page

from prott5nv.plots.labels import Labels
from prott5nv.plots.scatter import write_html
from prott5nv.plots.track import Track, write_tracks

WIDTH = 390
BOXES = """Object.fromEntries(["xtitle", "legend"].map(name =>
    [name, (({top, bottom, left, right}) => ({top, bottom, left, right}))(
        document.querySelector(`#plot .${name}`).getBoundingClientRect())]))"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


def measure(path, ready, *scripts):
    """Return the values of scripts on a page once it is ready, and check that it is not wider than the screen."""

    async def run():
        async with open_page(path.as_uri(), path.parent) as page:
            await page.resize(WIDTH, 844)
            await page.wait_for(ready)
            assert await page.run("document.documentElement.scrollWidth") == WIDTH
            return [await page.run(script) for script in scripts]

    return asyncio.run(run())


def test_the_whole_legend_is_below_the_points(tmp_path):
    texts = [f"group number {i % 12} of proteins" for i in range(36)]
    points_N2 = np.random.default_rng(0).normal(size=(36, 2))
    write_html(tmp_path / "page.html", [(f"P{i}",) * 2 for i in range(36)], points_N2, ["PC1", "PC2"],
               Labels("kind", texts), model="tiny 1")  # fmt: skip
    boxes, bottom, entries = measure(
        tmp_path / "page.html",
        "plot.style.height && plot.querySelector('.xtitle').getBoundingClientRect().bottom "
        "< plot.querySelector('.legend').getBoundingClientRect().top",
        BOXES,
        "document.getElementById('plot').getBoundingClientRect().bottom",
        "document.querySelectorAll('#plot .legend .traces').length",
    )
    assert boxes["xtitle"]["bottom"] < boxes["legend"]["top"] and boxes["legend"]["bottom"] <= bottom
    assert boxes["legend"]["left"] >= 0 and boxes["legend"]["right"] <= WIDTH
    assert entries == 12


def test_a_strand_has_its_arrowhead_where_it_ends(tmp_path):
    track = Track("P1", "P1", 20 * "MVK", 10 * "C" + 40 * "E" + 10 * "H", 60 * "9")
    write_tracks(tmp_path / "page.html", [track], "CEH", task="secondary_structure", model="tiny 1")
    widths, overflow = measure(
        tmp_path / "page.html",
        "document.querySelectorAll('section svg svg').length === 2",
        "[...document.querySelectorAll('section svg svg')].map(line => line.querySelector('path')?.getBBox().width)",
        "new Set([...document.querySelectorAll('section svg svg')].map(line => getComputedStyle(line).overflow)).size",
    )
    assert widths == [40 * 11, 40 * 11]  # both lines hold the whole strand, and their edges cut it off
    assert overflow == 1
