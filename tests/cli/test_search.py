"""Tests of ``prott5nv search``."""

import numpy as np
import pytest
from helpers.full_disk import limited

from prott5nv.embedding.formats import write_output
from prott5nv.embedding.store import StoredProtein

PROTEINS = {"sp|P1|ONE_HUMAN": "MKVLAAGWTY", "sp|P2|TWO_HUMAN": "MKVLAAGWTF", "Q3": "DDEDDEDDED", "Q4": "PPGPPGPPGP"}


def fasta(proteins):
    return "".join(f">{name}\n{sequence}\n" for name, sequence in proteins.items())


@pytest.fixture
def search(run, tiny_checkpoint, tmp_path):
    """Run the search with the tiny model; `store.h5` holds the embeddings of `PROTEINS`."""
    (tmp_path / "proteins.fasta").write_text(fasta(PROTEINS))
    run("proteins.fasta", "-o", "store.h5")

    def search(query, *arguments, model=tiny_checkpoint, store="store.h5", code=0):
        chosen = ("--model", str(model)) if model else ()
        return run(query, "--in", store, *chosen, *arguments, command=("search", "--quiet"), code=code)

    return search


def rows(text, separator=","):
    header, *lines = [line.split(separator) for line in text.splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_proteins_of_a_fasta_file_find_themselves(search, label):
    found = rows(search("proteins.fasta", "-k", "2", "-o", "-").stdout)
    assert len(found) == 8
    assert [row["protein"] for row in found if row["rank"] == "1"] == ["P1", "P2", "Q3", "Q4"]
    assert found[0] == {
        "query": "P1",
        "rank": "1",
        "protein": "P1",
        "original_id": "sp|P1|ONE_HUMAN",
        "similarity": "1.000000",
        "model": label,
    }


def test_names_sequences_files_and_stores_give_the_same_neighbours(run, search, tmp_path):
    (tmp_path / "one.fasta").write_text(fasta({"P1": PROTEINS["sp|P1|ONE_HUMAN"]}))
    run("one.fasta", "-o", "one.parquet", "--pooling", "mean")
    expected = [(row["protein"], row["similarity"]) for row in rows(search("P1", "-o", "-").stdout)]
    for query in ("one.fasta", PROTEINS["sp|P1|ONE_HUMAN"], "one.parquet"):
        assert [(row["protein"], row["similarity"]) for row in rows(search(query, "-o", "-").stdout)] == expected
    assert {row["query"] for row in rows(search(PROTEINS["Q3"], "-o", "-").stdout)} == {"query"}


def test_a_query_on_the_command_line_is_checked_like_one_in_a_file(run, search, tmp_path):
    assert "nucleotides" in search(40 * "ACGT", code=2).stderr
    (tmp_path / "table.xlsx").write_bytes(b"PK\3\4")
    assert "a file of a spreadsheet program" in search("P1", store="table.xlsx", code=2).stderr


def test_queries_are_embedded_with_the_layer_of_the_store(run, search, tmp_path):
    run("proteins.fasta", "-o", "first.h5", "--layer", "1")
    found = rows(search("proteins.fasta", "-k", "1", "-o", "-", store="first.h5").stdout)
    assert all(row["query"] == row["protein"] and row["similarity"] == "1.000000" for row in found)
    assert (
        "its layer is encoder.final_layernorm, and that of first.h5 is 1"
        in search("store.h5", store="first.h5", code=2).stderr
    )


def test_names_need_no_model(search):
    assert len(rows(search("P1,Q3", "-o", "-", model=None).stdout)) == 8


def test_the_query_itself_can_be_left_out(search):
    found = rows(search("store.h5", "--skip-self", "-k", "10", "-o", "-").stdout)
    assert len(found) == 12 and all(row["query"] != row["protein"] for row in found)


def test_a_table_is_printed_with_annotations(search, tmp_path):
    (tmp_path / "table.tsv").write_text("Entry Name\tFamily\nONE_HUMAN\tkinase\nTWO_HUMAN\ta\nTWO_HUMAN\tb\x1b\n")
    done = search("P1", "--annotations", "table.tsv", "-k", "3")
    header, *lines = [line.split() for line in done.stdout.splitlines()]
    assert header == ["query", "rank", "protein", "original_id", "similarity", "Family"]
    family = {line[2]: " ".join(line[5:]) for line in lines}
    assert family["P1"] == "kinase"
    assert family["P2"] == r"a; b\x1b" and len(family) == 3
    assert "no row for 1 of the 3 proteins found" in done.stderr


def test_names_may_have_spaces_between_them(search):
    assert search("P1, P2").stdout == search("P1,P2").stdout


@pytest.mark.parametrize("name", ["sp|P1|ONE_HUMAN", "ONE_HUMAN"])
def test_full_ids_and_entry_names_are_accepted(search, name):
    assert search(name, "-k", "3").stdout == search("P1", "-k", "3").stdout


def test_columns_of_the_result_keep_their_names(search, tmp_path):
    (tmp_path / "hits.csv").write_text("protein,rank,family\nP1,7,x\n")
    [row] = rows(search("P1", "--annotations", "hits.csv", "-k", "1", "-o", "-").stdout)
    assert list(row.items())[-2:] == [("annotation_rank", "7"), ("family", "x")]


def test_a_tsv_file_is_written(search, tmp_path):
    done = search("P1", "-o", "hits.tsv")
    assert done.stdout == "" and len(rows((tmp_path / "hits.tsv").read_text(), "\t")) == 4
    assert "exists already" in search("P1", "-o", "hits.tsv", code=2).stderr
    assert "means Parquet, not the format to write" in search("P1", "-o", "hits.parquet", code=2).stderr


def test_another_model_is_refused(search, tmp_path):
    done = search("proteins.fasta", model=None, code=2)
    assert "store.h5 was made by tiny (checksum" in done.stderr
    assert "the built-in model has the checksum" in done.stderr and "--model" in done.stderr


def test_stores_without_a_model_can_be_searched_by_stores_only(search, tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    write_output(tmp_path / "plain.h5", [StoredProtein(f"X{n}", f"X{n}", None, v) for n, v in enumerate(vectors)], {})
    assert "does not record which model made it" in search("proteins.fasta", store="plain.h5", code=2).stderr
    assert len(rows(search("plain.h5", "-o", "-", store="plain.h5").stdout)) == 16
    assert "its vector has the shape (4,), and those of the store (64,)" in search("plain.h5", code=2).stderr


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("P9", "P9: no such file, no accession, entry name or full id of a protein of store.h5, and no sequence of at"),
        ("P1,TEN_HUMAN", "TEN_HUMAN: no accession"),
        ("MKV", "MKV: no such file"),
        ("absent.fasta", "absent.fasta: no such file"),
    ],
)
def test_unknown_queries_are_refused(search, query, message):
    assert message in search(query, code=2).stderr


