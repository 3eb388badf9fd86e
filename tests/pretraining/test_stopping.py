"""Runs that have to stop, and resume."""

import os
import signal

import lightning.pytorch as pl
import pytest
import torch

pytest.importorskip("nemo", reason="needs the train extra")

from helpers.fitting import Losses, fit

from prott5nv import ProtT5nvError
from prott5nv.pretraining.callbacks import Checkpoints, StopOnSignal
from prott5nv.pretraining.checkpoint_files import find_checkpoint
from prott5nv.pretraining.parallel import MegatronStrategy


class SignalAfterStep(pl.Callback):
    """Sends the process a signal after a step, as a batch system does."""

    def __init__(self, step, signum, rank):
        self.step, self.signum, self.rank = step, signum, rank

    def on_train_batch_end(self, trainer, *_):
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            os.kill(os.getpid(), self.signum)


def run(cfg, folder, *callbacks, devices=1):
    """Return the losses of the steps, and the exit code with which the process would have ended."""
    losses, code = Losses(), None
    try:
        fit(
            cfg,
            find_checkpoint(folder),
            devices=devices,
            strategy=MegatronStrategy() if devices > 1 else "auto",
            callbacks=[losses, *callbacks, Checkpoints(folder), StopOnSignal()],
        )
    except SystemExit as exit:
        code = exit.code
    return losses.values, code


def test_control_c_saves_and_stops(cfg, tmp_path):
    cfg.trainer.max_steps = 6
    straight, _ = run(cfg, tmp_path / "straight")
    first, code = run(cfg, tmp_path / "stopped", SignalAfterStep(2, signal.SIGINT, rank=0))
    assert code == 130 and os.listdir(tmp_path / "stopped") == ["step3.ckpt"]
    rest, code = run(cfg, tmp_path / "stopped")
    assert code is None and first + rest == straight


def test_a_second_control_c_stops_at_once(cfg, tmp_path):
    twice = [SignalAfterStep(2, signal.SIGINT, rank=0), SignalAfterStep(2, signal.SIGINT, rank=0)]
    _, code = run(cfg, tmp_path, *twice)
    assert code == 130 and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_any_rank_saves_and_stops_all(cfg, on_ranks, tmp_path, signum):
    cfg.trainer.max_steps = 6
    straight, _ = on_ranks(2, _run_on_two, cfg, tmp_path / "straight")[0]
    stopped = on_ranks(2, _run_on_two, cfg, tmp_path / "stopped", SignalAfterStep(2, signum, rank=1))
    assert [code for _, code in stopped] == [0, 0]
    assert os.listdir(tmp_path / "stopped") == ["step3.ckpt"]  # the ranks finish the step in which they learn of it
    rest, code = on_ranks(2, _run_on_two, cfg, tmp_path / "stopped")[0]
    assert code is None and stopped[0][0] + rest == straight


def _run_on_two(cfg, folder, *callbacks):
    return run(cfg, folder, *callbacks, devices=2)


def test_the_state_before_a_loss_that_is_not_finite_is_kept(cfg, tmp_path):
    cfg.model.optim.lr = 1e30
    with pytest.raises(ProtT5nvError, match="not finite at step 1"):
        run(cfg, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "not-finite-step1.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == 1
    assert find_checkpoint(tmp_path) is None
