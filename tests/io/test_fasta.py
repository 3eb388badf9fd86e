"""FASTA files in all common forms, and errors for malformed files."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prott5nv.errors import ProtT5nvError
from prott5nv.io import fasta
from prott5nv.io.fasta import read_fasta
from prott5nv.io.record import Record

PLAIN = b">a first protein\nMKV\nLAG\n>b\nMSLKR\n"
EXPECTED = [Record("a", "MKVLAG", "a first protein", 1), Record("b", "MSLKR", "b", 4)]


def write(tmp_path, content: bytes, name="proteins.fasta"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + PLAIN,
        PLAIN.rstrip(),
        PLAIN.replace(b"LAG", b"LAG \t"),
        gzip.compress(PLAIN, mtime=0),
        gzip.compress(PLAIN[:20], mtime=0) + gzip.compress(PLAIN[20:], mtime=0),
    ],
    ids=["plain", "crlf", "byte order mark", "no final newline", "trailing white space", "gzip", "gzip of two members"],
)
def test_common_forms_of_fasta_give_the_same_records(tmp_path, content):
    assert list(read_fasta(write(tmp_path, content))) == EXPECTED


def test_blank_lines_are_skipped_and_counted(tmp_path):
    path = write(tmp_path, b"\n \n>a\n\nMKV\n\n>b\n\n\nLAG\n\n")
    assert list(read_fasta(path)) == [Record("a", "MKV", "a", 3), Record("b", "LAG", "b", 7)]


def test_letters_are_not_changed(tmp_path):
    sequence = "mkv-LA*.XBZ J>"
    assert next(read_fasta(write(tmp_path, f">a\n{sequence}\n".encode()))).sequence == sequence


def test_headers_may_have_non_ascii_letters(tmp_path):
    record = next(read_fasta(write(tmp_path, ">a Hämoglobin α\nMKV\n".encode())))
    assert record.description == "a Hämoglobin α"


@pytest.mark.parametrize("block", [1, 2, 7, 64])
def test_records_do_not_depend_on_where_blocks_end(tmp_path, monkeypatch, block):
    path = write(tmp_path, PLAIN * 5)
    whole = list(read_fasta(path))
    # The first block must contain a character that is not white space. PLAIN begins with one.
    monkeypatch.setattr(fasta, "_BLOCK", block)
    assert list(read_fasta(path)) == whole
    assert len(whole) == 10


@given(
    st.lists(
        st.tuples(
            st.text("abcdefgXYZ019_|.", min_size=1, max_size=12),
            st.text("ACDEFGHIKLMNPQRSTVWYXacd-*", min_size=1, max_size=200),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 70),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_random_records_are_read_back(tmp_path_factory, records, width, line_end):
    lines = []
    for name, sequence in records:
        lines += [">" + name, *(sequence[start : start + width] for start in range(0, len(sequence), width))]
    path = tmp_path_factory.mktemp("fasta") / "proteins.fasta"
    path.write_bytes((line_end.join(lines)).encode())
    read = list(read_fasta(path))
    assert [(record.id, record.sequence) for record in read] == records
    headers = [number for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.startswith(b">")]
    assert [record.line for record in read] == headers


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "the file is empty"),
        (b"\n \n", "holds no records"),
        (b"\nMKV\n>a\nMKV\n", "line 2: expected a header that begins with '>', found 'MKV'"),
        (b">a\nMKV\n>b\n>c\nMKV\n", "line 3: record b has no sequence"),
        (b">a\nMKV\n>b", "line 3: record b has no sequence"),
        (b">a\nMKV\n> \nMKV\n", "line 3: a header without a name"),
        (b">a\nMKV\nM\xc3\xa4V\n", "line 3: record a has the non-ASCII byte 0xc3"),
        (b">a\xff\nMKV\n", "line 1: header 'a\\xff' is not UTF-8"),
        (b">a\0\1\nMKV\n", "binary file"),
        (PLAIN * 100_000 + b">a\0b\nMKV\n", "line 500001: header 'a\\x00b' has control characters"),
        (PLAIN * 100_000 + b">a\nMKV\nM\0V\n", "line 500003: record a has a NUL byte"),
        (b">a\1b\nMKV\n", "line 1: header 'a\\x01b' has control characters"),
        (b">a\nMKV\n--\n>b\nLAG\n", "line 3: record a has the line '--', which grep -A writes"),
        (b">a\nMKV\r\n--\r\n>b\nLAG\n", "line 3: record a has the line '--', which grep -A writes"),
        (">a\nMKV\n".encode("utf-16"), "binary file"),
        (gzip.compress(PLAIN * 1000, mtime=0)[:-20], "truncated"),
        (gzip.compress(PLAIN, mtime=0)[:-8] + b"\1\2\3\4\5\6\7\10", "damaged"),
        (gzip.compress(PLAIN, mtime=0) + b"junk", "damaged"),
    ],
)
def test_the_error_for_a_bad_file_is_one_line_with_the_place(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(ProtT5nvError) as error:
        list(read_fasta(path))
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_or_a_folder_is_an_error(tmp_path):
    for path in (tmp_path / "absent.fasta", tmp_path):
        with pytest.raises(ProtT5nvError, match=str(path)):
            list(read_fasta(path))


def test_a_line_of_two_gaps_in_an_alignment_is_no_separator(tmp_path):
    path = write(tmp_path, b">a\nM-V\n--\n>b\n--\n--\n>c\n\x2d\n")
    assert [record.sequence for record in read_fasta(path)] == ["M-V--", "----", "-"]


@pytest.mark.slow
def test_the_time_for_a_record_on_many_lines_is_linear(tmp_path):
    def seconds(lines):
        path = write(tmp_path, b">a\n" + (b"MKVLAGHTRE" * 6 + b"\n") * lines)
        start = time.process_time()
        assert len(next(read_fasta(path)).sequence) == 60 * lines
        return time.process_time() - start

    seconds(10_000)
    short, long = min(seconds(100_000) for _ in range(3)), min(seconds(1_000_000) for _ in range(3))
    assert long < 30 * short  # ten times as long; quadratic time would be a hundred times


def test_headers_of_merged_records_keep_their_separators(tmp_path):
    """NCBI's nr joins the headers of identical proteins with Ctrl-A."""
    record = next(read_fasta(write(tmp_path, b">P1 first\1P2 second\nMKV\n")))
    assert (record.id, record.description) == ("P1", "P1 first\1P2 second")


