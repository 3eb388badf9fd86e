"""CSV and TSV tables of proteins."""

from __future__ import annotations

import csv
import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prott5nv.errors import ProtT5nvError
from prott5nv.io import delimited
from prott5nv.io.delimited import DelimitedTable
from prott5nv.io.reader import read_records
from prott5nv.io.record import Record
from prott5nv.io.source import open_source


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
        "id,sequence,GO; terms\na,MKV,x;y\nb,LAG,z\n",
        '"accession","seq"\n"a","MKV"\n"b","LAG"\n',
        "name,protein,sequence\nHba,a,MKV\nHbb,b,LAG\n",
        gzip.compress(b"name,sequence\na, MKV \n\nb,LAG\n"),
    ],
    ids=[
        "ProtT5nv",
        "crlf",
        "byte order mark",
        "UniProt TSV",
        "semicolon in a name",
        "quoted",
        "this package's tables",
        "gzip, blank line, padding",
    ],
)
def test_common_forms_of_tables_give_the_same_records(tmp_path, content):
    assert [(record.id, record.sequence) for record in read_records(write(tmp_path, content))] == [
        ("a", "MKV"),
        ("b", "LAG"),
    ]


def test_columns_can_be_chosen(tmp_path):
    path = write(tmp_path, "id,gene,sequence,mutant\na,x,MKV,LAG\n")
    records = list(read_records(path, id_column="gene", sequence_column="mutant"))
    assert records == [Record("x", "LAG", "x", 2)]


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
        ("id,sequence\na,\n", "line 2: a: there is no sequence"),
        ("id,sequence\n,MKV\n", "line 2: the id is empty"),
        ("id,sequence\na,MÄV\n", "line 2: record a has a non-ASCII character"),
        (b"id,sequence\n\xff,MKV\n", "line 2: the id '\\udcff' is not UTF-8"),
        ('id,sequence\n"a\nb",MKV\n', "line 2: the id 'a\\nb' has a line break; remove it from the id"),
        ("id;sequence\na;MKV\n", "line 1: the columns seem to be separated by semicolons; save the table with commas"),
        ('\n"id";"sequence, one letter"\n"a";"MKV"\n', "line 2: the columns seem to be separated by semicolons"),
        ("; comment\n>a\nMKV\n", "line 1: expected a header that begins with '>', found ';'"),
        (b"id,sequence\na,\xff\n", "line 2: record a has a non-ASCII character"),
        (b"id,sequence\na,\0\n", "binary"),
        (b"id,sequence\n" + (b"a," + b"M" * 1000 + b"\n") * 2000 + b"b,\0\n", "line 2002: a NUL byte"),
        ('id,sequence\na,"MKV\nb,LAG\n', "line 2: a quote opens here and is not closed"),
        ('id,sequence\na,MKV\n"b,MKV\nc,"LAG\n', "line 4: text after a closing quote, 'LAG'"),
        ('id,sequence\n"a"b,MKV\n', "line 2: text after a closing quote, 'b,MKV'"),
        ('id,sequence\n"a" ,MKV\n', "line 2: text after a closing quote"),
        ("id,sequence\na,MKV\nb,LAG,\n", "line 3: the row has 3 of 2 columns"),
        ("id\tsequence\na\tMKV\nb\tLAG\tx\n", "line 3: the row has 3 of 2 columns"),
        ('"id"\t"sequence"\n"a"\t"MKV"\n', 'the columns are: "id", "sequence"'),
        ("id,sequence,Sequence\na,MKV,LAG\n", "several columns are named sequence"),
        ("id,sequence\na,MKV\nb,NA\n", "line 3: b: there is no sequence ('NA' means a missing value)"),
    ],
)
def test_the_error_for_a_bad_table_is_one_line_with_the_place(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(ProtT5nvError) as error:
        list(read_records(path))
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_quote_is_an_ordinary_character_in_tsv(tmp_path):
    path = write(tmp_path, 'id\tnote\tsequence\na\t"5\' end\tMKV\nb\tx\tLAG\n"c"\t3"\tMAG\n')
    assert [(record.id, record.sequence) for record in read_records(path)] == [
        ("a", "MKV"),
        ("b", "LAG"),
        ('"c"', "MAG"),
    ]


def test_quoted_cells_are_read_as_rfc_4180_defines(tmp_path):
    rows = [["a", 'say "yes, no"', "MKV"], ["b", "two\r\nlines", "LAG"], ["c", "", "MAG"], ['5"', '"', ""]]
    path = tmp_path / "proteins.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["id", "note", "sequence"], *rows])
    with open_source(path) as stream:
        assert [row.cells for row in DelimitedTable(stream, "t")] == rows


@given(st.lists(st.lists(st.text('ab ,"\n\r', max_size=6), min_size=3, max_size=3), min_size=1, max_size=5))
def test_tables_that_the_csv_module_writes_are_read_back(rows):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["x", "y", "z"], *rows])
    table = DelimitedTable(io.BufferedReader(io.BytesIO(file.getvalue().encode())), "t")
    # A row of blank cells without quotes is a row; a blank line is not.
    assert [row.cells for row in table] == rows


def test_cells_have_no_limit(tmp_path):
    sequence = "MKVLAG" * 50_000
    path = write(tmp_path, f'id,sequence\na,{sequence}\nb,"{sequence}"\n')
    assert [record.sequence for record in read_records(path)] == [sequence, sequence]


def test_an_unclosed_quote_reads_a_bounded_part_of_the_file(monkeypatch):
    monkeypatch.setattr(delimited, "_LONGEST_QUOTED_CELL", 1000)
    stream = io.BufferedReader(io.BytesIO(b'id,sequence\na,"' + b"MKV\n" * 1_000_000))
    table = DelimitedTable(stream, "t")
    with pytest.raises(ProtT5nvError, match="line 2: a quote opens here"):
        list(table)
    assert stream.tell() < 100_000


def test_text_that_is_not_utf_8_is_an_error_with_the_line():
    stream = io.BufferedReader(io.BytesIO("id\tfamily\na\tglobin\nb\tprot\xe9ase\n".encode("latin-1")))
    with pytest.raises(ProtT5nvError, match=r"labels\.tsv: line 3: the text is not UTF-8"):
        list(DelimitedTable(stream, "labels.tsv"))


def test_two_columns_of_one_name_are_an_error_for_dictionaries():
    table = DelimitedTable(io.BufferedReader(io.BytesIO(b"a,b,a\n1,2,3\n")), "t.csv")
    with pytest.raises(ProtT5nvError, match="two columns are named 'a'"):
        list(table.dictionaries())


def test_an_id_of_digits_is_an_id(tmp_path):
    assert [record.id for record in read_records(write(tmp_path, "id,sequence\n0,MKV\n007,LAG\n"))] == ["0", "007"]


def test_a_missing_column_lists_those_of_the_table(tmp_path):
    with pytest.raises(ProtT5nvError, match=r"no id column named gene; .*sequence"):
        list(read_records(write(tmp_path, "id,sequence\na,MKV\n"), id_column="gene"))


def test_genuine_tables(shared):
    sequences = shared / "data" / "sequences"
    inference = list(read_records(sequences / "uniref50_2021_04_qc" / "uniref50_inference_example.csv.gz"))
    assert inference[0].id == "UniRef50_A0A007"
    pretraining = list(read_records(sequences / "uniref50_bionemo_csv" / "val" / "x000.csv.gz"))
    assert (pretraining[0].id, len(pretraining[0].sequence)) == ("UniRef50_A3UX44", 155)
