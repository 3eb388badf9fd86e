"""The ``prott5nv info`` command, run as a user runs it."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.crafting import CONFIG, write_tar

from prott5nv import ModelConfig, ProtT5
from prott5nv.checkpoint import save_nemo
from prott5nv.checkpoint.public_checkpoint import Comparison, compare, is_public


def info(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-X", "importtime", "-m", "prott5nv", "info", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_says_what_a_file_is(nemo1):
    path = nemo1 / "variant_gz.nemo"
    done = info(path)
    assert done.returncode == 0
    said = done.stdout
    assert hashlib.sha256(path.read_bytes()).hexdigest() in said
    for words in ("274,816", "float32", "2 layers, hidden size 64", "4 heads, tanh GELU", "NeMo 1.20.0"):
        assert words in said
    assert "prott5nv.checkpoint.reader" in done.stderr
    assert "torch" not in {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_prints_the_card_and_no_escape_codes(minute_members, tmp_path):
    config = re.sub(rb"(?m)^nemo_version: .*", rb'nemo_version: "1\\e[31m"', minute_members[CONFIG])
    path = write_tar(tmp_path / "model.nemo", {**minute_members, CONFIG: config})
    (tmp_path / "model.md").write_text("# A demonstration\n")
    said = info(path).stdout
    assert said.endswith("# A demonstration\n") and "NeMo 1?[31m" in said and "\x1b" not in said


def test_refuses_in_one_line(tmp_path):
    (tmp_path / "text.nemo").write_text("hello")
    done = info(tmp_path / "text.nemo")
    assert done.returncode == 2 and not done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("prott5nv: error: ") and "text.nemo: not a tar file" in last


def test_verify_knows_a_model_of_another_size(minute_members, tmp_path):
    done = info(write_tar(tmp_path / "minute.nemo", minute_members), "--verify")
    assert done.returncode == 1 and "the public one has 198,970,496" in done.stdout


@pytest.fixture(scope="module")
def wide_model():
    """One layer of the public width: figures of the right shape, of another model."""
    torch.manual_seed(0)
    return ProtT5(ModelConfig(num_layers=1))


def test_verify_measures_the_distance(wide_model, tmp_path):
    save_nemo(tmp_path / "wide.nemo", wide_model.config, wide_model.state_dict())
    comparisons = compare(tmp_path / "wide.nemo")
    assert [len(comparison.published) for comparison in comparisons] == [231, 32, 32, 64, 156, 32, 32, 64]
    assert all(comparison.published.shape == comparison.found.shape for comparison in comparisons)
    assert not is_public(comparisons)
    same = [comparison._replace(found=comparison.published * 1.001) for comparison in comparisons]
    assert is_public(same)


def test_one_row_that_is_off_is_noticed():
    published = np.full(100, 14.0)
    found = published.copy()
    found[50] += 1.0
    comparison = Comparison(1, "row norms", published, found)
    assert comparison.largest_difference == 1.0 and not is_public([comparison])
