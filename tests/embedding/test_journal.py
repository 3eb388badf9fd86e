"""The journal of an embedding run: commits, resuming, refusals, and a full disk."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest

from prott5nv import EmbeddingStore, ProtT5nvError
from prott5nv.embedding import journal as journal_module
from prott5nv.embedding.formats import skipped_listing
from prott5nv.embedding.journal import InputDigest, Journal, fingerprint_of, partial_folder
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
    assert (resumed.folder / "rows.bin").stat().st_size == 4 * 4 * (2 + 3 + 4)
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
    assert listing.read_text() == 'line\tid\treason\n1\tsp|P0|X\tthere is no sequence\n5\tsp|P2|X\t"a\ttab"\n'


def test_a_list_of_skipped_records_from_an_earlier_output_is_removed(tmp_path):
    listing = skipped_listing(tmp_path / "out.h5")
    listing.write_text("of another run")
    journal = open_journal(tmp_path)
    add(journal, RECORDS)
    journal.finish()
    assert not listing.exists()


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

        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            self._file.close()
            self.flush()

    monkeypatch.setattr(journal, "_rows", FullDisk(journal._rows))
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
