"""Fixtures that run the command line with a tiny model, in this process or in its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import NamedTuple

from prott5nv.checkpoint.models import checksum
import pytest

from prott5nv.cli import main


class Done(NamedTuple):
    stdout: str
    stderr: str


@pytest.fixture
def run(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """Run the command in `tmp_path` with the tiny model in this process, which saves importing PyTorch again."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0, command=("embed", "--model", str(tiny_checkpoint))):
        with pytest.raises(SystemExit) as stopped:
            main([*command, *arguments])
        done = Done(*capsys.readouterr())
        assert (stopped.value.code or 0) == code, done.stderr
        return done

    return run
@pytest.fixture(scope="session")
def label(tiny_checkpoint):
    """The name of the tiny model in tables and messages."""
    return f"tiny {checksum(tiny_checkpoint)[:8]}"




@pytest.fixture
def start(tiny_checkpoint, tmp_path):
    """Start the command in `tmp_path` with the tiny model in its own process, as a terminal does."""

    def accept_control_c():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # A shell's background jobs, such as those of CI, ignore Ctrl-C.

    def start(*arguments, **options):
        options = {"preexec_fn": accept_control_c, **options}
        command = [sys.executable, "-m", "prott5nv", "embed", "--model", tiny_checkpoint, *arguments]
        return subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, **options)

    return start
