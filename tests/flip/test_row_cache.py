"""The cache of embeddings keeps what a killed run has finished, and trusts nothing that is damaged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest

from prott5nv import ModelConfig, ProtT5, ProtT5nvError
from prott5nv.checkpoint import save_nemo
from prott5nv.cli import main
from prott5nv.flip import row_cache
from prott5nv.flip.features import stored_embeddings
from prott5nv.flip.row_cache import CacheSize, open_rows, write_rows
from prott5nv.io.exclusive import exclusive_folder

LENGTHS = [3, 1, 4, 1, 5]
WIDTH = 2
ROWS = [np.full((length, WIDTH), number, np.float16) for number, length in enumerate(LENGTHS)]


class Stopped(Exception):
    pass


@pytest.fixture(autouse=True)
def frequent_commits(monkeypatch):
    monkeypatch.setattr(row_cache, "_SECONDS_BETWEEN_COMMITS", 0)


def embedding(stop_at=None, starts=None):
    """The rows from a protein on, which end with an exception if `stop_at` is given; `starts` collects where."""

    def embed(first):
        if starts is not None:
            starts.append(first)
        for number in range(first, len(ROWS)):
            if number == stop_at:
                raise Stopped
            yield ROWS[number]

    return embed


@pytest.fixture
def stopped(tmp_path):
    """The name of a file whose writing stopped after three of five proteins."""
    path = tmp_path / "cache" / "rows.npy"
    with pytest.raises(Stopped):
        write_rows(path, LENGTHS, WIDTH, embedding(stop_at=3))
    assert not path.exists()
    return path


def resume(path) -> int:
    """Finish the file and return the number of proteins that were there."""
    starts = []
    write_rows(path, LENGTHS, WIDTH, embedding(starts=starts))
    np.testing.assert_array_equal(open_rows(path, LENGTHS), np.concatenate(ROWS))
    assert [entry.name for entry in path.parent.iterdir()] == ["rows.npy"]
    return starts[0]


def test_a_run_continues_after_the_last_finished_protein(stopped):
    assert resume(stopped) == 3
    write_rows(stopped, LENGTHS, WIDTH, embedding(stop_at=0))  # complete: nothing is embedded
    assert [entry.name for entry in stopped.parent.iterdir()] == ["rows.npy"]


@pytest.mark.parametrize(
    ("damage", "finished"),
    [
        ("no rows", 0),
        ("fewer rows", 2),
        ("more rows", 3),
        ("no journal", 0),
        ("incomplete line", 3),
        ("NULs", 3),
        ("too many", 3),
        ("another shape", 0),
    ],
)
def test_damage_costs_work_but_no_wrong_row(stopped, damage, finished):
    folder = stopped.parent / "rows.npy.partial"
    rows, journal = folder / "rows.npy", folder / "journal.txt"
    if damage == "no rows":
        rows.unlink()
    elif damage == "fewer rows":
        os.truncate(rows, rows.stat().st_size - 1)
    elif damage == "more rows":
        rows.write_bytes(rows.read_bytes() + b"garbage")
    elif damage == "no journal":
        journal.unlink()
    elif damage == "another shape":
        rows.write_bytes(rows.read_bytes().replace(b"(14, 2)", b"(15, 2)"))
    else:
        addition = {"incomplete line": b"5", "NULs": bytes(20) + b"\n", "too many": b"99\n-1\n"}[damage]
        journal.write_bytes(journal.read_bytes() + addition)
    assert resume(stopped) == finished


def test_a_second_process_waits_for_the_first(tmp_path):
    path = tmp_path / "rows.npy"
    first_has_started, first_may_finish = threading.Event(), threading.Event()

    def slow(first):
        first_has_started.set()
        assert first_may_finish.wait(60)
        yield from ROWS[first:]

    first = threading.Thread(target=write_rows, args=(path, LENGTHS, WIDTH, slow))
    second = threading.Thread(target=write_rows, args=(path, LENGTHS, WIDTH, embedding(stop_at=0)))
    first.start()
    assert first_has_started.wait(60)
    second.start()
    first_may_finish.set()
    for thread in (first, second):
        thread.join(60)
        assert not thread.is_alive()
    np.testing.assert_array_equal(open_rows(path, LENGTHS), np.concatenate(ROWS))
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.npy"]


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_damaged_complete_file_is_an_error(tmp_path, content):
    path = tmp_path / "rows.npy"
    if content is None:
        np.save(path, np.zeros((3, WIDTH), np.float16))
    else:
        path.write_bytes(content)
    with pytest.raises(ProtT5nvError, match=r"rows\.npy: this file of cached embeddings is damaged .*; delete it"):
        open_rows(path, LENGTHS)


@pytest.mark.slow
def test_embeddings_survive_a_kill(tiny_checkpoint, tmp_path):
    names, sequences = ["P1", "P2", "P3"], ["MSLKR" * 30, "MKV" * 40, "MS" * 50]
    code = f"""
