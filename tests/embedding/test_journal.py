"""The journal of an embedding run: commits, resuming, refusals, and a full disk."""

from __future__ import annotations

import errno
import json
import os
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from helpers.waiting import wait_until

from prott5nv import EmbeddingStore, ProtT5nvError
from prott5nv.embedding import journal as journal_module
from prott5nv.embedding import partial
from prott5nv.embedding import rows as rows_module
from prott5nv.embedding.commits import InputDigest
from prott5nv.embedding.formats import skipped_listing
from prott5nv.embedding.journal import Journal, fingerprint_of
from prott5nv.embedding.partial import partial_folder
from prott5nv.io.hdf5_in_place import FIRST_VALUE
from prott5nv.io.hdf5_writing import LayoutError
from prott5nv.io.record import Record

SETTINGS = {"dtype": "float32", "precision": "fp32", "pooling": "none"}
RECORDS = [Record(f"sp|P{number}|X", "MSLKR"[: 2 + number % 4], "", 2 * number + 1) for number in range(8)]


def rows_of(record: Record) -> np.ndarray:
    """Rows that identify their record: ndarray, shape=(L, 4), dtype=float32."""
    length = len(record.sequence)
    return np.arange(4 * length, dtype=np.float32).reshape(length, 4) + 100 * record.line


def open_journal(tmp_path, **settings) -> Journal:
    return Journal(tmp_path / "out.h5", {**SETTINGS, **settings}, 4)


def add(journal: Journal, records) -> None:
    for record in records:
        journal.add(record, record.id.split("|")[1], rows_of(record), len(record.sequence))


@pytest.fixture(autouse=True)
def no_commits_by_time(monkeypatch):
    """The tests commit explicitly, so that they do not depend on the clock."""
    monkeypatch.setattr(journal_module, "_SECONDS_BETWEEN_COMMITS", float("inf"))


def check_output(tmp_path) -> None:
    with EmbeddingStore(tmp_path / "out.h5") as store:
        assert list(store) == [f"P{number}" for number in range(8)]
        for record, rows in zip(RECORDS, store.values(), strict=True):
            np.testing.assert_array_equal(rows, rows_of(record))
        assert store.original_id("P3") == "sp|P3|X"
    assert not partial_folder(tmp_path / "out.h5").exists()


def test_a_resumed_run_continues_after_the_last_commit(tmp_path):
    first = open_journal(tmp_path)
    add(first, RECORDS[:3])
    first.commit()
    add(first, RECORDS[3:5])  # These are not committed and therefore lost.
    first.close()

    second = open_journal(tmp_path)
    assert (second.records, second.proteins, second.residues) == (3, 3, 2 + 3 + 4)
    remaining = iter(RECORDS)
    second.resume(remaining)
    add(second, remaining)
    second.finish()
    check_output(tmp_path)


def test_a_finished_output_has_the_settings_and_the_fingerprint_as_attributes(tmp_path):
    journal = open_journal(tmp_path)
    digest = InputDigest()
    for record in RECORDS:
        digest.add(record)
    add(journal, RECORDS)
    journal.finish(shard="1/2")
    attributes = EmbeddingStore(tmp_path / "out.h5").attributes
    assert attributes == {**SETTINGS, "fingerprint": fingerprint_of(SETTINGS, digest.hex()), "shard": "1/2"}


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_an_incomplete_last_line_is_removed(tmp_path, cut):
    journal = open_journal(tmp_path)
    add(journal, RECORDS[:3])
    journal.commit()
    complete = (journal.folder / "journal.jsonl").read_bytes()
    add(journal, RECORDS[3:6])
    journal.commit()
    journal.close()
    path = journal.folder / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])

    resumed = open_journal(tmp_path)
    assert resumed.records == 3
    assert path.read_bytes() == complete
    assert (resumed.folder / "rows.bin").stat().st_size == FIRST_COMMIT
    remaining = iter(RECORDS)
    resumed.resume(remaining)
    add(resumed, remaining)
    resumed.finish()
    check_output(tmp_path)


def test_a_journal_without_a_complete_line_starts_again(tmp_path):
    open_journal(tmp_path).close()
    path = partial_folder(tmp_path / "out.h5") / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:10])
    journal = open_journal(tmp_path)
    assert journal.records == 0
    assert json.loads(path.read_text())["settings"] == SETTINGS
    journal.close()


