"""What surrounds a command - locale, permissions, devices - ends in one line and never in a traceback."""

from __future__ import annotations

import io
import os
import sys

import pytest

from prott5nv.cli import main


def run_in_ascii(arguments, monkeypatch, capsys) -> tuple[int, str, str]:
    """Run a command whose standard output is ASCII, as under LC_ALL=C; return exit code, output and errors."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    sys.stdout.flush()
    return stopped.value.code or 0, sys.stdout.buffer.getvalue().decode(), capsys.readouterr().err


def test_names_are_written_in_an_ascii_locale(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ö.fasta").write_text(">ä\nMKV\n", encoding="utf-8")
    arguments = ["prepare", "uniref50", "ö.fasta", "-o", "out", "--val", "0", "--test", "0"]
    code, output, _ = run_in_ascii(arguments, monkeypatch, capsys)
    assert code == 0 and "1 protein read from ö.fasta" in output
    assert (tmp_path / "out" / "train" / "x000.csv").read_text(encoding="utf-8").endswith("0,ä,3,MKV\n")
    code, output, _ = run_in_ascii(["fill", "ö.fasta", "--mask", "2"], monkeypatch, capsys)
    assert code == 0 and "\nä,ä,1,M" in output


def test_an_error_of_the_operating_system_is_one_line(tmp_path, monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise PermissionError(13, os.strerror(13), "proteins.fasta")

    monkeypatch.setattr("prott5nv.data.prepare.prepare", refuse)
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "uniref50", "proteins.fasta", "-o", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "prott5nv: error: proteins.fasta: Permission denied\n"
