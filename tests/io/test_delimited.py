"""CSV and TSV tables of proteins."""

from __future__ import annotations

import gzip

import pytest

from prott5nv.errors import ProtT5nvError
from prott5nv.io.reader import read_records


def write(tmp_path, content: str | bytes):
    path = tmp_path / "proteins.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        "record_id,record_name,sequence_length,sequence\n7,a,3,MKV\n9,b,3,LAG\n",
        "id,sequence\r\na,MKV\r\nb,LAG\r\n",
        "\ufeffid,sequence\na,MKV\nb,LAG",
        "Entry\tSequence\na\tMKV\nb\tLAG\n",
        '"accession","seq"\n"a","MKV"\n"b","LAG"\n',
        gzip.compress(b"name,sequence\na, MKV \n\nb,LAG\n"),
    ],
    ids=["ProtT5nv", "crlf", "byte order mark", "UniProt TSV", "quoted", "gzip, blank line, padding"],
)
def test_common_forms_of_tables_give_the_same_records(tmp_path, content):
    assert [(record.id, record.sequence) for record in read_records(write(tmp_path, content))] == [
        ("a", "MKV"),
        ("b", "LAG"),
    ]


def test_columns_can_be_chosen(tmp_path):
    path = write(tmp_path, "id,gene,sequence,mutant\na,x,MKV,LAG\n")
    records = list(read_records(path, id_column="gene", sequence_column="mutant"))
    assert records == [("x", "LAG", "x", 2)]


def test_record_lines_count_quoted_and_blank_lines(tmp_path):
    path = write(tmp_path, 'id,note,sequence\na,"two\nlines",MKV\n\nb,,LAG\n')
    assert [record.line for record in read_records(path)] == [2, 5]


@pytest.mark.parametrize(
    "content, message",
    [
        ("id,residues\na,MKV\n", "no sequence column named sequence or seq; the columns are: id, residues"),
        ("number,sequence\n1,MKV\n", "no id column named"),
        ("id,sequence\n", "no rows"),
        ("id,sequence\na,MKV\nb\n", "line 3: the row has 1 of 2 columns"),
        ("id,sequence\na,\n", "line 2: record a has no sequence"),
        ("id,sequence\n,MKV\n", "line 2: the id is empty"),
        ("id,sequence\na,MÄV\n", "line 2: record a has a non-ASCII character"),
        (b"id,sequence\n\xff,MKV\n", "line 2: the id '\\udcff' is not UTF-8"),
        (b"id,sequence\na,\xff\n", "line 2: record a has a non-ASCII character"),
        (b"id,sequence\na,\0\n", "binary"),
    ],
)
def test_the_error_for_a_bad_table_is_one_line_with_the_place(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(ProtT5nvError) as error:
        list(read_records(path))
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_column_lists_those_of_the_table(tmp_path):
    with pytest.raises(ProtT5nvError, match=r"no id column named gene; .*sequence"):
        list(read_records(write(tmp_path, "id,sequence\na,MKV\n"), id_column="gene"))


def test_genuine_tables(shared):
    sequences = shared / "data" / "sequences"
    inference = list(read_records(sequences / "uniref50_2021_04_qc" / "uniref50_inference_example.csv.gz"))
    assert inference[0].id == "UniRef50_A0A007"
    pretraining = list(read_records(sequences / "uniref50_bionemo_csv" / "val" / "x000.csv.gz"))
    assert (pretraining[0].id, len(pretraining[0].sequence)) == ("UniRef50_A3UX44", 155)