def test_other_settings_are_an_error_and_release_the_lock(tmp_path):
    journal = open_journal(tmp_path)
    add(journal, RECORDS[:2])
    journal.commit()
    journal.close()
    with pytest.raises(ProtT5nvError, match="unfinished run with precision=fp32, not bf16"):
        open_journal(tmp_path, precision="bf16")
    assert open_journal(tmp_path).records == 2


@pytest.mark.parametrize("other", [[RECORDS[1], RECORDS[0]], RECORDS[:1]], ids=["other order", "shorter"])
def test_another_input_is_an_error(tmp_path, other):
    journal = open_journal(tmp_path)
    add(journal, RECORDS[:2])
    journal.commit()
    journal.close()
    resumed = open_journal(tmp_path)
    with pytest.raises(ProtT5nvError, match="unfinished run over another input"):
        resumed.resume(iter(other))
    resumed.close()


def test_two_runs_cannot_write_to_the_same_output(tmp_path):
    pytest.importorskip("fcntl")
    journal = open_journal(tmp_path)
    with pytest.raises(ProtT5nvError, match="another run writes to it"):
        open_journal(tmp_path)
    journal.close()
    open_journal(tmp_path).close()


def test_skipped_records_are_listed_with_those_of_the_interrupted_run(tmp_path):
    first = open_journal(tmp_path)
    first.skip(RECORDS[0], "there is no sequence")
    first.commit()
    first.close()
    second = open_journal(tmp_path)
    second.resume(remaining := iter(RECORDS[:3]))
    add(second, [next(remaining)])
    second.skip(next(remaining), "a\ttab")
    second.finish()
    assert second.skipped == 2
    listing = skipped_listing(tmp_path / "out.h5")
    assert listing.read_text() == "line\tid\treason\n1\tsp|P0|X\tthere is no sequence\n5\tsp|P2|X\ta tab\n"


def test_a_list_of_skipped_records_that_exists_is_replaced_only_on_request(tmp_path):
    listing = skipped_listing(tmp_path / "out.h5")
    listing.write_text("mine")
    with pytest.raises(ProtT5nvError, match=r"out\.h5\.skipped\.tsv: exists already"):
        open_journal(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {listing.name} and listing.read_text() == "mine"
    journal = Journal(tmp_path / "out.h5", SETTINGS, 4, overwrite=True)
    add(journal, RECORDS)
    journal.finish()
    assert not listing.exists()


def damage_by_link(folder, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(folder.parent / "mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: damage_by_link(folder, "rows.bin"), r"rows\.bin: this is a link, or no plain file"),
        (lambda folder: damage_by_link(folder, "assembled.npz"), r"assembled\.npz: this is a link, or no plain file"),
        (
            lambda folder: damage_by_link(folder, "out.h5.skipped.tsv"),
            r"skipped\.tsv: this is a link, or no plain file",
        ),
        (lambda folder: damage_by_link(folder, "journal.jsonl"), r"journal\.jsonl: this is a link, or no plain file"),
        (lambda folder: os.mkfifo(folder / "assembled.h5"), r"assembled\.h5: this is a link, or no plain file"),
        (
            lambda folder: os.link(folder.parent / "mine", folder / "assembled"),
            r"assembled: this is a link, or no plain",
        ),
        (lambda folder: (folder / "notes.txt").touch(), r"notes\.txt: no run has made this; move it to another place"),
        (lambda folder: (folder / "journal.jsonl").unlink(), r"rows\.bin: no run has made this"),
    ],
)
def test_a_folder_that_a_run_did_not_make_is_refused_and_stays(tmp_path, change, message):
    (tmp_path / "mine").write_text("mine")
    journal = open_journal(tmp_path)
    add(journal, RECORDS[:2])
    journal.commit()
    journal.close()
    change(journal.folder)
    before = sorted(path.name for path in journal.folder.iterdir())
    with pytest.raises(ProtT5nvError, match=message):
        open_journal(tmp_path)
    partial.discard(journal.folder)
    assert sorted(path.name for path in journal.folder.iterdir()) == before
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_link_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    partial_folder(tmp_path / "out.h5").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ProtT5nvError, match=r"out\.h5\.partial: this is a link; remove it"):
        open_journal(tmp_path)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_truncated_proteins_and_pooled_vectors_are_stored(tmp_path):
    journal = open_journal(tmp_path, pooling="mean")
    journal.add(RECORDS[3], "P3", np.ones(4, dtype=np.float32), 2)
    journal.finish()
    store = EmbeddingStore(tmp_path / "out.h5")
    assert store["P3"].shape == (4,)
    assert store.truncated_from("P3") == len(RECORDS[3].sequence)


