"""Tracks hold the predictions that they were given."""

from __future__ import annotations

import json
import re

import pytest
from helpers.pages import check_self_contained

from prott5nv import ProtT5nvError
from prott5nv.plots.track import Track, write_tracks

TRACK = Track("P69905", "sp|P69905|HBA_HUMAN", "MVLSPA", "CCHHHE", "987654")


def read_data(page):
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def write(path, *tracks, classes="CEH"):
    return write_tracks(path, tracks, classes, task="secondary_structure", model="ss <1>")


def test_a_page_holds_every_prediction(tmp_path):
    assert write(tmp_path / "out.html", TRACK, Track("P2", "P2", "M", "C", "9")) == 2
    page = (tmp_path / "out.html").read_text()
    check_self_contained(page, plotly=False)
    assert "<h1>secondary structure, predicted</h1>" in page and "<p>Model: ss &lt;1&gt;</p>" in page
    first, second = read_data(page)["proteins"]
    assert first == {
        "protein": "P69905", "original_id": "sp|P69905|HBA_HUMAN", "sequence": "MVLSPA", "prediction": "CCHHHE",
        "confidence": "987654", "description": "",
    }  # fmt: skip
    assert second["protein"] == "P2"


def test_states_of_secondary_structure_have_shapes_and_other_classes_have_boxes(tmp_path):
    write(tmp_path / "out.html", TRACK)
    shapes = {item["letter"]: item["shape"] for item in read_data((tmp_path / "out.html").read_text())["classes"]}
    assert shapes == {"H": "helix", "E": "strand", "C": "line"}
    write(tmp_path / "out.html", Track("P1", "P1", "MV", "19", "55"), classes="123456789")
    classes = read_data((tmp_path / "out.html").read_text())["classes"]
    assert {item["shape"] for item in classes} == {"box"} and len({item["colour"] for item in classes}) == 9


def test_odd_names_stay_text(tmp_path):
    for name in ("</script><b>", "<!--<script>", "$data", "${x}", '"'):
        write(tmp_path / "out.html", Track(name, name, "MV", "HH", "11"))
        page = (tmp_path / "out.html").read_text()
        check_self_contained(page, plotly=False)
        assert read_data(page)["proteins"][0]["protein"] == name


def test_a_picture_has_one_arrowhead_for_each_strand(tmp_path, monkeypatch):
    """Shapes end where runs of residues end, not where rows end: the second row continues the strand of the first."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **b: (figures.append(figure), save(figure, *a, **b)))
    prediction = "CC" + 100 * "E" + 18 * "H"
    write(tmp_path / "out.png", Track("P1", "P1", 60 * "MV", prediction, 120 * "9"))
    [axis] = figures[0].axes
    shapes = axis.collections[0].get_paths()
    strands = [path.get_extents() for path in shapes if path.get_extents().width == 100]
    assert [(strand.x0, strand.x1) for strand in strands] == [(2, 102), (-78, 22)]
    assert axis.get_xlim() == (0, 80)  # the part of a shape beyond these is not drawn
    assert all(collection.get_clip_path() or collection.get_clip_box() for collection in axis.collections)
    letters = {len(collection.get_offsets()) for collection in axis.collections[1:]}
    assert letters == {60} and len(axis.collections) == 3


def test_a_picture_has_room_for_some_proteins(tmp_path):
    pytest.importorskip("matplotlib")
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        path = tmp_path / f"out.{suffix}"
        write(path, TRACK, Track("$x$", "$x$", 17 * "MVLSPA", 17 * "CCHHHE", 17 * "987654"))
        assert path.read_bytes().startswith(start)
    with pytest.raises(ProtT5nvError, match=r"write a page \(.html\) instead"):
        write(tmp_path / "many.png", *[TRACK] * 151)
    assert not (tmp_path / "many.png").exists()
