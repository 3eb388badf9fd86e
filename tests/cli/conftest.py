"""Fixtures that run the command line with a tiny model, in this process or in its own."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from helpers.forked import ForkedCommand

from prott5nv.checkpoint.models import checksum
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
    """Start ``prott5nv embed`` in `tmp_path` with the tiny model in its own process."""

    def start(*arguments, **options):
        return ForkedCommand(["embed", "--model", tiny_checkpoint, *arguments], tmp_path, **options)

    return start