def test_after_a_full_disk_close_releases_the_lock_and_the_commits_stay(tmp_path, monkeypatch):
    journal = open_journal(tmp_path)
    add(journal, RECORDS[:2])
    journal.commit()
    add(journal, RECORDS[2:4])

    class FullDisk:
        """A file whose buffer cannot be flushed."""

        def __init__(self, file):
            self._file = file

        def write(self, content):
            self._file.write(content)

        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            self._file.close()
            self.flush()

    monkeypatch.setattr(journal._rows, "_file", FullDisk(journal._rows._file))
    with pytest.raises(OSError, match="No space left"):
        journal.commit()
    with pytest.raises(OSError, match="No space left"):
        journal.close()

    resumed = open_journal(tmp_path)
    assert resumed.records == 2
    remaining = iter(RECORDS)
    resumed.resume(remaining)
    add(resumed, remaining)
    resumed.finish()
    check_output(tmp_path)


def unfinished(tmp_path) -> tuple[Path, Path]:
    """Commit three records, then two, and return the paths of the journal and the rows."""
    journal = open_journal(tmp_path)
    add(journal, RECORDS[:3])
    journal.commit()
    add(journal, RECORDS[3:5])
    journal.commit()
    journal.close()
    return journal.folder / "journal.jsonl", journal.folder / "rows.bin"


def replaced(path: Path, position: int, content: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:position] + content + whole[position + len(content) :])


def line_replaced(path: Path, number: int, content: bytes) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number] = content
    path.write_bytes(b"".join(lines))


FIRST_COMMIT = FIRST_VALUE + 4 * 4 * (2 + 3 + 4)  # where its rows end in the file of rows

