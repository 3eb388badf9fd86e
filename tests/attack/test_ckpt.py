"""A short form of ``benchmarks/attack/ckpt.py``."""

from __future__ import annotations

import pytest

pytest.importorskip("nemo", reason="needs the train extra")

import ckpt
import mutants


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    import torch

    torch.set_num_threads(1)  # its threads do not survive the fork
    return ckpt.Run(tmp_path_factory.mktemp("run"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ckpt.KINDS)
def test_checkpoints_of_strangers_load_or_are_refused_in_one_line(run, kind):
    outcome = ckpt.attack_checkpoints(run, kind, files=60, seed=1)
    assert not outcome.failures
    assert outcome.counts[mutants.REFUSED] > 20
    if kind == "damaged":
        assert not outcome.counts[mutants.CHANGED]
