"""The rule for outputs: nothing that exists is lost without a request, and a suffix means its format."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from prott5nv.errors import ProtT5nvError
from prott5nv.io import output as output_module
from prott5nv.io.atomic import write_text
from prott5nv.io.output import check_format, check_outputs, check_unlinked, is_stream, reserved_outputs
from prott5nv.io.work_folders import reserved


def test_an_existing_output_needs_overwrite(tmp_path):
    output = tmp_path / "scores.csv"
    check_outputs([output, None])
    output.write_text("old")
    with pytest.raises(ProtT5nvError, match=r"scores.csv: exists already; .*--overwrite"):
        check_outputs([output])
    check_outputs([output], overwrite=True)
    assert output.read_text() == "old"


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_an_output(tmp_path, monkeypatch, link, overwrite):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proteins.csv").write_text("id,sequence\n")
    output = "proteins.csv"
    if link:
        output = "link.csv"
        link(tmp_path / "proteins.csv", tmp_path / output)
    inputs = [None, "-", "MKT???AYI", str(tmp_path / "proteins.csv")]
    with pytest.raises(ProtT5nvError, match=f"{output}: this file is also an input"):
        check_outputs([output], inputs, overwrite=overwrite)


def test_two_outputs_have_two_names(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "scores.csv")
    with pytest.raises(ProtT5nvError, match="given for two outputs"):
        check_outputs([tmp_path / "scores.csv", tmp_path / "link.csv"])


def test_folders_and_devices_are_refused_even_with_overwrite(tmp_path):
    for path, kind in (tmp_path, "a folder"), ("/dev/null", "a device"):
        with pytest.raises(ProtT5nvError, match=f"this is {kind}"):
            check_outputs([path], overwrite=True)


def test_a_folder_without_permission_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda folder, mode, **options: folder != str(tmp_path))
    (tmp_path / "link.csv").symlink_to(tmp_path / "open" / "scores.csv")
    (tmp_path / "open").mkdir()
    check_outputs([tmp_path / "link.csv", tmp_path / "open" / "scores.csv2"])
    with pytest.raises(ProtT5nvError, match=r"scores.csv: you have no permission to write to the folder"):
        check_outputs([tmp_path / "scores.csv"])


def test_streams_need_no_overwrite(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    streams = ["-", "/dev/stdout", tmp_path / "pipe"]
    assert all(map(is_stream, streams)) and not is_stream(tmp_path / "scores.csv")
    check_outputs(streams)


@pytest.mark.parametrize("name", ["scores.npy", "scores.pt", "scores.TSV", "scores.csv.gz", "a.b/scores.H5"])
def test_a_suffix_of_another_format_is_refused(name):
    with pytest.raises(ProtT5nvError, match=r"not the format to write; the name must end in \.csv"):
        check_format(name, (".csv",))


@pytest.mark.parametrize("name", ["scores.csv", "scores", "scores.v2", "run.2024-01-01", "a.npy/scores", ".csv"])
def test_other_names_are_allowed(name):
    check_format(name, (".csv",))


def test_the_suffix_that_chooses_a_format_is_in_lower_case():
    with pytest.raises(ProtT5nvError, match=r"in lower case: \.npz"):
        check_format("means.NPZ", (".h5", ".npz"))


def test_only_one_process_writes_an_output_at_a_time(tmp_path):
    output = tmp_path / "scores.csv"
    with reserved_outputs([output, None, "-"]):
        with pytest.raises(ProtT5nvError, match=r"another process is writing .*scores\.csv; wait for it"):
            reserved_outputs([output]).__enter__()
        write_text(output, "id\n")  # which keeps the reservation
        with pytest.raises(ProtT5nvError, match="another process is writing"):
            reserved_outputs([output], overwrite=True).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]
    with pytest.raises(ProtT5nvError, match="exists already"), reserved_outputs([output]):
        pass
    with reserved_outputs([output], overwrite=True):
        pass


def test_an_output_that_is_finished_before_the_lock_is_not_replaced(tmp_path, monkeypatch):
    @contextmanager
    def reserved_late(path):
        path.write_text("of another run")
        yield

    monkeypatch.setattr(output_module, "reserved", reserved_late)
    with pytest.raises(ProtT5nvError, match="exists already"), reserved_outputs([tmp_path / "scores.csv"]):
        pass


def test_a_reservation_of_a_killed_process_ends(tmp_path):
    output = tmp_path / "scores.csv"
    code = (
        "import sys, time; from prott5nv.io.work_folders import reserved\n"
        "with reserved(sys.argv[1]):\n    print(1, flush=True); time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", code, output], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"1\n"
        with pytest.raises(ProtT5nvError, match="another process is writing"), reserved_outputs([output]):
            pass
        process.kill()
    with reserved_outputs([output]):
        pass
    assert not list(tmp_path.iterdir())


def test_missing_parent_folders_are_removed_if_they_stay_empty(tmp_path):
    with reserved(tmp_path / "a" / "b" / "out"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())


def test_a_link_to_the_outside_is_refused_in_the_folder_of_a_run(tmp_path):
    (run := tmp_path / "run" / "logs").mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    (run / "debug.log").write_text("")
    (run / "latest.log").symlink_to("debug.log")
    check_unlinked(tmp_path / "run")
    for name in ("new", "disk"):
        (run / "run.nemo").symlink_to(tmp_path / name)
        with pytest.raises(ProtT5nvError, match=r"run\.nemo: this is a link, and the run would write through it"):
            check_unlinked(tmp_path / "run")
        (run / "run.nemo").unlink()
