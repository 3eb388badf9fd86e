"""Heat maps hold the scores that they were given."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.pages import check_self_contained, read_figure
from matplotlib.colors import to_hex

from prott5nv import ProtT5nvError
from prott5nv.decoding.masking import AMINO_ACIDS
from prott5nv.io.record import Record
from prott5nv.plots.heat_map import write_heat_map

SEQUENCE = "MSLKXA"


def protein(name: str, sequence: str) -> Record:
    return Record(name, sequence, name, 1)


def scores_of(sequence: str) -> np.ndarray:
    scores_LA = np.random.default_rng(0).normal(-1, 2, (len(sequence), 20)).astype(np.float32)
    for index, letter in enumerate(sequence):
        if letter in AMINO_ACIDS:
            scores_LA[index, AMINO_ACIDS.index(letter)] = 0
        else:
            scores_LA[index] = np.nan
    return scores_LA


def test_a_page_holds_the_scores_and_marks_the_wild_type(tmp_path):
    scores_LA = scores_of(SEQUENCE)
    write_heat_map(tmp_path / "map.html", protein("P1", SEQUENCE.lower()), scores_LA, model="tiny <1>", note="a test")
    page = (tmp_path / "map.html").read_text()
    check_self_contained(page)
    figure = read_figure(page)
    cells, mean, wild_type = figure["data"]
    np.testing.assert_array_equal(cells["z"], scores_LA.T)
    assert cells["x"] == ["M1", "S2", "L3", "K4", "X5", "A6"] and cells["y"] == list(AMINO_ACIDS)
    assert list(zip(wild_type["x"], wild_type["y"], strict=True)) == [
        *(("M1", "M"), ("S2", "S"), ("L3", "L"), ("K4", "K"), ("A6", "A"))
    ]
    expected = [scores_LA[i].sum() / 19 for i in range(6)]  # the wild type has the score 0
    assert mean["y"][-1] == "mean" and np.isnan(mean["z"][:-1]).all()
    np.testing.assert_allclose(mean["z"][-1], expected, rtol=1e-5)
    assert "<p>Model: tiny &lt;1&gt;; a test</p>" in page
    axis = figure["layout"]["coloraxis"]
    assert axis["cmin"] == -axis["cmax"] < 0  # white is a score of 0


def test_odd_names_stay_text(tmp_path):
    for name in ("</script><b>", "<!--<script>", "$figure", "${x}", "a & b", '"'):
        write_heat_map(tmp_path / "map.html", protein(name, SEQUENCE), scores_of(SEQUENCE), model="tiny 123")
        page = (tmp_path / "map.html").read_text()
        check_self_contained(page)
        escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
        assert f"<h1>{escaped}: single substitutions</h1>" in page


def test_a_picture_of_several_rows(tmp_path):
    pytest.importorskip("matplotlib")
    sequence = 20 * SEQUENCE
    write_heat_map(tmp_path / "map.png", protein(r"$\bad{$ </b>", sequence), scores_of(sequence), model="$x$")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_equal_scores_have_a_scale(tmp_path):
    write_heat_map(tmp_path / "map.html", protein("P1", "AA"), np.zeros((2, 20), np.float32), model="")
    assert read_figure((tmp_path / "map.html").read_text())["layout"]["coloraxis"]["cmax"] > 0


def test_a_protein_without_amino_acids_is_an_error(tmp_path):
    with pytest.raises(ProtT5nvError, match="P1 has none of the 20 amino acids"):
        write_heat_map(tmp_path / "map.html", protein("P1", "XX"), scores_of("XX"), model="")


def test_pages_and_pictures_have_the_same_colours(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    draw = Axes.imshow
    monkeypatch.setattr(Axes, "imshow", lambda *args, **options: drawn.append(draw(*args, **options)) or drawn[-1])
    for name in ("map.html", "map.png"):
        write_heat_map(tmp_path / name, protein("P1", SEQUENCE), scores_of(SEQUENCE), model="tiny 1")
    axis = read_figure((tmp_path / "map.html").read_text())["layout"]["coloraxis"]
    [image] = drawn
    assert image.get_clim() == (axis["cmin"], axis["cmax"])
    for score, (_, colour) in ((axis["cmin"], axis["colorscale"][0]), (axis["cmax"], axis["colorscale"][-1])):
        assert to_hex(image.cmap(image.norm(score))) == colour
    red, _, blue = (int(axis["colorscale"][0][1][i : i + 2], 16) for i in (1, 3, 5))
    assert red > 2 * blue  # low scores are red
