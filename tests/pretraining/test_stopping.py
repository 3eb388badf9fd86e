"""Runs that have to stop, and resume."""

import errno
import os
import signal

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger

pytest.importorskip("nemo", reason="needs the train extra")

from helpers.fitting import Losses, fit
from helpers.full_disk import limited

from prott5nv import ProtT5nvError
from prott5nv.pretraining.callbacks import Checkpoints, StopOnSignal
from prott5nv.pretraining.checkpoint_files import checkpoint_step, find_checkpoint
from prott5nv.pretraining.parallel import MegatronStrategy

VALIDATION = dict(limit_val_batches=1.0, check_val_every_n_epoch=None, num_sanity_val_steps=0)


class SignalAfterStep(pl.Callback):
    """Sends the process a signal after a step, as a batch system does."""

    def __init__(self, step, signum, rank):
        self.step, self.signum, self.rank = step, signum, rank

    def on_train_batch_end(self, trainer, *_):
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            os.kill(os.getpid(), self.signum)


def run(cfg, folder, *callbacks, devices=1, **settings):
    """Return the losses of the steps, and the exit code with which the process would have ended."""
    losses, code = Losses(), None
    try:
        fit(
            cfg,
            find_checkpoint(folder),
            devices=devices,
            strategy=MegatronStrategy() if devices > 1 else "auto",
            callbacks=[losses, *callbacks, Checkpoints(folder), StopOnSignal()],
            **settings,
        )
    except SystemExit as exit:
        code = exit.code
    return losses.values, code


@pytest.mark.slow
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


class Log(Logger):
    """Records what is logged at which step."""

    name, version = "log", 0

    def __init__(self):
        super().__init__()
        self.lines = []

    def log_metrics(self, metrics, step=None):
        self.lines += [(step, name, metrics[name]) for name in ("loss", "val_loss") if name in metrics]

    def log_hyperparams(self, *arguments, **settings):
        pass


class KillInValidation(pl.Callback):
    """Ends the process at the start of the validation after a step, as a batch system does after a grace period."""

    def __init__(self, step):
        self.step = step

    def on_validation_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise SystemExit(-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("callbacks", "code", "saved"),
    [
        ([SignalAfterStep(1, signal.SIGTERM, rank=0)], 0, 2),
        ([SignalAfterStep(1, signal.SIGTERM, rank=0), KillInValidation(2)], -9, 2),
        ([SignalAfterStep(2, signal.SIGTERM, rank=0)], 0, 3),
        ([SignalAfterStep(3, signal.SIGTERM, rank=0), KillInValidation(4)], -9, 2),
        ([KillInValidation(4)], -9, 2),
    ],
    ids=["before a validation", "in a validation", "after a validation", "in the last validation", "killed in it"],
)
def test_the_log_of_a_stopped_run_is_that_of_one_that_was_not(cfg, tmp_path, callbacks, code, saved):
    cfg.trainer.max_steps = 4
    settings = dict(VALIDATION, val_check_interval=2, log_every_n_steps=1)
    straight = Log()
    run(cfg, tmp_path / "straight", logger=straight, **settings)
    assert [(step, name) for step, name, _ in straight.lines] == [
        *((1, "loss"), (2, "loss"), (2, "val_loss"), (3, "loss"), (4, "loss"), (4, "val_loss"))
    ]
    first, second = Log(), Log()
    assert run(cfg, tmp_path / "stopped", *callbacks, logger=first, **settings)[1] == code
    assert max(map(checkpoint_step, (tmp_path / "stopped").glob("*.ckpt"))) == saved
    assert run(cfg, tmp_path / "stopped", logger=second, **settings)[1] is None
    assert [line for line in first.lines if line[0] <= saved] + second.lines == straight.lines
    names = {path.name for path in (tmp_path / "straight").iterdir()}
    assert names <= {path.name for path in (tmp_path / "stopped").iterdir()}


def test_a_full_disk_does_not_end_a_run(cfg, tmp_path, caplog):
    settings = dict(VALIDATION, val_check_interval=1)
    with limited(1 << 20):
        losses, code = run(cfg, tmp_path, **settings)
        assert len(losses) == 3 and code is None
        assert not list(tmp_path.glob("*.ckpt")) and "the checkpoint cannot be written: " in caplog.text
        with pytest.raises(ProtT5nvError, match=r"step2.ckpt: not written; the same command continues"):
            run(cfg, tmp_path, SignalAfterStep(1, signal.SIGTERM, rank=0))


def test_an_export_that_fails_does_not_end_a_run(cfg, tmp_path, caplog, monkeypatch):
    def full(path, *arguments):
        with open(path, "wb") as file:
            file.write(b"0" * 1000)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("prott5nv.pretraining.network.save_nemo", full)
    losses, code = run(cfg, tmp_path, val_check_interval=3, **VALIDATION)
    assert len(losses) == 3 and code is None
    [message] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.endswith("No space left on device; training goes on without this file")


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
