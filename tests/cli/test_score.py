"""``prott5nv score`` as users run it."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.pages import check_self_contained, read_figure

from prott5nv import Embedder, pseudo_perplexity, score_substitutions, score_variants
from prott5nv.assets import scores_note
from prott5nv.errors import ProtT5nvError

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture
def score(run, tiny_checkpoint, tmp_path):
    """Run the command in a folder with two proteins."""
    (tmp_path / "one.fasta").write_text(f">sp|P0CG47|UBB_HUMAN\n{UBIQUITIN}\n")
    (tmp_path / "two.fasta").write_text(f">sp|P0CG47|UBB_HUMAN\n{UBIQUITIN}\n>small\nMSLKX\n")
    model = ["--model", str(tiny_checkpoint), "--device", "cpu", "--precision", "fp32"]

    def score(*arguments, code=0):
        return run(*arguments, *model, command=["score"], code=code)

    return score


@pytest.fixture
def embedder(tiny_checkpoint):
    return Embedder(tiny_checkpoint, device="cpu", precision="fp32")


def read(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_variants_are_scored_in_the_order_of_the_file(score, embedder, label, tmp_path):
    variants = ["Q2A", "F4G:K6L", "Q2A", "G76W"]
    (tmp_path / "variants.txt").write_text("Q2A\n\nK6L,F4G\r\nQ2A\nG76W")
    done = score("one.fasta", "--mutations", "variants.txt", "-o", "out.csv")
    assert done.stdout == f"out.csv: 4 variants, model {label}\n"
    rows = read(tmp_path / "out.csv")
    assert [row["variant"] for row in rows] == variants
    assert rows[1] | {"score_joint": "", "score_additive": ""} == {
        "protein": "P0CG47", "original_id": "sp|P0CG47|UBB_HUMAN", "variant": "F4G:K6L", "positions": "4:6",
        "wild_type": "F:K", "mutant": "G:L", "score_additive": "", "score_joint": "", "model": label,
    }  # fmt: skip
    for row, expected in zip(rows, score_variants(UBIQUITIN, variants, embedder), strict=True):
        assert float(row["score_joint"]) == pytest.approx(expected.joint, abs=1e-4)
        assert float(row["score_additive"]) == pytest.approx(expected.additive, abs=1e-4)


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_variants_of_a_table_that_names_proteins(score, tmp_path, delimiter):
    lines = [("Protein", "fitness", "mutant"), ("P0CG47", "0.5", "Q2A"), ("small", "1", "S2A:K4R")]
    (tmp_path / "table.csv").write_text("\n".join(delimiter.join(line) for line in lines))
    score("two.fasta", "--mutations", "table.csv", "-o", "out.csv")
    assert [(row["protein"], row["variant"]) for row in read(tmp_path / "out.csv")] == [
        ("P0CG47", "Q2A"),
        ("small", "S2A:K4R"),
    ]
    (tmp_path / "named.csv").write_text((tmp_path / "table.csv").read_text().replace("mutant", "change"))
    score("two.fasta", "--mutations", "named.csv", "--variant-column", "change", "-o", "named.out.csv")
    assert read(tmp_path / "named.out.csv") == read(tmp_path / "out.csv")


def test_every_substitution_as_rows_a_matrix_and_a_page(score, embedder, label, tmp_path):
    outputs = ["-o", "out.csv", "--table", "matrix.csv", "--plot", "map.html"]
    done = score("two.fasta", "--protein", "small", "--mutations", "all", *outputs)
    assert done.stdout.splitlines() == [
        f"matrix.csv: 5 residues, model {label}",
        f"map.html: 1 protein, model {label}",
        f"out.csv: 96 substitutions, model {label}",
    ]
    expected_LA = score_substitutions("MSLKX", embedder)
    rows, matrix = read(tmp_path / "out.csv"), read(tmp_path / "matrix.csv")
    assert [(row["position"], row["wild_type"]) for row in matrix] == [(str(i + 1), "MSLKX"[i]) for i in range(5)]
    for row, expected_A in zip(matrix[:4], expected_LA[:4], strict=True):
        np.testing.assert_allclose([float(row[letter]) for letter in AMINO_ACIDS], expected_A, atol=1e-4)
    assert set(matrix[4].values()) == {"small", "5", "X", "", label}  # X is not one of the 20 amino acids
    assert [row["variant"] for row in rows[:19]] == [f"M1{letter}" for letter in AMINO_ACIDS if letter != "M"]
    assert all(row["score_joint"] == matrix[int(row["positions"]) - 1][row["mutant"]] for row in rows)
    page = (tmp_path / "map.html").read_text()
    cells = read_figure(page)["data"][0]
    assert cells["x"] == ["M1", "S2", "L3", "K4", "X5"] and np.isnan(cells["z"][:, 4]).all()
    np.testing.assert_allclose(cells["z"].T[:4], expected_LA[:4], atol=1e-3)
    check_self_contained(page)


def test_a_page_takes_any_name_and_sequence(score, tmp_path):
    (tmp_path / "odd.fasta").write_text(">$figure</script>\nDATADATA\n")
    score("odd.fasta", "--mutations", "all", "-o", "out.csv", "--plot", "map.html")
    page = (tmp_path / "map.html").read_text()
    check_self_contained(page)
    assert "<h1>$figure&lt;/script&gt;: single substitutions</h1>" in page
    assert read_figure(page)["data"][0]["x"] == ["D1", "A2", "T3", "A4", "D5", "A6", "T7", "A8"]


def test_the_heat_map_is_written_as_an_image(score, tmp_path):
    pytest.importorskip("matplotlib")
    score("two.fasta", "--protein", "P0CG47", "--mutations", "all", "-o", "out.csv", "--plot", "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert len(read(tmp_path / "out.csv")) == 76 * 19


def test_perplexity_of_proteins_and_residues(score, embedder, label, tmp_path):
    done = score("two.fasta", "--perplexity", "-o", "out.csv")
    assert done.stdout == f"out.csv: 2 proteins, model {label}\n"
    rows = read(tmp_path / "out.csv")
    assert [(row["protein"], row["residues"], row["residues_counted"]) for row in rows] == [
        ("P0CG47", "76", "76"),
        ("small", "5", "4"),
    ]
    expected = pseudo_perplexity(UBIQUITIN, embedder)
    assert float(rows[0]["perplexity"]) == pytest.approx(expected.perplexity, rel=1e-4)

    done = score("two.fasta", "--perplexity", "--per-residue", "-o", "residues.csv")
    assert done.stdout == f"residues.csv: 81 residues, model {label}\n"
    rows = read(tmp_path / "residues.csv")
    assert "".join(row["residue"] for row in rows) == UBIQUITIN + "MSLKX"
    found = [float(row["probability"]) for row in rows[:76]]
    np.testing.assert_allclose(found, np.exp(expected.log_probabilities), rtol=1e-3)
    np.testing.assert_allclose([1 / float(row["perplexity"]) for row in rows[:76]], found, rtol=1e-3)
    assert rows[-1]["probability"] == rows[-1]["perplexity"] == "" and 0 < float(rows[-1]["entropy"]) < np.log(20)

    score("one.fasta", "--perplexity", "--fraction", "0.15", "-o", "fraction.csv")
    shared = pseudo_perplexity(UBIQUITIN, embedder, fraction=0.15).perplexity
    assert float(read(tmp_path / "fraction.csv")[0]["perplexity"]) == pytest.approx(shared, rel=1e-4)
    score("one.fasta", "--mutations", "all", "--fraction", "0.15", "-o", "all.csv")
    expected_LA = score_substitutions(UBIQUITIN, embedder, fraction=0.15)
    rows = read(tmp_path / "all.csv")
    assert {row["model"] for row in rows} == {f"{embedder.label}, 15 % masked at once"}
    found = [float(row["score_joint"]) for row in rows]
    np.testing.assert_allclose(found, expected_LA[expected_LA != 0], atol=1e-4)


@pytest.mark.parametrize(
    "text, message",
    [
        ("Q2A\nQ3A\n", "v.txt: line 2: Q3A: residue 3 of P0CG47 is I, not Q"),
        ("\nG77A\n", "v.txt: line 2: G77A: P0CG47 has no residue 77, only 1 to 76"),
        ("protein,variant\nP1,Q2A\n", "v.txt: line 2: P1 is not among the proteins"),
        ("protein,variant\nP0CG47\n", "v.txt: line 2: the row has 1 of 2 columns"),
        (
            "protein,variant\nP0CG47,Q2A\n,I3L\n",
            "v.txt: line 3: I3L: the line names no protein; write its accession or id",
        ),
        ("protein,variant\nNA,Q2A\n", "v.txt: line 2: Q2A: the line names no protein"),
        ("protein,variant\nP0CG47,NA\n", "v.txt: line 2: the line has no variant; write V39A, or remove the line"),
        ("protein;variant\nP0CG47;Q2A\n", "v.txt: line 1: the columns seem to be separated by semicolons"),
        ("variant\n", "v.txt: the file has no variants"),
        ("", "v.txt: the file is empty"),
    ],
)
def test_an_invalid_line_is_an_error_and_nothing_is_written(score, tmp_path, text, message):
    (tmp_path / "v.txt").write_text(text)
    assert message in score("one.fasta", "--mutations", "v.txt", "-o", "out.csv", code=2).stderr
    assert not list(tmp_path.glob("*out.csv*"))


def test_a_table_of_variants_takes_every_name_of_a_protein(score, tmp_path):
    (tmp_path / "named.fasta").write_text(f">sp|P0CG47|UBB_HUMAN Polyubiquitin-B\n{UBIQUITIN}\n>P1\nMSLKR\n")
    (tmp_path / "v.csv").write_text("protein,variant\nUBB_HUMAN,Q2A\nP0CG47,Q2A\nsp|P0CG47|UBB_HUMAN,Q2A\nP1,S2A\n")
    score("named.fasta", "--mutations", "v.csv", "-o", "out.csv")
    assert [row["protein"] for row in read(tmp_path / "out.csv")] == ["P0CG47"] * 3 + ["P1"]


def test_variants_are_given_on_the_command_line(score, tmp_path):
    (tmp_path / "v.txt").write_text("Q2A\nQ2A:I3L\n")
    score("one.fasta", "--mutations", "Q2A, Q2A:I3L", "-o", "inline.csv")
    score("one.fasta", "--mutations", "v.txt", "-o", "file.csv")
    assert (tmp_path / "inline.csv").read_text() == (tmp_path / "file.csv").read_text()
    done = score("one.fasta", "--mutations", "Q2A,Q2A:I3L")
    assert done.stdout == (tmp_path / "file.csv").read_text() and "standard output: 2 variants" in done.stderr
    assert score("one.fasta", "--mutations", "v.txt").stdout == done.stdout
    assert "--mutations: Q9999A: " in score("one.fasta", "--mutations", "Q9999A", "-o", "x.csv", code=2).stderr
    assert (
        "neither a file nor a list of variants"
        in score("one.fasta", "--mutations", "none", "-o", "x.csv", code=2).stderr
    )


def test_errors_name_the_cause(score, tmp_path):
    (tmp_path / "v.txt").write_text("Q2A\n")
    messages = {
        (
            "two.fasta",
            "--mutations",
            "v.txt",
        ): "line 1: there are 2 proteins, and Q2A does not name one. Choose one with --protein",
        ("two.fasta", "--mutations", "all", "--protein", "P1"): "no protein has the accession, entry name or id P1",
        ("two.fasta", "--mutations", "all", "--plot", "a.html"): "--plot draws one protein; two.fasta has 2",
        ("two.fasta",): "choose what to score",
        ("two.fasta", "--mutations", "all", "--perplexity"): "choose what to score",
        ("two.fasta", "--mutations", "M1A", "--fraction", "0.1"): "needs --mutations all or --perplexity",
        ("two.fasta", "--mutations", "all", "--per-residue"): "needs --perplexity",
        ("two.fasta", "--perplexity", "--table", "t.csv"): "need --mutations all",
        ("two.fasta", "--perplexity", "--table", "t.csv", "--mutations", "all"): "choose what to score",
        ("two.fasta", "--mutations", "all", "--table", "no/t.csv"): "the folder no does not exist",
        ("two.fasta", "--mutations", "all", "--plot", "map.gif"): "ends in .html or .png or .svg or .pdf",
        ("absent.fasta", "--perplexity"): "absent.fasta: No such file",
        ("MSLKRTGLAA", "--perplexity"): "No such file or directory; to use a sequence, write it to a FASTA file",
    }
    for arguments, message in messages.items():
        assert message in score(*arguments, "-o", "out.csv", code=2).stderr
    assert "the folder no does not exist" in score("two.fasta", "--perplexity", "-o", "no/out.csv", code=2).stderr
    (tmp_path / "twice.fasta").write_text(">sp|P1|A\nMS\n>P1\nMK\n")
    assert (
        "line 3: a second protein has the accession P1"
        in score("twice.fasta", "--perplexity", "-o", "out.csv", code=2).stderr
    )


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("insul", "INS_HUMAN"),
        ("ins_human", "INS_HUMAN"),
        ("p01308", "P01308"),
        ("P0I308", "P01308"),
        ("hba2", "HBA_HUMAN"),
        ("hba", "HBA_HUMAN"),
        ("globin", "HBA_HUMAN"),
        ("Q9XYZ1", "UniRef50_Q9XYZ1"),
        ("human", "INS_HUMAN or HBA_HUMAN"),
        ("other", ""),
    ],
)
def test_a_missing_protein_suggests_others(score, tmp_path, name, suggestion):
    headers = ["sp|P01308|INS_HUMAN Insulin", "sp|P69905|HBA_HUMAN Hemoglobin subunit alpha", "UniRef50_Q9XYZ1"]
    (tmp_path / "three.fasta").write_text("".join(f">{header}\nMKTAY\n" for header in headers))
    stderr = score("three.fasta", "--mutations", "M1A", "--protein", name, code=2).stderr
    hint = f"; did you mean {suggestion}?" if suggestion else ""
    assert stderr.endswith(f"no protein has the accession, entry name or id {name}{hint}\n")


@pytest.fixture
def no_model(monkeypatch):
    """Let the test fail if the weights of a model are loaded."""
    monkeypatch.setattr("prott5nv.embedding.embedder.Embedder.__init__", lambda *_, **__: pytest.fail("loaded"))


@pytest.mark.parametrize("arguments", [["--perplexity"], ["--mutations", "all"], ["--mutations", "v.txt"]])
def test_input_is_checked_before_the_model_is_loaded(score, tmp_path, no_model, arguments):
    (tmp_path / "v.txt").write_text("protein,variant\nP1,Q2A\n")
    (tmp_path / "bad.fasta").write_text(">P1\nMQIF\n>P2\nMK1V\n")
    error = "bad.fasta: line 3: P2: position 3: '1' is not a residue"
    assert error in score("bad.fasta", *arguments, "-o", "out.csv", code=2).stderr
    assert not list(tmp_path.glob("*out.csv*"))


def test_a_variant_beyond_the_model_is_found_before_the_model_is_loaded(score, tmp_path, no_model):
    (tmp_path / "long.fasta").write_text(">P1\n" + "MK" * 300 + "\n")
    (tmp_path / "v.txt").write_text("M1A\nM1A:M599A\n")
    done = score("long.fasta", "--mutations", "v.txt", "-o", "out.csv", code=2)
    assert "v.txt: line 2: P1: residues 1 and 599 are too far apart" in done.stderr


def test_records_that_cannot_be_used_are_skipped_and_listed(score, tmp_path):
    (tmp_path / "bad.fasta").write_text(">P1\nMQIF\n>P2\nMK1V\n>P3\n>P1\nMS\n>P4\nMS\n")
    done = score("bad.fasta", "--perplexity", "--on-error", "skip", "-o", "out.csv", code=3)
    assert "skipped 3 records, listed in out.csv.skipped.tsv" in done.stderr
    assert [row["protein"] for row in read(tmp_path / "out.csv")] == ["P1", "P4"]
    lines = (tmp_path / "out.csv.skipped.tsv").read_text().splitlines()
    assert lines[0] == "line\tid\treason" and [line.split("\t")[:2] for line in lines[1:]] == [
        *(["3", "P2"], ["5", "P3"], ["6", "P1"])
    ]
    (tmp_path / "v.txt").write_text("Q2A\nQ3A\nM1W\n")
    done = score("one.fasta", "--mutations", "v.txt", "--on-error", "skip", "-o", "v.csv", code=3)
    assert [row["variant"] for row in read(tmp_path / "v.csv")] == ["Q2A", "M1W"]
    reason = "v.txt: line 2: Q3A: residue 3 of P0CG47 is I, not Q; positions count from 1"
    assert (tmp_path / "v.csv.skipped.tsv").read_text() == f"line\tid\treason\n2\tQ3A\t{reason}\n"
    score("one.fasta", "--perplexity", "--fraction", "0.5", "-o", "v.csv", "--overwrite")
    assert not (tmp_path / "v.csv.skipped.tsv").exists()  # the list of another output


def test_an_overflow_is_an_error_or_skipped_and_never_written(score, tmp_path, monkeypatch):
    import prott5nv.decoding.marginals as marginals

    def overflow(embedder, queries, on_progress, run_queries=marginals.run_queries):
        results = run_queries(embedder, queries, on_progress)
        return [result * np.nan for result in results] if len(queries) == 76 else results

    monkeypatch.setattr(marginals, "run_queries", overflow)
    for kind in ("--perplexity",), ("--perplexity", "--per-residue"), ("--mutations", "all"):
        error = "P0CG47: the model computed NaN or infinity in fp32"
        assert error in score("two.fasta", *kind, "-o", "out.csv", code=2).stderr
        assert not (tmp_path / "out.csv").exists()
        score("two.fasta", *kind, "-o", "out.csv", "--on-error", "skip", code=3)
        assert {row["protein"] for row in read(tmp_path / "out.csv")} == {"small"}
        assert error in (tmp_path / "out.csv.skipped.tsv").read_text()
        for path in tmp_path.glob("out.csv*"):
            path.unlink()


def test_outputs_follow_one_rule(score, tmp_path):
    scan = ["one.fasta", "--mutations", "all"]
    for name in ("out.csv", "table.csv", "map.html", "out.csv.skipped.tsv"):
        (tmp_path / name).write_text("mine")
        done = score(*scan, "-o", "out.csv", "--table", "table.csv", "--plot", "map.html", code=2)
        assert f"{name}: exists already; choose another name, or replace it with --overwrite" in done.stderr
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    messages = {
        "out.npy": ".npy means NumPy",
        "out.CSV": "in lower case: .csv",
        ".": "this is a folder",
        "/dev/null": "this is a device",
        "one.fasta": ".fasta means FASTA",
    }
    for name, message in messages.items():
        assert message in score(*scan, "-o", name, code=2).stderr
    (tmp_path / "proteins.csv").write_text("id,sequence\nP1,MSLKR\n")
    done = score("proteins.csv", "--perplexity", "-o", "proteins.csv", "--overwrite", code=2)
    assert "proteins.csv: this file is also an input" in done.stderr
    assert "two outputs" in score(*scan, "-o", "out.csv", "--table", "./out.csv", code=2).stderr
    assert "cannot be written to a pipe" in score(*scan, "-o", "out.csv", "--plot", "-", code=2).stderr

    score("proteins.csv", "--perplexity", "-o", "out.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "out.csv")
    score("proteins.csv", "--perplexity", "--per-residue", "-o", "link.csv", "--overwrite")
    assert (tmp_path / "link.csv").is_symlink() and len(read(tmp_path / "out.csv")) == 5


def test_standard_output_holds_nothing_but_the_table(score):
    done = score("two.fasta", "--perplexity", "--per-residue", "-o", "-")
    assert len(done.stdout.splitlines()) == 82 and done.stdout.startswith("protein,original_id,position,")
    assert "standard output: 81 residues" in done.stderr


def test_the_note_on_the_built_in_model_has_the_measured_figures():
    page = (Path(__file__).parents[2] / "docs" / "benchmarks" / "decoder.md").read_text()
    table = page.partition("ProteinGym")[2]
    [measured] = re.findall(r"\| built-in model, masked one at a time \| (\S+) ", table)
    [blosum] = re.findall(r"\| BLOSUM62 \| (\S+) ", table)
    shown = [float(number) for number in re.findall(r"\d\.\d+", scores_note(is_builtin=True))]
    assert shown == [round(float(measured), 2), round(float(blosum), 2)]


@pytest.mark.slow
def test_the_built_in_model_on_an_example(examples, tmp_path):
    command = [sys.executable, "-m", "prott5nv", "score", examples / "proteins.fasta", "--protein", "P01308"]
    (tmp_path / "v.txt").write_text("V42A\nH29D:L30P\n")
    done = subprocess.run(
        [*command, "--mutations", "v.txt", "-o", "out.csv"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [row["variant"] for row in read(tmp_path / "out.csv")] == ["V42A", "H29D:L30P"]
    assert scores_note(is_builtin=True) in done.stderr


@pytest.mark.parametrize("library, suffix", [("plotly", "html"), ("matplotlib", "png")])
def test_a_missing_plotting_library_is_reported_before_any_work(score, tmp_path, monkeypatch, library, suffix):
    monkeypatch.setitem(sys.modules, library, None)
    arguments = ["--protein", "small", "--mutations", "all", "-o", "out.csv", "--plot", f"map.{suffix}"]
    error = score("two.fasta", *arguments, code=2).stderr
    assert f"needs {library}: pip install 'prott5nv[plot]'" in error
    assert not (tmp_path / "out.csv").exists()


def test_outputs_appear_together_and_not_beside_those_of_another_run(score, tmp_path, monkeypatch):
    from prott5nv.decoding import tables

    everything = ["one.fasta", "--mutations", "all", "-o", "out.csv", "--table", "matrix.csv"]

    def fail(*arguments, **options):
        second = score(*everything, code=2)  # a second run during this one
        assert "another process is writing out.csv" in second.stderr
        raise ProtT5nvError("no space left")

    monkeypatch.setattr(tables, "write_matrices", fail)
    assert "no space left" in score(*everything, code=2).stderr
    assert {path.name for path in tmp_path.iterdir()} == {"one.fasta", "two.fasta"}
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    score(*everything)
    assert (tmp_path / "out.csv").exists() and (tmp_path / "matrix.csv").exists()


def test_spreadsheet_safe_outputs(score, tmp_path):
    (tmp_path / "in.fasta").write_text(">=1+1\nMSLK\n>-bad\nMS1\n")
    arguments = ["in.fasta", "--perplexity", "-o", "out.csv", "--on-error", "skip", "--overwrite"]
    assert "write the table with --spreadsheet-safe" in score(*arguments, code=3).stderr
    unchanged = read(tmp_path / "out.csv")
    assert unchanged[0]["original_id"] == "=1+1"
    score(*arguments, "--spreadsheet-safe", code=3)
    [row] = read(tmp_path / "out.csv")
    assert row == unchanged[0] | {"protein": "'=1+1", "original_id": "'=1+1"}
    assert "\n3\t'-bad\t" in (tmp_path / "out.csv.skipped.tsv").read_text()
