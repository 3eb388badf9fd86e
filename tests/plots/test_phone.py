"""Pages on the screen of a phone, in Chromium."""

from __future__ import annotations

import asyncio
import csv

import numpy as np
import pytest

pytest.importorskip("plotly", reason="needs the plot extra")
pytest.importorskip("aiohttp", reason="drives Chromium")
from helpers.browser import CHROMIUM, open_page

from prott5nv.decoding.masking import AMINO_ACIDS
from prott5nv.io.record import Record
from prott5nv.plots.heat_map import write_heat_map
from prott5nv.plots.labels import UNKNOWN, Labels
from prott5nv.plots.scatter import write_html
from prott5nv.plots.track import Track, write_tracks

WIDTH = 390
BOXES = """Object.fromEntries(["xtitle", "legend"].map(name =>
    [name, (({top, bottom, left, right}) => ({top, bottom, left, right}))(
        document.querySelector(`#plot .${name}`).getBoundingClientRect())]))"""

SAVED = """new Promise(done => {
    URL.createObjectURL = blob => { blob.text().then(done); return "data:,"; };
    document.getElementById("save").click(); })"""

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
    texts = [UNKNOWN, *(f"group number {i % 11} of proteins" for i in range(35))]
    points_N2 = np.random.default_rng(0).normal(size=(36, 2))
    write_html(tmp_path / "page.html", [(f"P{i}",) * 2 for i in range(36)], points_N2, ["PC1", "PC2"],
               Labels("kind", texts), model="tiny 1")  # fmt: skip
    boxes, bottom, entries, saved = measure(
        tmp_path / "page.html",
        "plot.style.height && plot.querySelector('.xtitle').getBoundingClientRect().bottom "
        "< plot.querySelector('.legend').getBoundingClientRect().top",
        BOXES,
        "document.getElementById('plot').getBoundingClientRect().bottom",
        "document.querySelectorAll('#plot .legend .traces').length",
        SAVED,
    )
    assert boxes["xtitle"]["bottom"] < boxes["legend"]["top"] and boxes["legend"]["bottom"] <= bottom
    assert boxes["legend"]["left"] >= 0 and boxes["legend"]["right"] <= WIDTH
    assert entries == 12
    header, *rows = csv.reader(saved.splitlines())
    assert header == ["protein", "kind", "x", "y", "model"]
    assert {row[0]: (row[1], float(row[2]), row[4]) for row in rows} == {
        f"P{i}": ("" if text == UNKNOWN else text, pytest.approx(x), "tiny 1")
        for i, (text, x) in enumerate(zip(texts, points_N2[:, 0], strict=True))
    }


def test_the_columns_of_a_protein_stay_when_the_phone_is_turned(tmp_path):
    write_html(tmp_path / "page.html", [("P1", "P1"), ("P2", "P2")], np.eye(2), ["PC1", "PC2"],
               Labels("kind", ["a", "b"]), model="tiny 1")  # fmt: skip

    async def run():
        listed = "document.querySelector('#below h2')?.textContent"
        async with open_page((tmp_path / "page.html").as_uri(), tmp_path) as page:
            for width, height in ((WIDTH, 844), (844, WIDTH)):
                await page.resize(width, height)
                await page.wait_for(f"phone.matches === {str(width < 600).lower()} && window.ready.then(() => true)")
                if width == WIDTH:
                    await page.run("show({curveNumber: 0, pointNumber: 0})")
                assert await page.run(f"new Promise(done => setTimeout(() => done({listed}), 500))") == "P1"

    asyncio.run(run())


def test_a_strand_has_its_arrowhead_where_it_ends(tmp_path):
    track = Track("P1", "sp|P1|A_HUMAN", 20 * "MVK", 10 * "C" + 40 * "E" + 10 * "H", 60 * "9", "a header")
    write_tracks(tmp_path / "page.html", [track], "CEH", task="secondary_structure", model="tiny 1")
    widths, overflow, saved = measure(
        tmp_path / "page.html",
        "document.querySelectorAll('section svg svg').length === 2",
        "[...document.querySelectorAll('section svg svg')].map(line => line.querySelector('path')?.getBBox().width)",
        "new Set([...document.querySelectorAll('section svg svg')].map(line => getComputedStyle(line).overflow)).size",
        SAVED,
    )
    assert widths == [40 * 11, 40 * 11]  # both lines hold the whole strand, and their edges cut it off
    assert overflow == 1
    assert list(csv.DictReader(saved.splitlines())) == [
        {"protein": "P1", "original_id": "sp|P1|A_HUMAN", "length": "60", "prediction": track.prediction,
         "confidence": track.confidence, "model": "tiny 1"}
    ]  # fmt: skip


def test_a_heat_map_saves_the_columns_of_the_table(tmp_path):
    scores_LA = np.arange(60, dtype=np.float32).reshape(3, 20)
    record = Record("sp|P1|A_HUMAN", "MVK", "", 1)
    write_heat_map(tmp_path / "page.html", record, scores_LA, model="tiny 1", note="a note")
    [saved] = measure(tmp_path / "page.html", "document.querySelector('#below table')", SAVED)
    rows = list(csv.DictReader(saved.splitlines()))
    assert tuple(rows[0]) == (*("protein", "original_id", "position", "wild_type"), *AMINO_ACIDS, "mean", "model")
    assert rows[1]["position"] == "2" and {row["model"] for row in rows} == {"tiny 1"}
    assert [float(rows[1][letter]) for letter in AMINO_ACIDS] == scores_LA[1].tolist()
