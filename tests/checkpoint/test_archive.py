"""Members of an archive are read as separate files, whether or not the archive is compressed."""

from __future__ import annotations

import hashlib
import io
import os

import pytest
from helpers.crafting import write_tar

from prott5nv import ProtT5nvError
from prott5nv.checkpoint.archive import Archive

MEMBERS = {"./first.txt": b"first", "./empty": b"", "./second.bin": bytes(range(256)) * 100}


@pytest.fixture(params=["w", "w:gz"], ids=["tar", "gzip"])
def archive(request, tmp_path, temporary_folder):
    with Archive(write_tar(tmp_path / "archive.nemo", MEMBERS, request.param)) as archive:
        yield archive


def test_all_members_are_read(archive):
    assert {f"./{name}": archive.read(name, member.size) for name, member in archive.members.items()} == MEMBERS


def test_members_can_be_read_in_turns(archive):
    second, first = archive.open("second.bin", 10**6), archive.open("first.txt", 10)
    assert second.read(3) == b"\0\1\2"
    assert first.read() == b"first" and first.read() == b""
    assert second.read(2) == b"\3\4"


def test_seeking_is_relative_to_the_member(archive):
    content = MEMBERS["./second.bin"]
    file = archive.open("second.bin", 10**6)
    assert file.seek(-2, io.SEEK_END) == len(content) - 2 and file.read() == content[-2:]
    assert file.seek(1000) == file.tell() == 1000 and file.read(5) == content[1000:1005]
    assert file.seek(-5, io.SEEK_CUR) == 1000
    file.seek(len(content) + 10)
    assert file.read() == b""
    with pytest.raises(ValueError, match="negative"):
        file.seek(-1)


def test_a_member_is_read_into_a_buffer(archive):
    content = MEMBERS["./second.bin"]
    buffer = bytearray(len(content) + 1)
    assert archive.open("second.bin", 10**6).readinto(buffer) == len(content)
    assert buffer == content + b"\0"


def test_missing_and_large_members_are_errors(archive):
    with pytest.raises(ProtT5nvError, match=r"archive\.nemo: absent is missing"):
        archive.read("absent", 10)
    with pytest.raises(ProtT5nvError, match=r"'first\.txt' has 5 bytes; expected at most 4"):
        archive.read("first.txt", 4)


def test_the_hash_is_that_of_the_file(archive):
    assert archive.sha256() == hashlib.sha256(archive.path.read_bytes()).hexdigest()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_one_line(tmp_path):
    path = write_tar(tmp_path / "archive.nemo", MEMBERS)
    path.chmod(0)
    with pytest.raises(ProtT5nvError, match=r"archive\.nemo: Permission denied"):
        Archive(path)
