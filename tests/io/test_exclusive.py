"""Locks on files and folders."""

from __future__ import annotations

import errno
import logging

import pytest

from prott5nv.errors import ProtT5nvError
from prott5nv.io import exclusive
from prott5nv.io.atomic import write_text
from prott5nv.io.exclusive import exclusive_folder, lock_or_refuse
from prott5nv.io.work_folders import reserved

fcntl = pytest.importorskip("fcntl")


@pytest.fixture
def without_locks(monkeypatch):
    """A file system such as some network file systems, on which flock fails."""

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(exclusive.fcntl, "flock", flock)


def test_a_second_process_is_refused(tmp_path):
    with (
        exclusive_folder(tmp_path / "run", "results", wait=False),
        pytest.raises(ProtT5nvError, match="another process is writing results; wait for it"),
        exclusive_folder(tmp_path / "run", "results", wait=False),
    ):
        pass


def test_a_file_system_without_locks_is_not_taken_for_another_process(tmp_path, without_locks, caplog):
    caplog.set_level(logging.WARNING)
    with exclusive_folder(tmp_path / "run", "results", wait=False), open(tmp_path / "journal", "w") as file:
        lock_or_refuse(file.fileno(), tmp_path / "journal", "another process")
    assert caplog.messages == [
        f"this file system has no locks (No locks available), so make sure that no other process writes {purpose}"
        for purpose in ("results", tmp_path / "journal")
    ]


def test_without_locks_no_work_folder_is_removed(tmp_path, without_locks):
    workspace = tmp_path / f".prott5nv-{'0' * 16}"
    workspace.mkdir()
    with reserved(tmp_path / "out.csv"):
        write_text(tmp_path / "out.csv", "id\n")
    assert workspace.is_dir()
