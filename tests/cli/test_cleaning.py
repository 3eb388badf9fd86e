"""Every command treats stops, gaps, missing sequences and nucleotides alike."""

from __future__ import annotations

import pytest

from prott5nv import EmbeddingStore
from prott5nv.embedding.formats import skipped_listing

DNA = ">r1\n" + "ACGTTGCA" * 20 + "\n"


@pytest.fixture(params=["embed", "score", "fill"])
def command(request, run, tiny_checkpoint):
    """Run one of the commands on ``p.fasta``."""
    arguments = {
        "embed": ("-o", "out.h5"),
        "score": ("--perplexity", "-o", "out.csv"),
        "fill": ("--mask", "2", "-o", "out.csv"),
    }[request.param]

    def command(*options, code=0):
        name = (request.param, "--model", str(tiny_checkpoint))
        return run("p.fasta", *arguments, *options, code=code, command=name)

    return command


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (">a\nMKV\n>b\nM-V\n", "line 3: b: 1 gap ('-' or '.')"),
        (">a\nMKV\n>b\n---\n", "line 3: b: the sequence consists of gaps only"),
        (">a\nMKV\n--\n>b\nMLV\n", "line 3: record a has the line '--'"),
        (
            ">a\nMKV\n>b\nNaN\n>c\nMLV\n>d\n\n",
            "line 3: b: there is no sequence ('NaN' means a missing value); 1 more record cannot be used, on line 7",
        ),
        (">a\nMKV\n>b\nM K V\n", "' ' is not a residue; remove the spaces"),
        (DNA, "the first 160 letters are all A, C, G, T, U or N"),
        (">a\nMKV\n>b\0\nMLV\n", "binary file"),
    ],
)
def test_what_is_not_a_protein_is_an_error(command, tmp_path, content, message):
    (tmp_path / "p.fasta").write_text(content)
    assert message in command(code=2).stderr
    assert not list(tmp_path.glob("out.*"))


def test_stops_are_removed_and_gaps_as_the_user_chooses(command, tmp_path):
    (tmp_path / "p.fasta").write_text(">a\nMSLKR*\n>b\nM-SL.KR\n")
    for mode, done in (("remove", "removed the gaps of 1 sequence"), ("keep", "kept as positions the gaps")):
        for output in tmp_path.glob("out.*"):
            output.unlink()
        printed = command("--gaps", mode).stderr
        assert "p.fasta: removed '*' from the end of 1 sequence\n" in printed
        assert printed.count(done) == 1
        if (tmp_path / "out.h5").exists():
            with EmbeddingStore(tmp_path / "out.h5") as store:
                assert [len(rows) for rows in store.values()] == [5, 5 if mode == "remove" else 7]


def test_nucleotides_can_be_embedded_on_request(command, tmp_path):
    (tmp_path / "p.fasta").write_text(DNA)
    command("--allow-nucleotides")
    assert list(tmp_path.glob("out.*"))


def test_faulty_records_can_be_skipped(run, label, tmp_path):
    (tmp_path / "p.csv").write_text("id,sequence\na,MKV\nb,NA\nc,M-V\nd,*\ne,MLV*\n")
    done = run("p.csv", "-o", "out.h5", "--on-error", "skip", code=3)
    assert done.stdout == f"out.h5: 2 proteins, 6 residues, model {label}\n"
    listed = skipped_listing(tmp_path / "out.h5").read_text().splitlines()[1:]
    assert [line.split("\t")[1] for line in listed] == ["b", "c", "d"]
    with EmbeddingStore(tmp_path / "out.h5") as store:
        assert {key: len(rows) for key, rows in store.items()} == {"a": 3, "e": 3}


def test_a_quote_in_a_tsv_file_swallows_no_rows(run, tmp_path):
    (tmp_path / "p.tsv").write_text('id\tnote\tsequence\na\t"5\' end\tMKV\nb\tx\tMSLKR\nc\t3"\tML\n')
    run("p.tsv", "-o", "out.h5")
    with EmbeddingStore(tmp_path / "out.h5") as store:
        assert {key: len(rows) for key, rows in store.items()} == {"a": 3, "b": 5, "c": 2}


def test_an_id_can_be_a_number(run, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"id": [0, 17], "sequence": ["MKV", "MLVA"]})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "p.parquet")
    run("p.parquet", "-o", "out.h5")
    with EmbeddingStore(tmp_path / "out.h5") as store:
        assert {key: len(rows) for key, rows in store.items()} == {"0": 3, "17": 4}
