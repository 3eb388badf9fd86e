"""``prott5nv plot`` as a user runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from prott5nv.io.embeddings_h5 import StoredProtein, write_embeddings
from prott5nv.projection import principal_components


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    proteins = [
        StoredProtein(f"P{i}", f"P{i}", None, (rng.normal(size=(5 + i, 16)) + 10 * (i % 2)).astype(np.float32))
        for i in range(10)
    ]
    write_embeddings(tmp_path / "store.h5", proteins, {})
    (tmp_path / "families.tsv").write_text(
        "accession\tfamily\n" + "".join(f"P{i}\tfamily {i % 2}\n" for i in range(8)) + "P8\t</script>\n"
    )
    return tmp_path


def plot(folder, *arguments):
    command = [sys.executable, "-m", "prott5nv", "plot", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_page_holds_every_protein_and_its_label(store):
    done = plot(store, "store.h5", "--color-by", "families.tsv")
    assert done.stdout == "store.html: 10 proteins\n", done.stderr
    text = (store / "store.html").read_text()
    data = json.loads(re.search(r"const data = (.*?), svg =", text).group(1))
    assert data["keys"] == [f"P{i}" for i in range(10)]
    assert [data["groups"][g] for g in data["group"]] == [f"family {i % 2}" for i in range(8)] + [
        "</script>",
        "unknown",
    ]
    assert text.count("</script>") == 1
    x = np.array(data["x"])
    assert (x[::2].max() < x[1::2].min()) or (x[1::2].max() < x[::2].min())  # the two families lie apart
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_a_picture(store):
    pytest.importorskip("matplotlib")
    assert plot(store, "store.h5", "-o", "out.png", "--color-by", "families.tsv").returncode == 0
    assert plot(store, "store.h5", "-o", "plain.png").returncode == 0
    assert (store / "out.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_are_named(store):
    assert "there is no such file" in plot(store, "absent.h5").stderr
    assert ".html or .png" in plot(store, "store.h5", "-o", "out.pdf").stderr
    (store / "other.tsv").write_text("accession\tfamily\nQ1\tx\n")
    assert "none of its accessions" in plot(store, "store.h5", "--color-by", "other.tsv").stderr
    (store / "store.h5").write_bytes(b"no HDF5")
    assert "not a readable HDF5 file" in plot(store, "store.h5").stderr


def test_components_are_those_of_the_covariance():
    rng = np.random.default_rng(0)
    data_ND = rng.normal(size=(50, 8)).astype(np.float32) * [9, 5, 1, 1, 1, 1, 1, 1]
    points_N2, explained = principal_components(data_ND)
    eigenvalues = np.linalg.eigvalsh(np.cov(data_ND.T))[::-1]
    np.testing.assert_allclose(points_N2.var(axis=0, ddof=1), eigenvalues[:2], rtol=1e-6)
    np.testing.assert_allclose(explained, eigenvalues[:2] / eigenvalues.sum(), rtol=1e-6)
