"""Ctrl-C ends a command with exit code 130 and one line, and leaves no temporary file."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from prott5nv.cli import main


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("prott5nv.decoding.tables.write_perplexities", ["score", "p.fasta", "--perplexity", "-o", "out.csv"]),
        ("prott5nv.decoding.tables.filled_rows", ["fill", "MKT???AYI", "-o", "out.csv"]),
        ("prott5nv.flip.report.report", ["report", "."]),
        ("prott5nv.flip.prepare.prepare", ["prepare", "flip", "gb1", "--from", ".", "-o", "out"]),
        ("prott5nv.embedding.merge.merge", ["merge", "out.h5", "a.h5"]),
    ],
)
def test_every_command_ends_with_one_line_and_code_130(target, arguments, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    (tmp_path / "p.fasta").write_text(">P1\nMSLKR\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(target, interrupt)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    stderr = capsys.readouterr().err
    assert stopped.value.code == 130
    assert stderr.endswith("prott5nv: stopped\n") and "Traceback" not in stderr and "Aborted" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["p.fasta"]


@pytest.mark.slow
def test_a_process_in_the_middle_of_its_work(tiny_checkpoint, tmp_path):
    (tmp_path / "p.fasta").write_text(">P1\n" + "MSLKR" * 100 + "\n")
    arguments = ["score", "p.fasta", "--perplexity", "-o", "out.csv", "--model", str(tiny_checkpoint)]
    code = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores Ctrl-C
import prott5nv.decoding.tables as tables
compute = tables.pseudo_perplexity
def announce(*arguments, **options):
    print("working", flush=True)
    while True:
        compute(*arguments, **options)
tables.pseudo_perplexity = announce
from prott5nv.cli import main
main({arguments})
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, **pipes) as process:
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 130 and stderr.endswith("prott5nv: stopped\n") and "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["p.fasta"]


def test_ctrl_c_during_the_imports(tmp_path):
    code = """
import signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.default_int_handler)
from prott5nv.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "prott5nv: stopped\n")
