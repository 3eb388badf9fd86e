"""Several worker processes from Python: the calls of the listener, and errors. The command line has its own tests."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
from helpers.embedding_files import contents, random_fasta
from helpers.forked import server

from prott5nv import ProtT5nvError
from prott5nv.embedding import workers
from prott5nv.embedding.run import Listener, Request, run
from prott5nv.embedding.workers import run_with_workers


class Recorder(Listener):
    """Records all calls."""

    def __init__(self):
        self.starts, self.surveys, self.progress, self.warnings = [], [], [], []

    def on_start(self, model, hardware):
        self.starts.append((model, hardware))

    def on_survey(self, survey):
        self.surveys.append((survey, len(self.progress)))

    def on_progress(self, residues):
        self.progress.append(residues)

    def on_warning(self, message):
        self.warnings.append(message)


@pytest.fixture(autouse=True)
def forked_workers(monkeypatch):
    """Fork the workers from a process that has imported the package: spawning each takes seconds."""
    monkeypatch.setattr(workers, "CONTEXT", server())


@pytest.fixture
def request_for(tiny_checkpoint, tmp_path):
    def request_for(name, **options):
        source = str(tmp_path / "p.fasta")
        return Request(source, tmp_path / name, str(tiny_checkpoint), device="cpu", precision="fp32", **options)

    return request_for


@pytest.mark.slow
def test_the_listener_receives_the_progress_of_all_workers(request_for, tmp_path):
    random_fasta(tmp_path / "p.fasta", 40)
    with open(tmp_path / "p.fasta", "a") as file:
        file.write(">lower\nmslkr\n>empty\n")
    environment, filters = dict(os.environ), list(warnings.filters)
    alone, together = Recorder(), Recorder()
    expected = run(request_for("expected.h5", skip_errors=True), alone)
    summary = run_with_workers(request_for("out.h5", skip_errors=True), 3, together)
    assert summary == expected
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")

    assert len(alone.starts) == len(together.starts) == 1
    [(survey, progress_before)] = together.surveys
    [(survey_alone, _)] = alone.surveys
    assert progress_before == 0
    assert (survey.proteins, survey.residues, survey.skipped) == (41, expected.residues, 1)
    assert str(survey.long) == str(survey_alone.long)
    assert sum(together.progress) == sum(alone.progress) == expected.residues
    assert together.warnings == alone.warnings == ["lower-case residues are read as upper case"]
    assert dict(os.environ) == environment
    assert warnings.filters == filters


@pytest.mark.slow
def test_finished_shards_are_not_computed_again(request_for, tmp_path):
    random_fasta(tmp_path / "p.fasta", 20)
    request = request_for("out.h5")
    expected = run_with_workers(request, 2, Listener())
    # Merging fails here, after the shards are complete.
    (tmp_path / "out.h5").rename(tmp_path / "expected.h5")
    (tmp_path / "out.h5").mkdir()
    with pytest.raises(ProtT5nvError, match="this is a folder"):
        run_with_workers(request, 2, Listener())
    (tmp_path / "out.h5").rmdir()
    recorder = Recorder()
    assert run_with_workers(request, 2, recorder) == expected
    assert recorder.surveys == recorder.progress == []
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")


@pytest.mark.slow
def test_an_error_in_the_input_is_raised_once_for_all_workers(request_for, tmp_path):
    (tmp_path / "p.fasta").write_text(">a\nMS\n>b\nM1\n")
    with pytest.raises(ProtT5nvError) as error:
        run_with_workers(request_for("out.h5"), 2, Listener())
    assert str(error.value).count("line 3: b: position 2: '1' is not a residue") == 1
    assert "worker 1, 2 of 2 failed" in str(error.value)


@pytest.mark.slow
def test_any_other_error_is_raised_with_its_traceback(request_for, tmp_path):
    random_fasta(tmp_path / "p.fasta", 4)
    with pytest.raises(RuntimeError, match=r"(?s)worker 1, 2 of 2 failed.*Traceback.*AttributeError"):
        run_with_workers(request_for("out.h5", cleaning="no cleaning"), 2, Listener())


@pytest.mark.slow
def test_a_script_with_a_guarded_main_can_use_workers(request_for, tmp_path):
    random_fasta(tmp_path / "p.fasta", 4)
    (tmp_path / "script.py").write_text(
        f"""
import torch
from pathlib import PosixPath, WindowsPath
from prott5nv.embedding.run import Listener, Request
from prott5nv.embedding.workers import run_with_workers
from prott5nv.io.cleaning import Cleaning

print("imported")
if __name__ == "__main__":
    print(run_with_workers({request_for("out.h5")!r}, 2, Listener()).proteins)
"""
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert sorted(done.stdout.split()) == ["4", "imported", "imported", "imported"]
    assert done.stderr == ""


@pytest.mark.slow
def test_workers_load_the_extensions_of_installed_packages(request_for, tmp_path, monkeypatch):
    installed = tmp_path / "installed"
    (installed / "mine-1.0.dist-info").mkdir(parents=True)
    (installed / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (installed / "mine-1.0.dist-info" / "entry_points.txt").write_text("[prott5nv.extensions]\nmine = my_poolings\n")
    (installed / "my_poolings.py").write_text(
        "import prott5nv\nprott5nv.register_pooling('first')(lambda rows_LD: rows_LD[0])\n"
    )
    monkeypatch.syspath_prepend(installed)
    random_fasta(tmp_path / "p.fasta", 4)
    assert run_with_workers(request_for("out.h5", pooling="first"), 2, Listener()).proteins == 4
