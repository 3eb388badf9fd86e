"""A short form of the full disks and kills in ``benchmarks/attack``."""

from __future__ import annotations

import endings
import pytest
import torch


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    endings.write_inputs(folder, predictor=False)
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    """PyTorch's threads do not survive a fork."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embed", "merge", "convert nemo", "prepare flip"])
def test_full_disks_and_kills(name, inputs, tmp_path):
    outcome = endings.attack_command(name, inputs, tmp_path, kills=1, sizes=2, seed=1)
    assert not outcome.failures
    assert outcome.counts.total() > 3  # and the kills at new names