def test_faulty_queries_stop_the_search_or_are_listed(search, tmp_path):
    (tmp_path / "faulty.fasta").write_text(">good\nMKVLAAGWTY\n>bad\nMK1\n")
    assert "faulty.fasta: line 3: bad: position 3: '1' is not a residue" in search("faulty.fasta", code=2).stderr
    search("faulty.fasta", "-o", "hits.csv", "--on-error", "skip", code=3)
    assert {row["query"] for row in rows((tmp_path / "hits.csv").read_text())} == {"good"}
    assert "bad" in (tmp_path / "hits.csv.skipped.tsv").read_text()
    done = search("faulty.fasta", "--on-error", "skip", code=3)
    assert "skipped: faulty.fasta: line 3: bad" in done.stderr and "good" in done.stdout


def test_an_index_is_built_once(search, run, tmp_path):
    arguments = ("-o", "-", "--index", "store.index")
    exact = search("store.h5", "-o", "-").stdout
    assert [row["protein"] for row in rows(search("store.h5", *arguments).stdout)] == [
        row["protein"] for row in rows(exact)
    ]
    built = (tmp_path / "store.index").stat()
    search("store.h5", *arguments)
    assert (tmp_path / "store.index").stat().st_ino == built.st_ino
    run("proteins.fasta", "-o", "store.h5", "--pooling", "mean", "--overwrite")
    search("store.h5", *arguments)
    assert (tmp_path / "store.index").stat().st_ino != built.st_ino


def test_an_index_with_other_names_is_refused(search, tmp_path):
    path = tmp_path / "store.index"
    search("P1", "--index", "store.index")
    path.write_bytes(path.read_bytes().replace(b"P1P2Q3Q4", b"X1P2Q3Q4"))
    assert (
        "lists 'X1', which is not in store.h5; delete the index"
        in search("P1", "--index", "store.index", code=2).stderr
    )


def test_another_file_is_not_replaced_by_an_index(search, tmp_path):
    (tmp_path / "notes.index").write_text("my notes")
    assert "notes.index: not a readable index" in search("P1", "--index", "notes.index", code=2).stderr
    assert (tmp_path / "notes.index").read_text() == "my notes"
    assert "store.h5" in search("P1", "--index", "store.h5", code=2).stderr


def test_a_full_disk_leaves_no_table(search, tmp_path):
    with limited(100):
        done = search("store.h5", "-o", "hits.csv", code=2)
    assert "File too large" in done.stderr
    assert not (tmp_path / "hits.csv").exists()


def test_missing_files_are_named(search):
    assert "nothing.tsv: No such file" in search("P1", "--annotations", "nothing.tsv", code=2).stderr
    assert "absent.h5" in search("P1", store="absent.h5", code=2).stderr
