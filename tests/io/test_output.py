"""The rule for outputs: nothing that exists is lost without a request, and a suffix means its format."""

from __future__ import annotations

import os

import pytest

from prott5nv.errors import ProtT5nvError
from prott5nv.io.output import check_format, check_outputs, is_stream


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
