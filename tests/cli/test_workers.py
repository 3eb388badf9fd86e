"""``prott5nv embed --workers N``: results, errors, and resuming after Ctrl-C and kills."""

from __future__ import annotations

import os
import signal

import pytest
from helpers.embedding_files import contents, random_fasta
from helpers.waiting import wait_until


@pytest.mark.slow
def test_workers_give_what_one_process_writes(run, tmp_path):
    random_fasta(tmp_path / "p.fasta", 50)
    with open(tmp_path / "p.fasta", "a") as file:
        file.write(">empty\n>last\nMSLKR\n")
    run("p.fasta", "-o", "expected.h5", "--on-error", "skip", code=3)
    run("p.fasta", "-o", "out.h5", "--workers", "2", "--on-error", "skip", code=3)
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")
    assert (tmp_path / "out.h5.skipped.tsv").read_text() == (tmp_path / "expected.h5.skipped.tsv").read_text()
    assert not (tmp_path / "out.h5.workers").exists()
    assert "already complete" in run("p.fasta", "-o", "out.h5", "--workers", "2", "--on-error", "skip", code=3).stdout


@pytest.mark.slow
def test_an_error_in_the_input_is_printed_once(run, tmp_path):
    (tmp_path / "p.fasta").write_text(">a\nMSLKR\n>b\n>c\nMKV\n")
    lines = run("p.fasta", "-o", "out.h5", "--workers", "2", code=2).stderr.splitlines()
    errors = [line for line in lines if "error" in line or "record b" in line]
    assert len(errors) == 1 and errors[0].startswith(
        "prott5nv: error: p.fasta: line 3: b: there is no sequence; --on-error skip"
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_after_control_c_and_kills_no_process_remains_and_the_run_resumes(run, start, tmp_path):
    psutil = pytest.importorskip("psutil")
    random_fasta(tmp_path / "p.fasta", 3000)  # Each run has work left when it is killed.
    run("p.fasta", "-o", "expected.h5")
    journals = [tmp_path / "out.h5.workers" / f"{number}-of-2.h5.partial" / "journal.jsonl" for number in (1, 2)]

    def start_and_wait():
        """Start a run and return when both workers have committed."""
        before = [journal.stat().st_size if journal.exists() else 0 for journal in journals]
        process = start("p.fasta", "-o", "out.h5", "--workers", "2")
        wait_until(
            lambda: (
                process.poll() is not None
                or all(
                    journal.exists() and journal.stat().st_size > size + 1000
                    for journal, size in zip(journals, before, strict=True)
                )
            )
        )
        return process

    def end(process, code):
        """Return standard error when the command and its workers have ended."""
        done = process.wait()
        wait_until(lambda: not process.group_is_alive())
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out.h5").exists()
        return done.stderr

    process = start_and_wait()
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
    assert "stopped; finished proteins are safe in out.h5.workers: give the same command again" in end(process, 130)

    process = start_and_wait()
    process.kill()
    end(process, -signal.SIGKILL)

    process = start_and_wait()
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    min(workers, key=lambda worker: worker.pid).kill()
    assert "worker 1 (killed by signal 9) of 2 failed; finished proteins are safe in out.h5.workers" in end(process, 2)

    run("p.fasta", "-o", "out.h5", "--workers", "2")
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected.h5", "out.h5", "p.fasta"]
