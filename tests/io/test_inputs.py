"""Several files and folders as one input."""

import pytest

from prott5nv import ModelConfig, ProtT5, ProtT5nvError
from prott5nv.decoding.inputs import read_proteins
from prott5nv.embedding.job import embed_file
from prott5nv.embedding.skips import Skips
from prott5nv.embedding.store import EmbeddingStore
from prott5nv.io.inputs import InputFiles, input_files
from prott5nv.io.reader import read_records


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.fasta").write_text(">sp|P2|TWO_HUMAN\nMKV\n")
    (tmp_path / "in" / "c.csv").write_text("id,sequence\nP3,MSL\n")
    (tmp_path / "in" / "out.h5.skipped.tsv").write_text("line\tid\treason\n")
    (tmp_path / "in" / "notes.txt").write_text("none")
    (tmp_path / "a.fa").write_text(">P1\nMSLKR\n")
    return tmp_path


@pytest.fixture(scope="module")
def model():
    return ProtT5(ModelConfig.preset("tiny"))


def test_files_and_folders_are_read_in_order(folder):
    source = input_files(["a.fa", "in"])
    assert source == InputFiles(["a.fa", "in/b.fasta", "in/c.csv"])
    records = list(read_records(source))
    assert [(record.source, record.line, record.id) for record in records] == [
        ("a.fa", 1, "P1"),
        ("in/b.fasta", 1, "sp|P2|TWO_HUMAN"),
        ("in/c.csv", 2, "P3"),
    ]


def test_a_single_file_stays_as_it_is(folder):
    assert input_files(["a.fa"]) == "a.fa" and input_files(["-"]) == "-"


@pytest.mark.parametrize(
    "paths, message",
    [
        (["a.fa", "none.fa"], "none.fa: No such file or directory"),
        (["a.fa", "./a.fa"], "./a.fa: this file is given twice, also as a.fa"),
        (["empty"], "empty: this folder has no file whose name ends in .fasta"),
    ],
)
def test_what_cannot_be_read_is_refused(folder, paths, message):
    (folder / "empty").mkdir()
    with pytest.raises(ProtT5nvError, match=message):
        input_files(paths)


def test_several_files_are_embedded_as_one_input(folder, model):
    summary = embed_file(input_files(["a.fa", "in"]), "out.h5", model)
    assert summary.proteins == 3
    with EmbeddingStore("out.h5") as store:
        assert list(store) == ["P1", "P2", "P3"] and store["P2"].shape == (3, 64)


def test_errors_name_the_file(folder, model):
    (folder / "d.fa").write_text(">P9\nMS\n>P1\nMK\n")
    with pytest.raises(ProtT5nvError, match=r"d.fa: line 3: P1: this id is already used on line 1 of a.fa"):
        embed_file(input_files(["a.fa", "d.fa"]), "out.h5", model)
    with pytest.raises(ProtT5nvError, match=r"d.fa: line 3: a second protein has the accession P1, as on line 1 of"):
        read_proteins(input_files(["a.fa", "d.fa"]), Skips())
    (folder / "d.fa").write_text(">P9\nMS\n\n>P8\nM1K\n")
    with pytest.raises(ProtT5nvError, match=r"d.fa: line 4: P8: position 2: '1' is not a residue"):
        embed_file(input_files(["a.fa", "d.fa"]), "out.h5", model)


def test_proteins_are_chosen_by_entry_name(folder):
    assert list(read_proteins(input_files(["in"]), Skips(), ["TWO_HUMAN"])) == ["P2"]
    with pytest.raises(ProtT5nvError, match=r"no protein has the .* id TWO_HUMN; did you mean TWO_HUMAN?"):
        read_proteins(input_files(["in"]), Skips(), ["TWO_HUMN"])
