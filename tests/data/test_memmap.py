"""Memory-mapped CSV files: random access, every record once, and an index that is complete and current or rebuilt."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import pickle
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prott5nv.data.memmap import CSVDataset, expand_files, open_index
from prott5nv.errors import ProtT5nvError
from prott5nv.model.tokenizer import ProteinTokenizer

HEADER = "record_id,record_name,sequence_length,sequence"
SEQUENCES = ["MSLKR", "MKV", "GIVEQCCTSICSLYQLENYCN"]


def write_csv(path, sequences, first=0, newline="\n", end="\n"):
    path.parent.mkdir(exist_ok=True)
    rows = [f"{i},UniRef50_{i},{len(sequence)},{sequence}" for i, sequence in enumerate(sequences, start=first)]
    path.write_bytes((newline.join([HEADER, *rows]) + end).encode())
    return path


def test_bionemo_files_open_as_they_are(shared, tmp_path):
    expected = []
    for source in sorted(shared.glob("data/sequences/uniref50_bionemo_csv/train/*.gz")):
        text = gzip.decompress(source.read_bytes())
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "train" / source.stem).write_bytes(text)
        expected += [line.split(",") for line in text.decode().splitlines()[1:]]
    records = CSVDataset(tmp_path, "train", "x[000..001]")
    assert len(records) == len(expected) > 900
    assert [records.row(i) for i in range(len(records))] == [(name, sequence) for _, name, _, sequence in expected]
    index_bytes = sum(path.stat().st_size for path in (tmp_path / "train").glob("*.idx"))
    assert index_bytes == 8 * (len(records) + 2 * 2)


def test_every_file_contributes_its_own_records_once(tmp_path):
    for number, sequences in enumerate([SEQUENCES, [], SEQUENCES[:1]]):
        write_csv(tmp_path / "val" / f"x00{number}.csv", sequences, first=10 * number)
    records = CSVDataset(tmp_path, "val", "x[000..002]")
    assert [records[i] for i in range(len(records))] == [*SEQUENCES, SEQUENCES[0]]
    assert [records.record_name(i) for i in range(4)] == ["UniRef50_0", "UniRef50_1", "UniRef50_2", "UniRef50_20"]
    assert list(CSVDataset(tmp_path, "val", ["x002", "x000.csv"])) == [SEQUENCES[0], *SEQUENCES]
    with pytest.raises(IndexError):
        records[4]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("blank_lines", [0, 1, 3])
def test_line_endings_and_blank_lines_at_the_end(tmp_path, newline, blank_lines):
    write_csv(tmp_path / "test" / "x000.csv", SEQUENCES, newline=newline, end=newline * blank_lines)
    assert list(CSVDataset(tmp_path, "test", "x000")) == SEQUENCES


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 60), max_size=40), block=st.integers(1, 200))
def test_rows_across_block_boundaries(lengths, block):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("prott5nv.data.memmap._BLOCK", block)
        path = write_csv(Path(folder) / "train" / "x000.csv", ["A" * length for length in lengths])
        text = path.read_bytes()
        offsets = open_index(path)
        assert [text[a:b].count(b"A") for a, b in pairwise(offsets)] == lengths


def test_the_index_is_reused_and_follows_the_file(tmp_path):
    path = write_csv(tmp_path / "train" / "x000.csv", SEQUENCES)
    CSVDataset(tmp_path, "train", "x000")
    index = path.with_name("x000.csv.idx")
    built = index.stat().st_mtime_ns
    CSVDataset(tmp_path, "train", "x000")
    assert index.stat().st_mtime_ns == built

    stat = path.stat()
    write_csv(path, SEQUENCES[::-1])  # the same size, so only the modification time differs
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert path.stat().st_size == stat.st_size
    assert list(CSVDataset(tmp_path, "train", "x000")) == SEQUENCES[::-1]

    index.write_bytes(index.read_bytes()[:-5])  # truncated
    assert list(CSVDataset(tmp_path, "train", "x000")) == SEQUENCES[::-1]
    assert sorted(file.name for file in path.parent.iterdir()) == ["x000.csv", "x000.csv.idx"]


def _open_index(path):
    return np.array(open_index(path))


def test_processes_can_build_the_index_at_the_same_time(tmp_path):
    path = write_csv(tmp_path / "train" / "x000.csv", ["MKV" * 50] * 20_000)
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        indices = pool.map(_open_index, [path] * 8, chunksize=1)
    assert all(np.array_equal(indices[0], index) for index in indices) and len(indices[0]) == 20_001
    assert sorted(file.name for file in path.parent.iterdir()) == ["x000.csv", "x000.csv.idx"]


@pytest.fixture
def unprivileged():
    """Yield a folder and run the test as an ordinary user, because permissions do not restrict root."""
    folder = Path(tempfile.mkdtemp(prefix="prott5nv-"))
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
        yield folder
        os.seteuid(0)
    else:
        yield folder
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_an_index_for_a_read_only_folder_goes_to_the_cache(unprivileged, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(unprivileged / "cache"))
    path = write_csv(unprivileged / "train" / "x000.csv", SEQUENCES)
    path.parent.chmod(0o555)
    for _ in range(2):
        assert list(CSVDataset(unprivileged, "train", "x000")) == SEQUENCES
    assert [file.name for file in path.parent.iterdir()] == ["x000.csv"]
    assert len(list((unprivileged / "cache/prott5nv/index").iterdir())) == 1


def test_a_pickled_dataset_opens_its_own_files(tmp_path):
    write_csv(tmp_path / "train" / "x000.csv", SEQUENCES)
    assert list(pickle.loads(pickle.dumps(CSVDataset(tmp_path, "train", "x000")))) == SEQUENCES


@pytest.mark.parametrize(
    "files, expected",
    [
        ("x000", ["x000.csv"]),
        ("x[0..2].csv", ["x0.csv", "x1.csv", "x2.csv"]),
        ("x[098..101]", ["x098.csv", "x099.csv", "x100.csv", "x101.csv"]),
        (["x[000..001]", "extra.csv"], ["x000.csv", "x001.csv", "extra.csv"]),
    ],
)
def test_ranges_are_expanded(files, expected):
    assert expand_files(files) == expected


def test_a_backward_range_is_an_error():
    with pytest.raises(ProtT5nvError, match="backwards"):
        expand_files("x[049..000]")


def test_missing_files_are_reported_with_the_remedy(tmp_path):
    write_csv(tmp_path / "train" / "x000.csv", SEQUENCES)
    with pytest.raises(
        ProtT5nvError, match=r"train: 49 of 50 files missing, x001.csv first; .*prott5nv prepare uniref50"
    ):
        CSVDataset(tmp_path, "train", "x[000..049]")
    with pytest.raises(ProtT5nvError, match=r"val: 1 of 1 files missing, x000.csv first"):
        CSVDataset(tmp_path, "val", "x000")
    with pytest.raises(ProtT5nvError, match=r"other: no such folder; .*prott5nv prepare uniref50"):
        CSVDataset(tmp_path / "other", "val", "x000")


def test_names_are_unquoted_as_in_any_csv_file(tmp_path):
    path = write_csv(tmp_path / "train" / "x000.csv", [])
    rows = ['0,"P1,a",3,MKV', '1,"say ""hi""",3,MKV', "2,3'-end\"x,3,MKV", '3,"",3,MKV']
    path.write_text("\n".join([HEADER, *rows]))
    records = CSVDataset(tmp_path, "train", "x000")
    assert [records.record_name(index) for index in range(4)] == ["P1,a", 'say "hi"', "3'-end\"x", ""]
    assert records.check()[0] == 12


