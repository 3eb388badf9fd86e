"""Input files are opened by content, and every error names the file."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys

import pytest

from prott5nv.errors import ProtT5nvError
from prott5nv.io import source
from prott5nv.io.record import Record
from prott5nv.io.source import name_truncation, open_source, plain_lines, read_small, source_name

TEXT = b"id,sequence\nP1,MKV\n" * 1000


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["proteins.csv", "proteins.csv.gz"])
def test_gzip_is_detected_from_the_content(tmp_path, name, compress):
    (tmp_path / name).write_bytes(compress(TEXT))
    with open_source(tmp_path / name) as stream:
        assert stream.peek()[:3] == b"id,"
        assert stream.read() == TEXT


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_the_callback_gets_the_bytes_of_the_file(tmp_path, compress):
    content = compress(TEXT)
    (tmp_path / "proteins").write_bytes(content)
    observed = bytearray()
    with open_source(str(tmp_path / "proteins"), observed.extend) as stream:
        assert stream.read() == TEXT
    assert bytes(observed) == content


def test_standard_input_stays_open():
    code = """
import os
from prott5nv.io.source import open_source
with open_source("-") as stream:
    print(stream.read())
os.fstat(0)
"""
    done = subprocess.run([sys.executable, "-c", code], input=b"MKV", capture_output=True, check=True)
    assert done.stdout.decode().strip() == "b'MKV'"


def test_names_in_messages():
    assert source_name("-") == "standard input"
    assert source_name("a/b.fasta") == "a/b.fasta"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (b"MKV\0", "binary file"),
        (b"PK\3\4\x14\0\6\0[Content_Types].xml \0", "a file of a spreadsheet program; save the table as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", "a file of a spreadsheet program; save the table as CSV"),
        (b"PK\3\4\x14\0\6\0proteins.fasta\0", "binary file"),
        (gzip.compress(TEXT, mtime=0)[:-8], "the gzip data are truncated; copy or download the file again"),
        (gzip.compress(TEXT, mtime=0)[:-8] + bytes(8), "the gzip data are damaged"),
    ],
)
def test_errors_name_the_file(tmp_path, content, message):
    path = tmp_path / "proteins"
    path.write_bytes(content)
    with pytest.raises(ProtT5nvError) as error, open_source(path) as stream:
        while stream.read1():
            pass
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


def test_an_error_of_the_system_names_the_file(tmp_path):
    with (
        pytest.raises(ProtT5nvError, match=rf"{tmp_path}/absent: No such file or directory"),
        open_source(tmp_path / "absent"),
    ):
        pytest.fail("the block must not run")


def test_truncation_names_the_last_complete_record():
    def records():
        yield Record("P1", "MKV", "P1", 2)
        yield Record("P2", "LAG", "P2", 5)
        raise EOFError

    stream = name_truncation(records(), "proteins.gz")
    assert [next(stream).id, next(stream).id] == ["P1", "P2"]
    with pytest.raises(ProtT5nvError, match=r"^proteins\.gz: the gzip data are truncated after line 5, record P2;"):
        next(stream)


def test_a_small_file_is_read_whole_or_refused(tmp_path):
    (path := tmp_path / "result.json").write_bytes(b"{}")
    assert read_small(path) == b"{}"
    with pytest.raises(ProtT5nvError, match="more than 1 bytes, so it is damaged or of another program"):
        read_small(path, 1)
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ProtT5nvError, match="no plain file"):
            read_small(odd)
        with pytest.raises(ProtT5nvError, match="no plain file"):
            list(plain_lines(odd))


def test_lines_of_a_text_file_are_bounded(tmp_path, monkeypatch):
    (path := tmp_path / "list.tsv").write_bytes(b"line\tid\r\n1\tP\xc3\xa4\n")
    assert list(plain_lines(path)) == ["line\tid\r\n", "1\tPä\n"]
    monkeypatch.setattr(source, "MOST_SMALL", 8)
    with pytest.raises(ProtT5nvError, match="a line has more than 8 characters"):
        list(plain_lines(path))
    path.write_bytes(b"\xff\n")
    with pytest.raises(ProtT5nvError, match="not a text file in UTF-8"):
        list(plain_lines(path))
