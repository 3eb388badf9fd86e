"""The command ``prott5nv info``, run in a process of its own."""

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


def test_the_command_describes_a_file_without_importing_torch(nemo1):
    path = nemo1 / "variant_gz.nemo"
    done = info(path)
    assert done.returncode == 0
    assert hashlib.sha256(path.read_bytes()).hexdigest() in done.stdout
    for words in ("274,816", "float32", "2 layers, hidden size 64", "4 heads, tanh GELU", "NeMo 1.20.0"):
        assert words in done.stdout
    assert "prott5nv.checkpoint.reader" in done.stderr
    assert "torch" not in {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_the_card_is_printed_and_escape_codes_are_not(minute_members, tmp_path):
    config = re.sub(rb"(?m)^nemo_version: .*", rb'nemo_version: "1\\e[31m"', minute_members[CONFIG])
    path = write_tar(tmp_path / "model.nemo", {**minute_members, CONFIG: config})
    (tmp_path / "model.md").write_bytes(b"# A demonstration\n\n" + b"long " * 100 + b"\x1b[31m \xff\n")
    output = info(path).stdout
    assert (
        output.endswith("# A demonstration\n\n" + "long " * 100 + "\\x1b[31m \ufffd\n")
        and "NeMo 1\\x1b[31m" in output
        and "\x1b" not in output
    )


def test_a_bad_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "text.nemo").write_text("hello")
    done = info(tmp_path / "text.nemo")
    assert done.returncode == 2 and not done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("prott5nv: error: ") and "text.nemo: not a tar file" in last


def test_verify_refuses_a_model_of_another_size(minute_members, tmp_path):
    done = info(write_tar(tmp_path / "minute.nemo", minute_members), "--verify")
    assert done.returncode == 1 and "the public one has 198,970,496" in done.stdout


@pytest.fixture(scope="module")
def wide_model():
    """A random model with one layer of the public checkpoint's width. Its figures have the right shapes."""
    torch.manual_seed(0)
    return ProtT5(ModelConfig(num_layers=1))


def test_figures_of_another_model_are_not_those_of_the_public_one(wide_model, tmp_path):
    save_nemo(tmp_path / "wide.nemo", wide_model.config, wide_model.state_dict())
    comparisons = compare(tmp_path / "wide.nemo")
    assert [len(comparison.published) for comparison in comparisons] == [231, 32, 32, 64, 156, 32, 32, 64]
    assert all(comparison.published.shape == comparison.computed.shape for comparison in comparisons)
    assert not is_public(comparisons)
    same = [comparison._replace(computed=comparison.published * 1.001) for comparison in comparisons]
    assert is_public(same)


def test_one_deviating_row_is_noticed():
    published = np.full(100, 14.0)
    computed = published.copy()
    computed[50] += 1.0
    comparison = Comparison(1, "row norms", published, computed)
    assert comparison.largest_difference == 1.0 and not is_public([comparison])
