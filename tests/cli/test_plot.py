"""``prott5nv plot`` as users run it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers.pages import check_self_contained, read_figure

from prott5nv.embedding.store import StoredProtein, write_embeddings


@pytest.fixture
def plot(run, tmp_path):
    """Run the command in a folder with ten proteins of two families that are far apart."""
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


@pytest.mark.slow
def test_a_page_holds_every_protein_and_its_label(plot, tmp_path):
    assert plot("store.h5", "--color-by", "families.tsv").stdout == "store.html: 10 proteins, model unknown\n"
    page = (tmp_path / "store.html").read_text()
    check_self_contained(page)
    figure = read_figure(page)
    rows = {key: (label, x) for trace in figure["data"] for (key, label), x in
            zip(trace["customdata"], trace["x"], strict=True)}  # fmt: skip
    labels = [f"family {i % 2}" for i in range(8)] + ["&lt;/script&gt;", "unknown"]
    assert {key: label for key, (label, _) in rows.items()} == {f"P{i}": labels[i] for i in range(10)}
    assert figure["layout"]["legend"]["title"]["text"] == "family"
    traces = sorted(figure["data"], key=lambda trace: trace["legendrank"])
    assert [trace["name"] for trace in traces] == [
        *("family 0 (4)", "family 1 (4)", "&lt;/script&gt; (1)", "unknown (1)")
    ]
    assert len({trace["marker"]["color"] for trace in traces}) == 4
    x = np.array([rows[f"P{i}"][1] for i in range(10)])
    assert (x[::2].max() < x[1::2].min()) or (x[1::2].max() < x[::2].min())  # the two families are far apart


def test_an_image_is_written_for_every_kind_of_color(plot, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "masses.tsv").write_text("accession\tmass\n" + "".join(f"P{i}\t{i + 0.5}\n" for i in range(9)))
    for table in [], ["--color-by", "families.tsv"], ["--color-by", "masses.tsv"]:
        plot("store.h5", "-o", "out.png", *table)
        assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "out.png").unlink()


def test_umap_can_be_chosen_as_the_method(plot, tmp_path):
    pytest.importorskip("umap", reason="needs the umap extra")
    plot("store.h5", "--method", "umap")
    layout = read_figure((tmp_path / "store.html").read_text())["layout"]
    assert [layout[axis]["title"]["text"] for axis in ("xaxis", "yaxis")] == ["UMAP 1", "UMAP 2"]


def test_an_existing_file_is_replaced_only_with_overwrite(plot, tmp_path):
    plot("store.h5")
    (tmp_path / "store.html").write_text("mine")
    assert "store.html: exists already" in plot("store.h5", code=2).stderr
    assert (tmp_path / "store.html").read_text() == "mine"
    plot("store.h5", "--overwrite")
    assert (tmp_path / "store.html").read_text() != "mine"
    (tmp_path / "store.h5").rename(tmp_path / "store.html")
    assert "store.html: this file is also an input" in plot("store.html", "--overwrite", code=2).stderr
    assert "cannot be written to a pipe" in plot("store.html", "-o", "-", code=2).stderr


def test_errors_name_the_cause(plot, tmp_path):
    assert "there is no such file" in plot("absent.h5", code=2).stderr
    for name in ("out.gif", "out.PNG", "out"):
        assert ".html or .png" in plot("store.h5", "-o", name, code=2).stderr
    (tmp_path / "other.tsv").write_text("accession\tfamily\nQ1\tx\n")
    assert "none of its accessions" in plot("store.h5", "--color-by", "other.tsv", code=2).stderr
    (tmp_path / "other.tsv").write_text("accession family\n")
    assert "line 1 has no second column" in plot("store.h5", "--color-by", "other.tsv", code=2).stderr
    assert "No such file" in plot("store.h5", "--color-by", "absent.tsv", code=2).stderr
    (tmp_path / "store.h5").write_bytes(b"no HDF5")
    assert "not a readable HDF5 file" in plot("store.h5", code=2).stderr


def test_a_missing_umap_is_named_with_its_extra(plot, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    error = plot("store.h5", "--method", "umap", code=2).stderr
    assert error == "prott5nv: error: UMAP needs umap-learn: pip install 'prott5nv[umap]' (installs umap-learn)\n"


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_pooled_files_of_every_format_are_plotted(run, plot, label, tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="needs the parquet extra")
    ids = ["sp|P69905|HBA_HUMAN", "sp|P01308|INS_HUMAN", "sp|P0A9X9|CSPA_ECOLI"]
    (tmp_path / "p.fasta").write_text("".join(f">{id}\nMKV{i * 'L'}\n" for i, id in enumerate(ids)))
    (tmp_path / "uniprot.tsv").write_text(
        "Entry Name\tOrganism\tLength\nHBA_HUMAN\tHuman\t3\nINS_HUMAN\tHuman\t4\nCSPA_ECOLI\tE. coli\t5\n"
    )
    run("p.fasta", "-o", f"out.{suffix}", "--pooling", "mean")
    done = plot(f"out.{suffix}", "--color-by", "uniprot.tsv")
    assert done.stdout == f"out.html: 3 proteins, model {label}\n"
    assert "coloured by Organism; --column chooses another: Length" in done.stderr
    figure = read_figure((tmp_path / "out.html").read_text())
    assert figure["layout"]["meta"]["columns"] == ["protein", "Organism", "Length", "original_id"]
    rows = {row[0]: row[1:] for trace in figure["data"] for row in trace["customdata"]}
    assert rows["P01308"] == ["Human", "4", "sp|P01308|INS_HUMAN"]
    plot(f"out.{suffix}", "--color-by", "uniprot.tsv", "--column", "Length", "--overwrite")
    assert read_figure((tmp_path / "out.html").read_text())["layout"]["legend"]["title"]["text"] == "Length"
    assert (
        "no column 'x'; choose one of Organism, Length"
        in plot(f"out.{suffix}", "--color-by", "uniprot.tsv", "--column", "x", "--overwrite", code=2).stderr
    )
