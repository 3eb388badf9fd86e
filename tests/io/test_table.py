"""CSV tables are complete, quoted where necessary, and unchanged after an error."""

from __future__ import annotations

import csv
import io
import os
import sys
import threading
import warnings

import pytest

from prott5nv.errors import ProtT5nvError
from prott5nv.io.delimited import DelimitedTable
from prott5nv.io.source import open_source
from prott5nv.io.table import spreadsheet_safe_cell, tsv_line, write_table

ROWS = [["P1", 0.5, "plain"], ["P2", None, 'comma, "quote" and\nnew line'], ["größer", -1, ""]]


def test_rows_are_read_back(tmp_path):
    path = tmp_path / "scores.csv"
    assert write_table(path, ["id", "score", "note"], iter(ROWS)) == 3
    with open(path, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["id", "score", "note"],
            ["P1", "0.5", "plain"],
            ["P2", "", 'comma, "quote" and\nnew line'],
            ["größer", "-1", ""],
        ]


def test_lines_end_with_a_newline_only(tmp_path):
    write_table(tmp_path / "scores.csv", ["id"], [["P1"]])
    assert (tmp_path / "scores.csv").read_bytes() == b"id\nP1\n"


def test_a_carriage_return_is_quoted(tmp_path):
    path = tmp_path / "notes.csv"
    cells = ["\r", "a\rb", "a\r\nb", "end\r", "plain"]
    write_table(path, ["note", "id"], [[cell, "P1"] for cell in cells])
    assert path.read_bytes().startswith(b'note,id\n"\r",P1\n"a\rb",P1\n')
    with open_source(path) as stream:
        read = [row.cells for row in DelimitedTable(stream, "notes.csv")]
    assert [note for note, _ in read] == cells
    with open(path, newline="", encoding="utf-8") as file:
        assert [note for note, _ in list(csv.reader(file))[1:]] == cells


def test_a_table_without_rows_has_a_header(tmp_path):
    assert write_table(tmp_path / "scores.csv", ["id"], []) == 0
    assert (tmp_path / "scores.csv").read_text() == "id\n"


def test_an_error_in_the_rows_keeps_the_old_table(tmp_path):
    def rows():
        yield ["P1"]
        raise ProtT5nvError("a bad record")

    path = tmp_path / "scores.csv"
    path.write_text("old")
    with pytest.raises(ProtT5nvError, match="a bad record"):
        write_table(path, ["id"], rows())
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(ProtT5nvError, match=r"scores\.csv: No such file or directory"):
        write_table(tmp_path / "missing" / "scores.csv", ["id"], [])


def test_standard_output_gets_the_rows(capsys):
    assert write_table("-", ["id", "score"], [["P1", 0.5]]) == 1
    assert capsys.readouterr().out == "id,score\nP1,0.5\n"


def test_a_pipe_gets_the_rows(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    write_table(pipe, ["id", "score"], [["P1", 0.5]])
    reader.join(60)
    assert received == ["id,score\nP1,0.5\n"] and pipe.is_fifo()


def test_tsv_is_read_back_with_quotes(tmp_path):
    path = tmp_path / "skipped.tsv"
    rows = [["P1", '"quoted" cell'], ['"P2', "5' end"]]
    path.write_text(tsv_line(["id", "reason"]) + "".join(map(tsv_line, rows)))
    with open_source(path) as stream:
        assert [row.cells for row in DelimitedTable(stream, "skipped.tsv")] == rows
    assert tsv_line(["a\tb", "c\r\nd"]) == "a b\tc  d\n"


def test_cells_that_a_spreadsheet_would_compute_are_unchanged_and_counted(tmp_path):
    formulas = ["=1+1", "@SUM(A1)", "-2+3+cmd|' /C calc'!A0", "+HYPERLINK(1)"]
    harmless = ["-0.5", "+3", "-HHE-", "P1=2", "a@b.c", -1.5]
    with pytest.warns(UserWarning, match=r"compute 4 cells of this table, such as '=1\+1'; import all columns as text"):
        write_table(tmp_path / "out.csv", ["id"], [[cell] for cell in formulas + harmless])
    with open(tmp_path / "out.csv", newline="") as file:
        assert [row[0] for row in csv.reader(file)][1:] == [str(cell) for cell in formulas + harmless]


def test_harmless_cells_cause_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_table(tmp_path / "out.csv", ["id", "score"], [["P1", "-0.5"], ["-HHE-", -1]])


def test_standard_output_is_utf8_in_every_locale(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    write_table("-", ["id"], [["größer"]])
    assert sys.stdout.buffer.getvalue().decode() == "id\ngrößer\n"


def test_spreadsheet_safe_tables_have_no_formulas_and_the_same_numbers(tmp_path, recwarn):
    texts = ["=1+1", "+a", "-HHE", "@x", "\tx", "-1+2", "'=1", "P1"]
    numbers = ["-0.5", "+1e-05", "-.5", "-1.5 2 -3", "-4:5", -0.25]
    count = write_table(tmp_path / "t.csv", ["id"], [[cell] for cell in texts + numbers], spreadsheet_safe=True)
    with open(tmp_path / "t.csv", newline="") as file:
        cells = [row[0] for row in csv.reader(file)][1:]
    assert cells[: len(texts)] == [*(f"'{text}" for text in texts[:6]), "'=1", "P1"]
    assert cells[len(texts) :] == [str(number) for number in numbers]
    assert count == len(cells) and not recwarn.list
    assert spreadsheet_safe_cell("\rx") == "'\rx"