@pytest.mark.parametrize("block", [1, 40, 1 << 24])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("end", [0, 1, 3])
def test_the_check_counts_the_residues_of_sound_files(tmp_path, monkeypatch, block, newline, end):
    write_csv(tmp_path / "train" / "x000.csv", ["MK*-v", *SEQUENCES], newline=newline, end=newline * end)
    write_csv(tmp_path / "train" / "x001.csv", SEQUENCES, newline=newline, end=newline * end)
    monkeypatch.setattr("prott5nv.data.memmap._BLOCK", block)
    records = CSVDataset(tmp_path, "train", "x*")
    lengths = [len(records[index]) for index in range(len(records))]
    assert records.check() == (sum(lengths), max(lengths))
    assert records.check(2, 5) == (sum(lengths[2:5]), max(lengths[2:5]))


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(number=st.integers(0, 4), row=st.text(alphabet=',"\r\nMk-*19. é', max_size=16), block=st.integers(1, 200))
def test_the_check_refuses_exactly_what_reading_refuses(number, row, block):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("prott5nv.data.memmap._BLOCK", block)
        path = write_csv(Path(folder) / "train" / "x000.csv", ["MKV"] * 5, end="")
        lines = path.read_bytes().split(b"\n")
        lines[1 + number] = b"1,a," + row.encode()
        path.write_bytes(b"\n".join(lines))
        records = CSVDataset(folder, "train", "x000")
        try:
            expected = sum(len(ProteinTokenizer().encode(records[index].upper())) for index in range(len(records)))
        except ProtT5nvError:
            with pytest.raises(ProtT5nvError, match=r"x000.csv, line \d: "):
                records.check()
        else:
            assert records.check()[0] == expected


