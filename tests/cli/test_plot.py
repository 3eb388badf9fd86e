"""``prott5nv plot`` as a user runs it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from prott5nv.embedding.store import StoredProtein, write_embeddings
from prott5nv.plots.projection import principal_components, umap_points
from prott5nv.plots.scatter import UNKNOWN, Labels, choose_colours


@pytest.fixture
def plot(run, tmp_path):
    """Run the command in a folder with ten proteins of two families that lie far apart."""
    rng = np.random.default_rng(0)
    proteins = [
        StoredProtein(f"P{i}", f"P{i}", None, (rng.normal(size=(5 + i, 16)) + 10 * (i % 2)).astype(np.float32))
        for i in range(10)
    ]
    write_embeddings(tmp_path / "store.h5", proteins, {})
    (tmp_path / "families.tsv").write_text(
        "accession\tfamily\n" + "".join(f"P{i}\tfamily {i % 2}\n" for i in range(8)) + "P8\t</script>\n"
    )

    def plot(*arguments, code=0):
        return run(*arguments, command=["plot"], code=code)

    return plot


def read_data(page: str) -> dict:
    return json.loads(re.search(r"const data = (.*);\n", page).group(1))


def test_a_page_holds_every_protein_and_its_label(plot, tmp_path):
    assert plot("store.h5", "--color-by", "families.tsv").stdout == "store.html: 10 proteins\n"
    page = (tmp_path / "store.html").read_text()
    data = read_data(page)
    assert data["keys"] == [f"P{i}" for i in range(10)]
    assert data["labels"] == [f"family {i % 2}" for i in range(8)] + ["</script>", "unknown"]
    assert data["title"] == "family"
    assert [(group["name"], group["count"]) for group in data["groups"]] == [
        *(("family 0", 4), ("family 1", 4), ("</script>", 1), ("unknown", 1))
    ]
    assert data["group"] == [0, 1] * 4 + [2, 3]
    assert data["colours"][0] == data["colours"][2] != data["colours"][1]
    x = np.array(data["x"])
    assert (x[::2].max() < x[1::2].min()) or (x[1::2].max() < x[::2].min())  # the two families lie apart


def test_a_page_needs_nothing_else(plot, tmp_path):
    plot("store.h5", "--color-by", "families.tsv")
    page = (tmp_path / "store.html").read_text()
    assert page.count("</script>") == 1
    assert not re.search(r"https?:|src=|<link|@import|fetch\(", page)


def test_a_picture(plot, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "masses.tsv").write_text("accession\tmass\n" + "".join(f"P{i}\t{i + 0.5}\n" for i in range(9)))
    for table in [], ["--color-by", "families.tsv"], ["--color-by", "masses.tsv"]:
        plot("store.h5", "-o", "out.png", *table)
        assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "out.png").unlink()


def test_umap_keeps_neighbours_together(plot, tmp_path):
    pytest.importorskip("umap", reason="needs the umap extra")
    plot("store.h5", "--method", "umap")
    data = read_data((tmp_path / "store.html").read_text())
    assert data["axes"] == ["UMAP 1", "UMAP 2"]
    rng = np.random.default_rng(0)
    pooled_ND = np.concatenate([rng.normal(centre, 1, (20, 8)) for centre in (0, 20)]).astype(np.float32)
    points_N2 = umap_points(pooled_ND)
    distances_NN = np.linalg.norm(points_N2[:, None] - points_N2, axis=2)
    np.fill_diagonal(distances_NN, np.inf)
    assert ((distances_NN.argmin(axis=1) < 20) == (np.arange(40) < 20)).all()


def test_mistakes_are_named(plot, tmp_path):
    assert "there is no such file" in plot("absent.h5", code=2).stderr
    assert ".html or .png" in plot("store.h5", "-o", "out.pdf", code=2).stderr
    (tmp_path / "other.tsv").write_text("accession\tfamily\nQ1\tx\n")
    assert "none of its accessions" in plot("store.h5", "--color-by", "other.tsv", code=2).stderr
    (tmp_path / "other.tsv").write_text("accession family\n")
    assert "line 1 has no second column" in plot("store.h5", "--color-by", "other.tsv", code=2).stderr
    assert "No such file" in plot("store.h5", "--color-by", "absent.tsv", code=2).stderr
    (tmp_path / "store.h5").write_bytes(b"no HDF5")
    assert "not a readable HDF5 file" in plot("store.h5", code=2).stderr


def test_rare_labels_share_a_grey():
    texts = [f"family {i:02}" for i in range(25) for _ in range(25 - i)] + [UNKNOWN]
    colouring = choose_colours(Labels("family", texts))
    assert len({group.colour for group in colouring.groups}) == 19
    *frequent, others, unknown = colouring.groups
    assert [group.name for group in frequent] == [f"family {i:02}" for i in range(18)]
    assert (others.name, others.count, unknown.count) == ("7 others", 7 + 6 + 5 + 4 + 3 + 2 + 1, 1)
    assert others.colour == unknown.colour
    assert [colouring.groups[number].name for number in (colouring.group[0], *colouring.group[-2:])] == [
        *("family 00", "7 others", "unknown")
    ]


def test_many_numbers_are_a_scale():
    colouring = choose_colours(Labels("residues", [*(str(i / 2) for i in range(101)), UNKNOWN]))
    assert colouring.scale == (0, 50)
    assert (colouring.colours[0], colouring.colours[100], colouring.colours[101]) == ("#440154", "#fde725", "#bbbbbb")
    assert [group.name for group in colouring.groups] == [UNKNOWN]
    assert choose_colours(Labels("cluster", [str(i % 5) for i in range(101)])).scale is None


def test_components_are_those_of_the_covariance():
    rng = np.random.default_rng(0)
    data_ND = rng.normal(size=(50, 8)).astype(np.float32) * [9, 5, 1, 1, 1, 1, 1, 1]
    points_N2, explained = principal_components(data_ND)
    eigenvalues = np.linalg.eigvalsh(np.cov(data_ND.T))[::-1]
    np.testing.assert_allclose(points_N2.var(axis=0, ddof=1), eigenvalues[:2], rtol=1e-6)
    np.testing.assert_allclose(explained, eigenvalues[:2] / eigenvalues.sum(), rtol=1e-6)
