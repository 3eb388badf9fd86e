"""Checkpoint files: complete or absent, verified before use, thinned out."""

import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest
import torch
from helpers.full_disk import limited

from prott5nv import ProtT5nvError
from prott5nv.pretraining.checkpoint_files import (
    _append_checksum,
    best_first,
    checkpoint_name,
    find_checkpoint,
    read_checkpoint,
    superseded,
)
from prott5nv.pretraining.checkpoint_files import write_checkpoint as write

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_while_saving.py"


@pytest.fixture
def run(tmp_path):
    """A folder with the checkpoints of steps 1 to 5; step 2 is the best."""
    for step, perplexity in enumerate((18.0, 12.0, 17.0, 13.0, 16.0), start=1):
        write({"step": step, "weights": torch.arange(1000)}, tmp_path / checkpoint_name(step, perplexity))
    return tmp_path


def test_the_newest_is_found_by_step_not_by_name_or_time(run, caplog):
    write({}, run / checkpoint_name(10))
    write({}, run / "not-finite-step12.ckpt")
    os.utime(run / checkpoint_name(10), (0, 0))
    assert find_checkpoint(run).name == "step10.ckpt" and not caplog.messages


@pytest.mark.parametrize("damage", ["cut short", "a flipped bit", "empty"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(run, damage, caplog):
    last = run / checkpoint_name(5, 16.0)
    content = bytearray(last.read_bytes())
    if damage == "a flipped bit":
        content[content.index(torch.arange(1000).numpy().tobytes()) + 4000] ^= 1
    last.write_bytes(content[: {"cut short": 5000, "empty": 0}.get(damage)])
    assert find_checkpoint(run).name == checkpoint_name(4, 13.0)
    assert len(caplog.messages) == 1 and str(last) in caplog.messages[0]


class Code:
    """Makes a folder if it is unpickled by Python's own rules."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    path = tmp_path / checkpoint_name(1)
    torch.save({"state_dict": {}, "callbacks": Code(tmp_path / "made")}, path)
    _append_checksum(path)
    with pytest.raises(ProtT5nvError, match=r"step1.ckpt: contains 'posix.mkdir'; .* nothing in it was run"):
        read_checkpoint(path)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("twice", [False, True])
def test_data_that_are_nested_in_themselves_are_refused(tmp_path, twice):
    outer = [[1]]
    outer.append(outer[0] if twice else outer)
    path = tmp_path / checkpoint_name(1)
    torch.save({"x": outer}, path)
    _append_checksum(path)
    with pytest.raises(ProtT5nvError, match=r"step1.ckpt: '/x/.' is nested in itself or too deeply"):
        read_checkpoint(path)


def test_a_checkpoint_holds_only_plain_data(tmp_path):
    content = {
        "a": (1, 2.5, None, True, "x"),
        3: [torch.arange(3), {"b": torch.zeros(2, 3).T}],
        "numbers": deque([1.0]),
    }
    write(content, tmp_path / "step1.ckpt")
    read = read_checkpoint(tmp_path / "step1.ckpt")
    assert read["a"] == content["a"] and read["numbers"] == [1.0]
    assert torch.equal(read[3][0], torch.arange(3)) and read[3][1]["b"].shape == (3, 2)
    with pytest.raises(ProtT5nvError, match=r"step1.ckpt: the state of the run or of a callback contains set, which"):
        write({"a": {1}}, tmp_path / "step1.ckpt")


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_again(tmp_path):
    (tmp_path / "step3.ckpt").write_bytes(b"PK")
    with pytest.raises(ProtT5nvError, match="every checkpoint is damaged"):
        find_checkpoint(tmp_path)


def test_a_pipe_or_a_folder_in_place_of_a_checkpoint_is_passed_over(run, caplog):
    os.mkfifo(run / "step8.ckpt")
    (run / "step9.ckpt").mkdir()
    assert find_checkpoint(run).name == checkpoint_name(5, 16.0)
    assert len(caplog.messages) == 2 and "(not a file)" in caplog.messages[0]


def test_no_checkpoint(tmp_path, caplog):
    assert find_checkpoint(tmp_path) is None
    assert find_checkpoint(tmp_path / "nowhere") is None and not caplog.messages


def test_the_newest_two_and_the_best_stay(run):
    (run / "step1-perplexity18.000.nemo").touch()
    assert [path.name[:5] for path in best_first(run)] == ["step2", "step4", "step5", "step3", "step1"]
    old = sorted(path.name for path in superseded(run, keep_best=1, step=5))
    assert old == [
        "step1-perplexity18.000.ckpt",
        "step1-perplexity18.000.nemo",
        "step3-perplexity17.000.ckpt",
    ]
    assert superseded(run, keep_best=-1, step=5) == []


def test_damaged_files_of_later_steps_supersede_nothing(run):
    """The run has continued from step 5, because the checkpoints of steps 100 to 102 are damaged."""
    before = superseded(run, keep_best=1, step=5)
    for name in ("step100", "step101", "step102-perplexity1.000", "step99999999999999999999", "step7-perplexity1.2.3"):
        (run / f"{name}.ckpt").write_text("damaged")
    assert superseded(run, keep_best=1, step=5) == before
    assert find_checkpoint(run).name == "step5-perplexity16.000.ckpt"


def test_a_full_disk_leaves_the_existing_files(run):
    path = run / checkpoint_name(5, 16.0)
    before = path.read_bytes()
    with limited(4096), pytest.raises(ProtT5nvError, match="cannot be written"):
        write({"weights": torch.zeros(100_000)}, path)
    assert path.read_bytes() == before and len(os.listdir(run)) == 5


@pytest.mark.slow
def test_kills_while_saving():
    command = [sys.executable, str(BENCHMARK), "--kills", "3", "--mib", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 of 3 killed runs can go on")
