"""``prott5nv fill`` as users run it."""

from __future__ import annotations

import csv
import io
import subprocess
import sys

import pytest

from prott5nv import Embedder, fill

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"


@pytest.fixture
def filled(run, tiny_checkpoint, tmp_path):
    """Run the command in a folder with a protein that has gaps and one that has none."""
    (tmp_path / "gapped.fasta").write_text(">sp|P1|GAPPED\nMKT?\n??AYI\n")
    (tmp_path / "whole.fasta").write_text(f">sp|P0CG47|UBB_HUMAN\n{UBIQUITIN}\n")
    model = ["--model", str(tiny_checkpoint), "--device", "cpu", "--precision", "fp32"]

    def filled(*arguments, code=0):
        return run(*arguments, *model, command=["fill"], code=code)

    return filled


def rows(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_sequence_on_the_command_line(filled, tiny_checkpoint):
    embedder = Embedder(tiny_checkpoint, device="cpu", precision="fp32")
    table = rows(filled("MKT???AYI", "-n", "3").stdout)
    expected = fill("MKT???AYI", embedder, n=3)
    assert [row["sequence"] for row in table] == [result.sequence for result in expected]
    assert [(row["protein"], row["rank"], row["positions"]) for row in table] == [
        ("sequence", str(rank), "4:5:6") for rank in (1, 2, 3)
    ]
    assert table[0]["residues"] == ":".join(expected[0].residues)
    assert [float(x) for x in table[0]["probabilities"].split(":")] == pytest.approx(
        expected[0].probabilities.tolist(), abs=1e-4
    )


def test_a_sequence_on_the_command_line_is_cleaned_as_in_a_file(filled):
    expected = filled("MK?TA").stdout
    done = filled("MK?TA*")
    assert done.stdout == expected and "sequence: removed '*' from the end of 1 sequence" in done.stderr
    assert filled("MK-?TA", "--gaps", "remove").stdout == expected
    assert rows(filled("MK-?TA", "--gaps", "keep").stdout)[0]["sequence"].startswith("MK-")


def test_files_masked_positions_and_samples(filled, label, tmp_path):
    from_file = rows(filled("gapped.fasta").stdout)
    assert [(row["protein"], row["sequence"]) for row in from_file] == [
        ("P1", rows(filled("MKT???AYI").stdout)[0]["sequence"])
    ]
    options = ["whole.fasta", "--mask", "10, 45-50", "-n", "4", "--temperature", "1", "--top-p", "0.9", "--seed", "3"]
    assert filled(*options, "-o", "out.csv").stdout == f"out.csv: 4 results, model {label}\n"
    text = (tmp_path / "out.csv").read_text()
    assert rows(text) == rows(filled(*options).stdout)
    for row in rows(text):
        assert row["positions"] == "10:45:46:47:48:49:50"
        assert row["sequence"][:9] + row["sequence"][10:44] + row["sequence"][50:] == (
            UBIQUITIN[:9] + UBIQUITIN[10:44] + UBIQUITIN[50:]
        )


def test_errors_name_the_cause(filled, tmp_path):
    (tmp_path / "aligned.fasta").write_text(">P1\nMK-V\n")
    messages = {
        ("whole.fasta",): "P0CG47 has no ?",
        ("whole.fasta", "--mask", "77"): "P0CG47 has no residue 77, only 1 to 76",
        ("whole.fasta", "--mask", "5-3"): "'5-3': write positions from 1",
        ("whole.fasta", "--mask", "0"): "'0': write positions from 1",
        ("MSLKR",): "MSLKR: there is no file of this name, and a sequence needs a ? in place of each missing residue",
        ("MK--T",): "MK--T: there is no file of this name, and a sequence needs a ? in place of each missing residue, "
        "such as 'MK??T'",
        ("MK__T",): "such as 'MK??T'",
        ("none.fasta",): "none.fasta: No such file",
        ("MK...T",): "such as 'MK???T'",
        ("MK.T",): "MK.T: No such file",
        ("MK-T?A",): "sequence: 1 gap ('-' or '.'), as in an alignment: write ? in place of each residue to predict, "
        "remove them with --gaps remove",
        ("aligned.fasta",): "as in an alignment: write ? in place of each residue to predict, remove them",
        ("MS?", "-n", "3", "--beams", "2"): "beams at least n",
        ("MS?", "-o", "no/out.csv"): "the folder no does not exist",
    }
    for arguments, message in messages.items():
        assert message in filled(*arguments, code=2).stderr
    assert not list(tmp_path.glob("*.csv"))


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("MK1?", "bad.fasta: line 3: P2: position 3: '1' is not a residue"),
        ("MKV", "bad.fasta: line 3: P2: P2 has no ?"),
        ("", "bad.fasta: line 3: P2: there is no sequence"),
        ("MK" + "?" * 400, "bad.fasta: line 3: P2: P2: 400 residues are masked; this model predicts at most"),
    ],
)
def test_input_is_checked_before_the_model_is_loaded(filled, tmp_path, monkeypatch, sequence, message):
    (tmp_path / "bad.fasta").write_text(f">P1\nMK?\n>P2\n{sequence}\n>P3\nMS?\n")
    with monkeypatch.context() as patch:
        patch.setattr("prott5nv.embedding.embedder.Embedder.__init__", lambda *_, **__: pytest.fail("loaded"))
        done = filled("bad.fasta", code=2)
        assert message in done.stderr and not done.stdout
        assert "beams at least n" in filled("MS?", "-n", "3", "--beams", "2", code=2).stderr
    done = filled("bad.fasta", "--on-error", "skip", "-o", "out.csv", code=3)
    assert [row["protein"] for row in rows((tmp_path / "out.csv").read_text())] == ["P1", "P3"]
    assert message in (tmp_path / "out.csv.skipped.tsv").read_text()
    done = filled("bad.fasta", "--on-error", "skip", code=3)
    assert len(rows(done.stdout)) == 2 and f"skipped: {message}" in done.stderr


def test_outputs_follow_one_rule(filled, tmp_path):
    (tmp_path / "out.csv").write_text("mine")
    assert "out.csv: exists already" in filled("MS?", "-o", "out.csv", code=2).stderr
    assert (tmp_path / "out.csv").read_text() == "mine"
    filled("MS?", "-o", "out.csv", "--overwrite")
    assert len(rows((tmp_path / "out.csv").read_text())) == 1
    done = filled("out.csv", "-o", "out.csv", "--mask", "1", "--overwrite", code=2)
    assert "out.csv: this file is also an input" in done.stderr
    assert ".npz means NumPy" in filled("MS?", "-o", "out.npz", code=2).stderr


@pytest.mark.slow
def test_the_built_in_model_on_an_example(examples):
    command = [sys.executable, "-m", "prott5nv", "fill", examples / "proteins.fasta"]
    done = subprocess.run([*command, "--protein", "P01308", "--mask", "40-42"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [row] = rows(done.stdout)
    assert row["positions"] == "40:41:42" and len(row["sequence"]) == 110