import os, signal
from pathlib import Path
from prott5nv.embedding import embedder
from prott5nv.flip import features, row_cache
row_cache._SECONDS_BETWEEN_COMMITS = 0
features.Embedder = lambda model, **options: embedder.Embedder(model, max_tokens=10, **options)
done = []
def on_progress(residues):
    done.append(residues)
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
features.stored_embeddings({names}, {sequences}, Path({str(tiny_checkpoint)!r}), Path({str(tmp_path / "cache")!r}),
                           pooled=False, precision="fp32", on_progress=on_progress)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    counted = []
    settings = {"pooled": False, "precision": "fp32"}
    rows = stored_embeddings(
        names, sequences, tiny_checkpoint, tmp_path / "cache", **settings, on_progress=counted.append
    )
    assert counted[0] == 150 + 120 and sum(counted) == 370  # the first call counts what is there
    expected = stored_embeddings(names, sequences, tiny_checkpoint, tmp_path / "other", **settings)
    np.testing.assert_allclose(rows.batch([0, 1, 2])[0], expected.batch([0, 1, 2])[0], atol=1e-2)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_values_beyond_float16_are_never_stored(tmp_path):
    model = ProtT5(ModelConfig.preset("tiny"))
    model.encoder.final_layernorm.weight.data.fill_(60000.0)
    path = tmp_path / "large.nemo"
    save_nemo(path, model.config, model.state_dict())
    messages = {
        "fp16": "P1: the model computed NaN or infinity in fp16; choose --precision bf16 or fp32",
        "fp32": "P1: its embedding has values beyond the range of float16",
    }
    for precision, message in messages.items():
        with pytest.raises(ProtT5nvError, match=message):
            stored_embeddings(["P1"], ["MSLKR"], path, tmp_path / "cache", pooled=False, precision=precision)
        assert not list((tmp_path / "cache").glob("*.npy"))


@pytest.mark.parametrize("name", ["rows.npy", "rows.npy.partial/rows.npy", "rows.npy.partial/journal.txt"])
@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_nothing_is_written_through_a_link(tmp_path, name, link):
    (mine := tmp_path / "mine").write_text("mine")
    (path := tmp_path / "cache" / "rows.npy").parent.mkdir()
    (planted := path.parent / name).parent.mkdir(exist_ok=True)
    getattr(planted, link)(mine)
    with suppress(ProtT5nvError):  # an existing file is taken for the finished cache, whose content is checked later
        write_rows(path, LENGTHS, WIDTH, embedding())
    assert mine.read_text() == "mine"


def test_the_command_shows_and_deletes_what_is_cached(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PROTT5NV_CACHE", str(tmp_path / "cache"))

    def cache(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["cache", *arguments])
        assert not stopped.value.code
        return capsys.readouterr().out

    assert cache() == f"{tmp_path}/cache: 0 files, 0.0 MB\n"
    rows, partial = (tmp_path / "cache" / f"{letter * 32}.npy" for letter in "ab")
    write_rows(rows, LENGTHS, WIDTH, embedding())
    with suppress(Stopped):
        write_rows(partial, LENGTHS, WIDTH, embedding(stop_at=3))
    (tmp_path / "cache" / f"baselines-{'c' * 32}.json").write_text("{}")
    (tmp_path / "cache" / "mine.npy").touch()
    assert cache().startswith(f"{tmp_path}/cache: 3 files, ")
    with exclusive_folder(partial.with_name(f"{partial.name}.partial"), "", wait=False):
        assert row_cache.clear_cache(tmp_path / "cache").files == 2  # a process is writing the third one
    assert cache("--clear").startswith(f"{tmp_path}/cache: deleted 1 file, ")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["mine.npy"]


def test_a_link_is_deleted_and_not_what_it_shows(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    (tmp_path / "cache" / f"{'a' * 32}.npy").symlink_to(tmp_path / "other" / "file")
    (tmp_path / "cache" / f"{'b' * 32}.npy.partial").symlink_to(tmp_path / "other")
    assert row_cache.clear_cache(tmp_path / "cache").files == 2
    assert not list((tmp_path / "cache").iterdir()) and (tmp_path / "other" / "file").exists()
    assert row_cache.cache_size(tmp_path / "absent") == CacheSize(0, 0)
