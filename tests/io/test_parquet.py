"""Parquet tables of proteins."""

from __future__ import annotations

import sys

import pytest

from prott5nv.errors import ProtT5nvError
from prott5nv.io import parquet
from prott5nv.io.parquet import is_parquet, pyarrow_parquet, read_parquet
from prott5nv.io.reader import read_records

pyarrow = pytest.importorskip("pyarrow", reason="needs the parquet extra")


def write(tmp_path, **columns):
    from pyarrow.parquet import write_table

    path = tmp_path / "proteins.parquet"
    write_table(pyarrow.table(columns), path)
    return path


def test_records_in_the_order_of_the_file(tmp_path):
    count = 2500  # three batches
    path = write(tmp_path, Entry=[f"P{i}" for i in range(count)], note=["x"] * count, Sequence=["MKV"] * count)
    assert [record[:4] for record in read_records(path)] == [(f"P{i}", "MKV", f"P{i}", i + 1) for i in range(count)]


def test_columns_can_be_chosen(tmp_path):
    path = write(tmp_path, id=["a"], gene=["x"], sequence=["MKV"], mutant=[" LAG "])
    [record] = read_parquet(path, id_column="GENE", sequence_column="mutant")
    assert record[:4] == ("x", "LAG", "x", 1)


def test_numbers_serve_as_ids(tmp_path):
    assert [record.id for record in read_parquet(write(tmp_path, id=[0, 1], sequence=["MKV", "LAG"]))] == ["0", "1"]


def test_text_that_is_stored_as_bytes_is_decoded(tmp_path):
    path = write(tmp_path, id=[b"a"], sequence=[b"MKV"])
    assert [record[:4] for record in read_records(path)] == [("a", "MKV", "a", 1)]


@pytest.mark.parametrize("repeated", [["MKV", "LAG", "MKV", None], ["MKV", "MKV", None, "LAG"]])
def test_texts_of_a_dictionary_are_read_in_order(repeated, tmp_path):
    path = write(tmp_path, id=list("abcd"), sequence=pyarrow.array(repeated).dictionary_encode())
    assert [record.sequence for record in read_parquet(path)] == [text or "" for text in repeated]


def test_a_long_text_that_all_rows_share_is_held_once(tmp_path):
    # The rows would be 100 GB if each had a text of its own.
    shared = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * 10_000, "int32"), pyarrow.array(["A" * 10_000_000])
    )
    path = write(tmp_path, id=[str(number) for number in range(10_000)], sequence=shared)
    assert sum(len(record.sequence) for record in read_parquet(path)) == 100_000_000_000


def test_large_integers_are_not_rounded(tmp_path):
    path = write(tmp_path, id=[2**63 - 1, 2**53 + 1], sequence=["MKV", "LAG"])
    assert [record.id for record in read_parquet(path)] == [str(2**63 - 1), str(2**53 + 1)]


def test_missing_sequences_are_empty(tmp_path):
    path = write(tmp_path, id=["a", "b"], sequence=["MKV", None])
    assert [record.sequence for record in read_parquet(path)] == ["MKV", ""]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a"], "residues": ["MKV"]}, "no sequence column named sequence or seq; the columns are: id, residues"),
        ({"id": ["a", "b"], "sequence": ["MKV", None]}, "line 2: b: there is no sequence"),
        ({"id": ["a", "b", "c"], "sequence": ["MKV", "nan", None]}, "line 2: b: there is no sequence ('nan' means"),
        ({"id": [1.0, float("nan")], "sequence": ["MKV", "LAG"]}, "row 1: the id is 1.0, not text"),
        ({"id": [b"a\0\0"], "sequence": ["MKV"]}, "row 1: the id 'a\\x00\\x00' has the character '\\x00'"),
        ({"id": [b"\xff\xfe"], "sequence": ["MKV"]}, "row 1: the id is not UTF-8 text"),
        ({"id": [True], "sequence": ["MKV"]}, "row 1: the id is True, not text"),
        ({"id": ["a"], "sequence": [["M", "K"]]}, "row 1: the sequence of a is ['M', 'K'], not text"),
        ({"id": ["a"], "sequence": [b"\xff"]}, "row 1: the sequence of a is not UTF-8 text"),
        ({"id": ["a", None], "sequence": ["MKV", "LAG"]}, "row 2: the id is empty"),
        ({"id": pyarrow.array([], "string"), "sequence": pyarrow.array([], "string")}, "the table has no rows"),
    ],
)
def test_errors_name_file_and_row(tmp_path, columns, message):
    path = write(tmp_path, **columns)
    with pytest.raises(ProtT5nvError) as error:
        list(read_records(path))
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


def test_a_damaged_file_is_an_error(tmp_path):
    path = write(tmp_path, id=["a"], sequence=["MKV"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ProtT5nvError, match="not a readable Parquet file"):
        list(read_records(path))


def test_the_format_is_detected_from_the_content(tmp_path):
    path = write(tmp_path, id=["a"], sequence=["MKV"])
    assert is_parquet(path.rename(tmp_path / "proteins.csv"))
    (tmp_path / "text.parquet").write_text("id,sequence\n")
    assert not any(is_parquet(name) for name in (tmp_path / "text.parquet", tmp_path / "absent", "-"))


def test_without_pyarrow_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ProtT5nvError, match=r"pip install 'prott5nv\[parquet\]'"):
        pyarrow_parquet()


def test_a_crash_of_the_library_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text("import os\nos.abort()\n")
    monkeypatch.setattr(parquet, "_PROGRAM", tmp_path / "program.py")
    with pytest.raises(ProtT5nvError, match="Apache Arrow crashes on it, or needs too much time or memory"):
        list(read_parquet(write(tmp_path, id=["a"], sequence=["MKV"])))