def test_empty_records_are_yielded_on_request(tmp_path):
    path = write(tmp_path, b">a\n>b\nMKV\n")
    assert [record.sequence for record in read_fasta(path, allow_empty=True)] == ["", "MKV"]


@pytest.mark.parametrize("content", [PLAIN, gzip.compress(PLAIN, mtime=0)], ids=["plain", "gzip"])
def test_standard_input(content):
    script = "from prott5nv.io.fasta import read_fasta; print(list(read_fasta('-')))"
    done = subprocess.run([sys.executable, "-c", script], input=content, capture_output=True, check=True)
    assert done.stdout.decode().strip() == str(EXPECTED)


def test_the_callback_gets_the_bytes_of_the_file(tmp_path):
    content = gzip.compress(PLAIN)
    observed = bytearray()
    list(read_fasta(write(tmp_path, content), on_read=observed.extend))
    assert bytes(observed) == content


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    path = write(tmp_path, gzip.compress(b">protein\n" + b"MKVLAG" * 50 + b"\n", 1) * 200_000)  # 62 MB of text
    script = f"""
import resource
from prott5nv.io.fasta import read_fasta
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sum(1 for record in read_fasta({str(path)!r})) == 200_000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert float(done.stdout) < 20


def test_genuine_files(shared):
    quirks = shared / "data" / "sequences" / "quirks"
    plain = [(record.id, record.sequence) for record in read_fasta(quirks / "esm_some_proteins.fasta.gz")]
    assert plain
    for form in ("CRLF", "nofinalnewline_blanklines", "wrapped60_lowercase"):
        records = read_fasta(quirks / f"some_proteins.{form}.fasta.gz")
        assert [(record.id, record.sequence.upper()) for record in records] == plain
    gaps = list(read_fasta(quirks / "esm_UniRef50_UPI0003108055.a3m.gz"))
    assert any("-" in record.sequence for record in gaps)
    titin = shared / "data" / "sequences" / "uniref50_2022_sample100" / "uniref2022_UR50.fasta.gz"
    assert max(len(record.sequence) for record in read_fasta(titin)) > 30_000


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("length", [50, 93, 94, 200])
def test_a_record_has_a_limit_that_is_named_and_can_be_raised(tmp_path, monkeypatch, block, length):
    monkeypatch.setattr("prott5nv.io.fasta._BLOCK", block)
    monkeypatch.setenv("PROTT5NV_LONGEST_RECORD", "100")
    path = tmp_path / "p.fasta"
    path.write_text(f">a\nMKV\n>long x\n{'M' * length}\n>b\nMK\n")  # the second record has 7 + length bytes
    if length <= 93:
        assert [len(record.sequence) for record in read_fasta(path)] == [3, length, 2]
        return
    message = "p.fasta: line 3: record long x has more than 100 bytes, .* variable PROTT5NV_LONGEST_RECORD to a larger"
    with pytest.raises(ProtT5nvError, match=message):
        list(read_fasta(path))
    monkeypatch.setenv("PROTT5NV_LONGEST_RECORD", "1000")
    assert [len(record.sequence) for record in read_fasta(path)] == [3, length, 2]


def test_a_limit_that_is_not_a_number_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PROTT5NV_LONGEST_RECORD", "1e9")
    (tmp_path / "p.fasta").write_text(">a\nMKV\n")
    with pytest.raises(ProtT5nvError, match="PROTT5NV_LONGEST_RECORD=1e9: must be a number of bytes"):
        list(read_fasta(tmp_path / "p.fasta"))
