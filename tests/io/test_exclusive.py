"""Locks on files and folders."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from prott5nv.errors import ProtT5nvError
from prott5nv.io import exclusive
from prott5nv.io.atomic import write_text
from prott5nv.io.exclusive import exclusive_folder, lock_or_refuse, open_own
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


@pytest.mark.parametrize("mode", ["ab", "wb", "a+b"])
@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe"])
def test_only_a_file_of_ones_own_is_opened_for_writing(tmp_path, kind, mode):
    (mine := tmp_path / "mine").write_text("mine")
    path = tmp_path / "rows.npy"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "hard link":
        os.link(mine, path)
    else:
        path.symlink_to(mine)
    with pytest.raises(OSError):
        os.close(open_own(str(path), os.O_RDWR | (os.O_TRUNC if mode == "wb" else 0)))
    assert mine.read_text() == "mine"
    path.unlink()
    for _ in range(2):
        with open(path, mode, opener=open_own) as file:
            file.write(b"own")
    assert path.read_text() == ("own" if mode == "wb" else "ownown")
