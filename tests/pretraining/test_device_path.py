"""A training step on a GPU reads nothing from it, and decides there which steps are applied."""

import math

import lightning.pytorch as pl
import pytest
import torch

pytest.importorskip("nemo", reason="needs the train extra")

from helpers.fitting import Losses, fit

from prott5nv.model import attention
from prott5nv.pretraining import megatron
from prott5nv.pretraining import model as model_module
from prott5nv.pretraining.losses import StepChecks
from prott5nv.pretraining.model import NotFiniteError, ProtT5nvModel
from prott5nv.pretraining.optimizers import make_optimizer


class Finished(Exception):
    pass


class OnMetaDevice(pl.Callback):
    """Runs three steps on the device "meta", which has shapes only and raises an error whenever a value is read."""

    def on_train_start(self, trainer, model):
        model.to("meta")
        [optimizer] = trainer.optimizers
        moved = iter([parameter for group in model._parameter_groups() for parameter in group])
        for group in optimizer.param_groups:
            group["params"] = [next(moved) for _ in group["params"]]

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        for part in batch:
            part.update({name: value.to("meta") for name, value in part.items() if isinstance(value, torch.Tensor)})

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        if batch_idx == 2:
            raise Finished


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["fused_adam", "muon"])
def test_a_step_reads_nothing_from_the_device(cfg, monkeypatch, optimizer):
    cfg.model.hidden_dropout = cfg.model.attention_dropout = 0.1
    cfg.model.optim.name = optimizer
    cfg.model.micro_batch_size, cfg.model.skip_loss_spikes = 3, 6
    for module in (attention, megatron):
        monkeypatch.setattr(module, "has_flash_attention", lambda query: True)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: closure and closure())  # "meta" lacks it
    monkeypatch.setattr(pl.Trainer, "_teardown", lambda self: None)  # it would move the weights to the CPU
    with pytest.raises(Finished):
        fit(cfg, callbacks=[OnMetaDevice()], log_every_n_steps=1000)
    with pytest.raises(RuntimeError, match="meta"):
        fit(cfg, callbacks=[OnMetaDevice()], log_every_n_steps=2)  # the second step reads the metrics


@pytest.fixture
def deferred(monkeypatch):
    """Let the CPU take the path of a GPU, where the host reads decisions later."""
    monkeypatch.setattr(model_module, "HOST_DEVICES", ())


class Weights(Losses):
    """Records the loss, a weight and the state of the optimizer after each step."""

    def __init__(self):
        super().__init__()
        self.weights, self.moments = [], []

    def on_train_batch_end(self, trainer, model, *_):
        super().on_train_batch_end(trainer)
        self.weights.append(torch.cat([p.detach().flatten() for p in model.megatron.parameters()]))
        states = trainer.optimizers[0].state.values()
        self.moments.append(torch.cat([value.flatten() for state in states for value in state.values()]))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["fused_adam", "muon"])
def test_deferred_decisions_give_the_same_steps(cfg, monkeypatch, optimizer):
    cfg.model.optim.name, cfg.trainer.max_steps = optimizer, 4
    now, later = Weights(), Weights()
    fit(cfg, callbacks=[now])
    monkeypatch.setattr(model_module, "HOST_DEVICES", ())
    fit(cfg, callbacks=[later])
    assert later.values == pytest.approx(now.values, rel=1e-6)
    torch.testing.assert_close(later.weights[-1], now.weights[-1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("optimizer", ["fused_adam", "muon"])
def test_a_spike_is_skipped_on_the_device(cfg, monkeypatch, deferred, caplog, optimizer):
    cfg.model.optim.name, cfg.model.skip_loss_spikes, cfg.trainer.max_steps = optimizer, 6, 4
    add = StepChecks.add

    def spike_at_step_2(self, step, loss):
        self.recent = torch.full((64,), 0.0 if step == 2 else 1e3).double()
        self.recent[0] += 1e-3
        return add(self, step, loss)

    monkeypatch.setattr(StepChecks, "add", spike_at_step_2)
    record = Weights()
    with caplog.at_level("INFO", logger="prott5nv"):
        fit(cfg, callbacks=[record])
    assert torch.equal(record.weights[2], record.weights[1]) and torch.equal(record.moments[2], record.moments[1])
    assert not torch.equal(record.weights[3], record.weights[2])
    assert next(line for line in caplog.messages if "is skipped" in line).startswith("step 2 is skipped: its loss of")


@pytest.mark.parametrize("optimizer", ["fused_adam", "muon"])
def test_no_step_is_applied_from_a_loss_on_that_is_not_finite(cfg, monkeypatch, deferred, optimizer):
    cfg.model.optim.name, cfg.trainer.max_steps = optimizer, 6
    losses = ProtT5nvModel._losses

    def infinite_at_step_2(self, batch):
        loss_S, sums = losses(self, batch)
        factor = math.inf if self.trainer.global_step == 2 else 1.0
        return loss_S * factor, sums * factor

    monkeypatch.setattr(ProtT5nvModel, "_losses", infinite_at_step_2)
    record = Weights()
    with pytest.raises(NotFiniteError, match=r"not finite at step 2.*the batch holds sp") as caught:
        fit(cfg, callbacks=[record], log_every_n_steps=4)
    assert caught.value.step == 2 and len(record.values) == 3
    for later in record.weights[2:]:
        assert torch.equal(later, record.weights[1])
    for later in record.moments[2:]:
        assert torch.equal(later, record.moments[1])


def test_muon_skips_a_step_to_the_bit():
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(8, 4)), torch.nn.Parameter(torch.randn(8))]
    settings = dict(name="muon", lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, fused=True)
    optimizer = make_optimizer([parameters[:1], [], parameters[1:]], **settings)
    for value, skips in ((1.0, 0.0), (math.nan, 1.0), (math.inf, 1.0)):
        before = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, value)
        optimizer.found_inf = torch.tensor(skips)
        optimizer.step()
        unchanged = [torch.equal(old, new) for old, new in zip(before, parameters, strict=True)]
        assert unchanged == [bool(skips)] * 2