DAMAGES = {
    "no rows": (lambda journal, rows: rows.unlink(), 0),
    "empty rows": (lambda journal, rows: rows.write_bytes(b""), 0),
    "rows end in the first commit": (lambda journal, rows: os.truncate(rows, FIRST_COMMIT - 1), 0),
    "rows end in the second commit": (lambda journal, rows: os.truncate(rows, FIRST_COMMIT + 4), 3),
    "rows of zeros": (lambda journal, rows: replaced(rows, FIRST_COMMIT, bytes(16)), 3),
    "a line of NULs": (lambda journal, rows: line_replaced(journal, 1, bytes(40) + b"\n"), 0),
    "NULs in the last line": (lambda journal, rows: replaced(journal, journal.stat().st_size - 40, bytes(30)), 3),
    "NULs to the end": (lambda journal, rows: replaced(journal, journal.stat().st_size - 40, bytes(40)), 3),
    "NULs after the end": (lambda journal, rows: journal.write_bytes(journal.read_bytes() + bytes(4096)), 5),
    "another digit": (lambda journal, rows: journal.write_bytes(journal.read_bytes().replace(b'"P4"', b'"P7"')), 3),
    "bytes that are not UTF-8": (lambda journal, rows: line_replaced(journal, 2, b"\xff\xfe\n"), 3),
    "deep nesting": (lambda journal, rows: line_replaced(journal, 2, b"[" * 100_000 + b"\n"), 3),
    "not an object": (lambda journal, rows: line_replaced(journal, 2, b"5\n"), 3),
    "an empty line": (lambda journal, rows: line_replaced(journal, 1, b"\n"), 0),
    "a missing line": (lambda journal, rows: line_replaced(journal, 1, b""), 0),
    "a line with a valid checksum and no content": (
        lambda journal, rows: line_replaced(journal, 2, b'{"crc32": %d}\n' % zlib.crc32(b"{}")),
        3,
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_run_continues_after_its_last_sound_commit(tmp_path, kind):
    damage, records = DAMAGES[kind]
    damage(*unfinished(tmp_path))
    unterminated = kind in ("NULs to the end", "NULs after the end")  # like a line that a kill cut off
    with nullcontext() if unterminated else pytest.warns(UserWarning, match=f"continues after the first {records} rec"):
        resumed = open_journal(tmp_path)
    assert (resumed.records, resumed.proteins) == (records, records)
    remaining = iter(RECORDS)
    resumed.resume(remaining)
    add(resumed, remaining)
    resumed.finish()
    check_output(tmp_path)


@pytest.mark.parametrize("content", [bytes(40) + b"\n", b"{}\n", b"not JSON\n", b"[]\n", b'{"settings": {}}\n', b"\n"])
def test_a_journal_with_a_damaged_first_line_is_refused(tmp_path, content):
    path, _ = unfinished(tmp_path)
    line_replaced(path, 0, content)
    with pytest.raises(ProtT5nvError, match=r"journal\.jsonl: line 1 is damaged.*delete .*out\.h5\.partial"):
        open_journal(tmp_path)
    assert len(path.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("kind", ["no rows", "rows end in the second commit", "rows of zeros", "a line of NULs"])
def test_damage_during_the_run_is_an_error_and_gives_no_output(tmp_path, kind):
    journal = open_journal(tmp_path)
    add(journal, RECORDS[:3])
    journal.commit()
    add(journal, RECORDS[3:])
    journal.commit()
    DAMAGES[kind][0](journal.folder / "journal.jsonl", journal.folder / "rows.bin")
    with pytest.raises(ProtT5nvError, match="was damaged while the run went on"):
        journal.finish()
    journal.close()
    assert not (tmp_path / "out.h5").exists()


def test_a_resumed_run_that_adds_no_rows_records_the_right_number_of_bytes(tmp_path):
    _, rows = unfinished(tmp_path)
    rows.write_bytes(rows.read_bytes() + bytes(100))  # rows that were not committed
    resumed = open_journal(tmp_path)
    resumed.resume(iter(RECORDS))
    resumed.commit()
    resumed.close()
    resumed = open_journal(tmp_path)
    assert resumed.records == 5
    resumed.close()


def commit_each(tmp_path) -> Journal:
    """A journal with one commit for each record; every second record is skipped."""
    journal = open_journal(tmp_path)
    for number, record in enumerate(RECORDS):
        journal.skip(record, "reason") if number % 2 else add(journal, [record])
        journal.commit()
    return journal


CHANGES = {
    "swapped": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "missing": lambda lines: [*lines[:3], *lines[4:]],
    "missing skip": lambda lines: [*lines[:4], *lines[5:]],
    "twice": lambda lines: [*lines[:4], lines[3], *lines[4:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_lines_that_do_not_follow_each_other_are_cut_off(tmp_path, change):
    journal = commit_each(tmp_path)
    journal.close()
    path = journal.folder / "journal.jsonl"
    path.write_bytes(b"".join(CHANGES[change](path.read_bytes().splitlines(keepends=True))))
    with pytest.warns(UserWarning, match=r"journal.jsonl of the unfinished run is damaged"):
        resumed = open_journal(tmp_path)
    assert resumed.records == (2 if change in ("swapped", "missing") else 3)
    resumed.close()


@pytest.mark.parametrize("change", [*CHANGES, "shorter"])
def test_lines_that_change_during_the_run_end_it(tmp_path, change):
    journal = commit_each(tmp_path)
    path = journal.folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1] if change == "shorter" else CHANGES[change](lines)))
    with pytest.raises(ProtT5nvError, match=r"was damaged while the run went on"):
        journal.finish()
    journal.close()
    assert not (tmp_path / "out.h5").exists()


def test_rows_of_another_run_are_embedded_again(tmp_path):
    journal = commit_each(tmp_path)
    journal.close()
    rows = journal.folder / "rows.bin"
    rows.write_bytes(bytes(rows.stat().st_size))
    with pytest.warns(UserWarning, match=r"rows.bin of the unfinished run is damaged: .* the first 0 records"):
        open_journal(tmp_path).close()


def test_a_finished_output_is_not_replaced_by_a_later_start(tmp_path):
    journal = open_journal(tmp_path)
    add(journal, RECORDS)
    (tmp_path / "out.h5").write_text("of another run")
    with pytest.raises(ProtT5nvError, match=r"out.h5: exists already"):
        journal.finish()
    journal.close()
    with pytest.raises(ProtT5nvError, match=r"out.h5: exists already"):
        open_journal(tmp_path)
    assert (tmp_path / "out.h5").read_text() == "of another run"
    second = Journal(tmp_path / "out.h5", SETTINGS, 4, overwrite=True)
    second.resume(iter(RECORDS))
    second.finish()
    check_output(tmp_path)
    with pytest.raises(ProtT5nvError, match=r"out.h5: exists already"):
        open_journal(tmp_path)
    assert os.listdir(tmp_path) == ["out.h5"]


def test_a_journal_that_another_run_removed_is_opened_again(tmp_path, monkeypatch):
    lock = partial._lock
    finished = open_journal(tmp_path)
    add(finished, RECORDS)

    def finish_first(file, folder):
        monkeypatch.setattr(partial, "_lock", lock)
        finished.finish()  # removes the file that has just been opened
        lock(file, folder)

    monkeypatch.setattr(partial, "_lock", finish_first)
    journal = Journal(tmp_path / "out.h5", SETTINGS, 4, overwrite=True)
    assert journal.records == 0 and (journal.folder / "journal.jsonl").exists()
    journal.close()


def test_the_folder_of_a_run_that_goes_on_is_not_discarded(tmp_path):
    journal = Journal(tmp_path / "1-of-2.h5", SETTINGS, 4)
    partial.discard(journal.folder)
    partial.discard(tmp_path, partial.OF_WORKERS)
    assert journal.folder.exists()
    journal.close()
    partial.discard(journal.folder)
    assert not journal.folder.exists()


def test_rows_are_not_written_again_at_the_end(tmp_path):
    unfinished(tmp_path)
    resumed = open_journal(tmp_path)
    rows = (resumed.folder / "rows.bin").stat()
    remaining = iter(RECORDS)
    resumed.resume(remaining)
    add(resumed, remaining)
    resumed.finish()
    assert os.path.samestat((tmp_path / "out.h5").stat(), rows)
    check_output(tmp_path)


def test_rows_are_copied_if_the_library_would_place_them_elsewhere(tmp_path, monkeypatch):
    def add_structure(*_):
        raise LayoutError

    monkeypatch.setattr(journal_module, "add_structure", add_structure)
    journal = open_journal(tmp_path)
    add(journal, RECORDS)
    rows = (journal.folder / "rows.bin").stat()
    journal.finish()
    assert not os.path.samestat((tmp_path / "out.h5").stat(), rows)
    check_output(tmp_path)


@pytest.mark.parametrize("step", ["add_structure", "publish"])
@pytest.mark.parametrize("afterwards", [False, True])
def test_a_run_killed_at_its_end_loses_nothing(tmp_path, monkeypatch, step, afterwards):
    function = getattr(journal_module, step)

    def killed(*given):
        if afterwards:
            function(*given)
        raise KeyboardInterrupt

    journal = open_journal(tmp_path)
    add(journal, RECORDS)
    monkeypatch.setattr(journal_module, step, killed)
    with pytest.raises(KeyboardInterrupt):
        journal.finish()
    journal.close()
    monkeypatch.undo()
    if step == "publish" and afterwards:
        return  # The output is complete.
    resumed = open_journal(tmp_path)
    assert resumed.records == 8
    resumed.resume(iter(RECORDS))
    resumed.finish()
    check_output(tmp_path)


def test_damage_is_found_soon_after_a_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "_BETWEEN_WRITING_AND_CHECK", 0)
    monkeypatch.setattr(rows_module, "crc32_of_rows", lambda *_: 0)
    journal = open_journal(tmp_path)
    add(journal, RECORDS[:3])
    journal.commit()
    wait_until(journal._rows._damaged.is_set)
    with pytest.raises(ProtT5nvError, match=r"rows\.bin was damaged while the run went on"):
        journal.commit()
    journal.close()


def test_a_full_disk_reaches_the_caller_while_rows_are_added(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "_BLOCK", 1)
    journal = open_journal(tmp_path)
    add(journal, RECORDS[:2])
    journal.commit()

    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal._rows._writing, "_work", write)
    with pytest.raises(OSError, match="No space left"):
        add(journal, RECORDS[2:])
    journal.close()
    resumed = open_journal(tmp_path)
    assert resumed.records == 2
    resumed.close()


@pytest.mark.parametrize("proteins", [[["P", "P", None, 1.0]], [["P", "P", None, -1]], [[5, "P", None, 1]], [["P"]]])
def test_a_commit_with_values_of_other_types_is_damaged(tmp_path, proteins):
    path, _ = unfinished(tmp_path)
    entry = json.loads(path.read_bytes().splitlines()[2])
    entry["proteins"] = proteins
    rows = [number for protein in proteins for number in protein[3:]]
    entry |= {"bytes": FIRST_COMMIT - FIRST_VALUE + 16 * sum(rows), "records": 4}
    del entry["crc32"]
    entry["crc32"] = zlib.crc32(json.dumps(entry).encode())
    line_replaced(path, 2, json.dumps(entry).encode() + b"\n")
    with pytest.warns(UserWarning, match=r"journal\.jsonl of the unfinished run is damaged"):
        resumed = open_journal(tmp_path)
    assert resumed.records == 3
    resumed.close()
