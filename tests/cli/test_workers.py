"""``prott5nv embed --workers N``: stopped or killed, it leaves no process behind and goes on."""

from __future__ import annotations

import os
import signal
import time

import pytest
from helpers.embedding_files import contents, random_fasta


def test_workers_give_what_one_process_writes(run, tmp_path):
    random_fasta(tmp_path / "p.fasta", 50)
    with open(tmp_path / "p.fasta", "a") as file:
        file.write(">empty\n>last\nMSLKR\n")
    run("p.fasta", "-o", "expected.h5", "--on-error", "skip", code=3)
    run("p.fasta", "-o", "out.h5", "--workers", "2", "--on-error", "skip", code=3)
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")
    assert (tmp_path / "out.skipped.tsv").read_text() == (tmp_path / "expected.skipped.tsv").read_text()
    assert not (tmp_path / "out.h5.workers").exists()
    assert "complete already" in run("p.fasta", "-o", "out.h5", "--workers", "2", "--on-error", "skip", code=3).stdout


def test_a_mistake_in_the_input_is_said_once(run, tmp_path):
    (tmp_path / "p.fasta").write_text(">a\nMSLKR\n>b\n>c\nMKV\n")
    lines = run("p.fasta", "-o", "out.h5", "--workers", "2", code=2).stderr.splitlines()
    told = [line for line in lines if "error" in line or "record b" in line]
    assert len(told) == 1 and told[0].startswith("prott5nv: error: p.fasta: line 3: b: there is no sequence; worker 1")


def test_stopped_and_killed_it_leaves_no_process_and_goes_on(run, start, tmp_path):
    psutil = pytest.importorskip("psutil")
    random_fasta(tmp_path / "p.fasta", 2000)
    run("p.fasta", "-o", "expected.h5")
    journals = [tmp_path / "out.h5.workers" / f"{number}-of-2.h5.partial" / "journal.jsonl" for number in (1, 2)]

    def at_work():
        """Start it in a terminal's way, as a group of its own; both workers have gone on when this returns."""
        before = [journal.stat().st_size if journal.exists() else 0 for journal in journals]
        process = start("p.fasta", "-o", "out.h5", "--workers", "2", start_new_session=True)
        while process.poll() is None and not all(
            journal.exists() and journal.stat().st_size > size + 1000
            for journal, size in zip(journals, before, strict=True)
        ):
            time.sleep(0.005)
        return process

    def end(process):
        """Its last words; they end only when no process, workers included, is left to write any."""
        _, stderr = process.communicate(timeout=30)
        assert "Traceback" not in stderr
        assert not (tmp_path / "out.h5").exists()
        return stderr

    process = at_work()
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
    assert "stopped; finished proteins are safe in out.h5.workers: give the same command again" in end(process)
    assert process.returncode == 130

    process = at_work()
    process.kill()
    end(process)

    process = at_work()
    psutil.Process(process.pid).children()[0].kill()
    assert "worker 1 (killed by signal 9) of 2 failed; what is done is safe in out.h5.workers" in end(process)
    assert process.returncode == 2

    run("p.fasta", "-o", "out.h5", "--workers", "2")
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected.h5", "out.h5", "p.fasta"]
