"""Scatter plots hold the data that they were given, as pages and as pictures."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers.pages import check_self_contained, read_figure

from prott5nv import ProtT5nvError
from prott5nv.plots.labels import UNKNOWN, Labels
from prott5nv.plots.scatter import write_html, write_picture

AXES = ["PC1", "PC2"]
ODD_TEXTS = [
    "</script>",
    "<!--<script>",
    "<b>bold</b>",
    "$x_1$",
    r"$\bad{$",
    "${name}",
    "$title",
    "a & b",
    "%{x}",
    '"',
    "\\",
    "é",
]


def write(path, texts, columns=None, keys=None):
    points_N2 = np.random.default_rng(0).normal(size=(len(texts), 2))
    proteins = [(key, key) for key in keys or [f"P{i}" for i in range(len(texts))]]
    write_html(path, proteins, points_N2, AXES, Labels("family", texts, columns or []), model="tiny 1")
    page = path.read_text(encoding="utf-8")
    return points_N2, page, read_figure(page)


@pytest.mark.parametrize("count, kind", [(40, "scatter"), (3000, "scattergl")])
def test_a_page_holds_every_point_once(tmp_path, count, kind):
    texts = [["kinase", "globin", UNKNOWN][i % 3] for i in range(count)]
    lengths = [str(i) for i in range(count)]
    points_N2, _, figure = write(tmp_path / "page.html", texts, [("length", lengths)])
    rows = {
        key: (x, y, text, length, trace["name"])
        for trace in figure["data"]
        for x, y, (key, text, length) in zip(trace["x"], trace["y"], trace["customdata"], strict=True)
    }
    assert sum(len(trace["x"]) for trace in figure["data"]) == len(rows) == count
    assert {trace["type"] for trace in figure["data"]} == {kind}
    for i, (x, y) in enumerate(points_N2.astype(np.float32)):
        name = f"{texts[i]} ({texts.count(texts[i]):,})"
        assert rows[f"P{i}"] == (x, y, texts[i], lengths[i], name)
    assert figure["layout"]["xaxis"]["title"]["text"] == "PC1" and figure["layout"]["yaxis"]["title"]["text"] == "PC2"


def test_grey_points_are_drawn_below_the_others(tmp_path):
    _, _, figure = write(tmp_path / "page.html", ["a", UNKNOWN, "b", "b"])
    assert [trace["name"] for trace in figure["data"]] == ["unknown (1)", "b (2)", "a (1)"]
    assert sorted(figure["data"], key=lambda trace: trace["legendrank"])[-1]["name"] == "unknown (1)"


def test_numbers_share_a_colour_axis(tmp_path):
    values = [str(i / 4) for i in range(30)]
    _, _, figure = write(tmp_path / "page.html", [*values, UNKNOWN])
    unknown, known = sorted(figure["data"], key=lambda trace: len(trace["x"]))
    np.testing.assert_array_equal(known["marker"]["color"], [float(value) for value in values])
    assert known["marker"]["coloraxis"] == "coloraxis" and unknown["marker"]["color"] == "#bbbbbb"
    axis = figure["layout"]["coloraxis"]
    assert (axis["cmin"], axis["cmax"], axis["colorbar"]["title"]["text"]) == (0, 7.25, "family")


def test_a_page_without_labels(tmp_path):
    proteins = [("P1", "P1"), ("P2", "P2"), ("P3", "P3")]
    write_html(tmp_path / "page.html", proteins, np.eye(3)[:, :2], AXES, None, model="<tiny> 1")
    page = (tmp_path / "page.html").read_text()
    [trace] = read_figure(page)["data"]
    assert trace["customdata"] == [["P1"], ["P2"], ["P3"]] and not trace["showlegend"]
    assert "<p>Model: &lt;tiny&gt; 1</p>" in page


def test_original_ids_are_beside_the_accessions(tmp_path):
    proteins = [("P69905", "sp|P69905|HBA_HUMAN"), ("x", "x"), ("y", "y")]
    write_html(tmp_path / "page.html", proteins, np.eye(3)[:, :2], AXES, None, model="tiny 1")
    figure = read_figure((tmp_path / "page.html").read_text())
    assert figure["data"][0]["customdata"][0] == ["P69905", "sp|P69905|HBA_HUMAN"]
    assert figure["layout"]["meta"]["columns"] == ["protein", "original_id"]


def test_columns_of_the_table_do_not_repeat_those_of_the_page(tmp_path):
    proteins = [("P69905", "sp|P69905|HBA_HUMAN"), ("x", "x"), ("y", "y")]
    columns = [(name, ["", "", ""]) for name in ("original_id", "model", "length")]
    labels = Labels("family", ["a", "b", "a"], columns)
    write_html(tmp_path / "page.html", proteins, np.eye(3)[:, :2], AXES, labels, model="tiny 1")
    figure = read_figure((tmp_path / "page.html").read_text())
    assert figure["layout"]["meta"]["columns"] == ["protein", "family", "length", "original_id"]


@pytest.mark.parametrize("name", ["x", "model", "protein"])
def test_a_label_named_as_a_column_of_the_page_is_renamed(tmp_path, name):
    labels = Labels(name, ["a", "b", "a"], [])
    proteins = [("P1", "P1"), ("P2", "P2"), ("P3", "P3")]
    write_html(tmp_path / "page.html", proteins, np.eye(3)[:, :2], AXES, labels, model="tiny 1")
    figure = read_figure((tmp_path / "page.html").read_text())
    assert figure["layout"]["meta"]["columns"] == ["protein", f"{name} (label)"]


def test_odd_texts_stay_text(tmp_path):
    """Neither HTML, nor the page's template, Plotly's templates and formulas may take a part of a name as their own."""
    _, page, figure = write(
        tmp_path / "page.html", ODD_TEXTS, [("<i>%{y}", ODD_TEXTS)], keys=[f"P{t}" for t in ODD_TEXTS]
    )
    check_self_contained(page)

    def unescaped(text):
        for entity, letter in [("&lt;", "<"), ("&gt;", ">"), ("&#36;", "$"), ("&amp;", "&")]:
            text = text.replace(entity, letter)
        return text

    shown = [text for trace in figure["data"] for row in trace["customdata"] for text in row]
    assert not any(letter in text for text in shown for letter in "<>$")
    rows = [[unescaped(text) for text in row] for trace in figure["data"] for row in trace["customdata"]]
    assert sorted(rows) == sorted([f"P{text}", text, text] for text in ODD_TEXTS)
    assert {unescaped(trace["name"]) for trace in figure["data"]} == {f"{text} (1)" for text in ODD_TEXTS}
    assert figure["data"][0]["hovertemplate"].count("%{") == 3


def test_a_picture_of_any_labels(tmp_path):
    pytest.importorskip("matplotlib")
    for texts in (ODD_TEXTS, [str(i) for i in range(30)], ["a"] * 5, [*"abcdefghijklmnopqrstuvwxyz", UNKNOWN]):
        points_N2 = np.random.default_rng(0).normal(size=(len(texts), 2))
        for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
            path = tmp_path / f"out.{suffix}"
            write_picture(path, points_N2, AXES, Labels("$x", texts), model="$tiny$ 1")
            assert path.read_bytes().startswith(start)
            path.unlink()


@pytest.mark.parametrize("library, suffix", [("plotly", "html"), ("matplotlib", "png")])
def test_a_missing_library_is_one_line_with_the_remedy(tmp_path, monkeypatch, library, suffix):
    for module in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    path, points_N2 = tmp_path / f"out.{suffix}", np.zeros((3, 2))
    with pytest.raises(ProtT5nvError, match=r"pip install 'prott5nv\[plot\]'") as error:
        if suffix == "png":
            write_picture(path, points_N2, AXES, None, model="tiny 1")
        else:
            write_html(path, [("P1", "P1")] * 3, points_N2, AXES, None, model="tiny 1")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