def test_the_check_names_file_line_and_residue(tmp_path):
    write_csv(tmp_path / "train" / "x000.csv", SEQUENCES)
    write_csv(tmp_path / "train" / "x001.csv", [*SEQUENCES, "MK1", "M K"])
    with pytest.raises(ProtT5nvError, match=r"x001.csv, line 5: record 1 \(UniRef50_3\), position 3: '1'"):
        CSVDataset(tmp_path, "train", "x*").check()


def test_the_check_refuses_an_index_of_another_file(tmp_path):
    path = write_csv(tmp_path / "train" / "x000.csv", SEQUENCES)
    CSVDataset(tmp_path, "train", "x000")
    index = path.with_name("x000.csv.idx")
    sound = np.fromfile(index, dtype="<i8")
    for position, change in [(1, 17), (2, 3), (3, -1)]:
        damaged = sound.copy()
        damaged[position] += change
        damaged.tofile(index)
        with pytest.raises(ProtT5nvError, match=r"x000.csv.idx, does not fit it; delete the index"):
            CSVDataset(tmp_path, "train", "x000").check()


@pytest.mark.parametrize("row", ["1,UniRef50_B,3", '1,"UniRef50_B",3,"MKV"', "1,A,B,3,MKV", "1,UniRef50_B,0,", ""])
def test_an_invalid_row_is_reported_by_file_and_line(tmp_path, row):
    path = write_csv(tmp_path / "train" / "x000.csv", SEQUENCES[:1])
    path.write_text(path.read_text() + row + "\n2,UniRef50_C,3,MKV\n")
    records = CSVDataset(tmp_path, "train", "x000")
    assert (records[0], records[2]) == (SEQUENCES[0], "MKV")
    with pytest.raises(ProtT5nvError, match=r"x000.csv, line 3: not a row of record_id,"):
        records[1]
    with pytest.raises(ProtT5nvError, match=r"x000.csv, line 3: not a row of record_id,"):
        records.check()


@pytest.mark.parametrize("text", ["", "id,sequence\n1,MKV\n", ">sp|P1|A\nMKV\n", HEADER + ",more\n"])
def test_another_header_is_an_error(tmp_path, text):
    path = write_csv(tmp_path / "train" / "x000.csv", [])
    path.write_text(text)
    with pytest.raises(ProtT5nvError, match=r"x000.csv, line 1: the header must be"):
        CSVDataset(tmp_path, "train", "x000")


def test_an_empty_list_of_files_is_an_error(tmp_path):
    with pytest.raises(ProtT5nvError, match=r"val: no file is named; write model.data.dataset.val='x\*'"):
        CSVDataset(tmp_path, "val", [])


def test_files_without_records_are_an_error(tmp_path):
    write_csv(tmp_path / "train" / "x000.csv", [])
    with pytest.raises(ProtT5nvError, match="hold no record"):
        CSVDataset(tmp_path, "train", "x000")


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_an_index_is_not_written_through_a_link_nor_read_from_a_pipe(tmp_path, kind):
    (path := tmp_path / "x000.csv").write_text("record_id,record_name,sequence_length,sequence\n0,P1,2,MK\n")
    index = tmp_path / "x000.csv.idx"
    (mine := tmp_path / "mine").write_text("mine")
    index.symlink_to(mine) if kind == "link" else os.mkfifo(index)
    with pytest.raises(ProtT5nvError, match=r"this is a (link|pipe)"):
        open_index(path)
    assert mine.read_text() == "mine"
