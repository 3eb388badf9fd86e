"""Pretraining on a GPU: the twins of tests that run on the CPU, and what only a GPU has."""

import pytest
import torch

pytest.importorskip("nemo", reason="needs the train extra")

from helpers.fitting import Losses, fit
from omegaconf import OmegaConf

from prott5nv.pretraining.model import NotFiniteError, ProtT5nvModel

pytestmark = pytest.mark.gpu

GPU = dict(accelerator="gpu", precision="bf16-mixed")


def losses_of(cfg, ckpt_path=None, **settings):
    record = Losses()
    trainer, model = fit(cfg, ckpt_path, callbacks=[record], **{**GPU, **settings})
    return record.values, trainer, model


def with_dropout(cfg):
    return OmegaConf.merge(cfg, {"model": {"hidden_dropout": 0.1, "attention_dropout": 0.1}})


@pytest.mark.parametrize("init_method", ["normal", "mimetic"])
def test_initial_weights_are_those_of_a_cpu(cfg, init_method):
    cfg = OmegaConf.merge(cfg, {"model": {"init_method": init_method, "num_attention_heads": 4, "optim": {"lr": 0.0}}})
    cfg.trainer.max_steps = 1
    on_cpu = ProtT5nvModel(cfg.model)
    on_cpu.configure_model()
    _, _, model = losses_of(cfg)
    for name, weight in on_cpu.megatron.named_parameters():
        assert torch.equal(dict(model.megatron.named_parameters())[name].cpu(), weight), name


@pytest.mark.parametrize("cut", [{"micro_batch_size": 3}, {"data": {"tokens_per_micro_batch": 500}}])
def test_micro_batches_do_not_change_the_losses(cfg, cut):
    expected, _, _ = losses_of(cfg, precision="32-true")
    found, _, _ = losses_of(OmegaConf.merge(cfg, {"model": cut}), precision="32-true")
    assert found == pytest.approx(expected, rel=1e-4)


def test_default_micro_batches_come_from_the_memory_of_the_gpu(cfg, caplog):
    cfg.model.micro_batch_size = None
    with caplog.at_level("INFO", logger="prott5nv"):
        losses_of(cfg)
    assert "GB of GPU memory" in caplog.text


def test_recomputation_gives_the_same_losses_with_dropout(cfg):
    expected, _, _ = losses_of(with_dropout(cfg))
    recomputed, _, _ = losses_of(
        OmegaConf.merge(with_dropout(cfg), {"model": {"activations_checkpoint_granularity": "full"}})
    )
    assert recomputed[0] == pytest.approx(expected[0], abs=1e-5)
    # Flash attention adds up gradients in a changing order, so later losses differ slightly in bf16.
    assert recomputed[1:] == pytest.approx(expected[1:], abs=1e-2)


@pytest.mark.parametrize("optimizer", ["fused_adam", "muon"])
def test_a_run_resumes_with_the_same_losses(cfg, tmp_path, optimizer):
    cfg = with_dropout(cfg)
    cfg.model.optim.name, cfg.trainer.max_steps = optimizer, 6
    straight, _, _ = losses_of(cfg)
    cfg.trainer.max_steps = 3
    _, trainer, _ = losses_of(cfg)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    cfg.trainer.max_steps = 6
    resumed, _, _ = losses_of(cfg, tmp_path / "three.ckpt")
    assert resumed == pytest.approx(straight[3:], abs=1e-3)


@pytest.mark.parametrize("optimizer", ["fused_adam", "muon"])
def test_the_losses_of_an_optimizer_are_those_of_a_cpu(cfg, optimizer):
    cfg.model.optim.name = optimizer
    expected, _, _ = losses_of(cfg, accelerator="cpu", precision="32-true")
    assert losses_of(cfg)[0] == pytest.approx(expected, abs=0.05)


def test_a_loss_that_is_not_finite_stops_the_run(cfg):
    cfg.model.optim.lr, cfg.trainer.max_steps = 1e30, 6
    with pytest.raises(NotFiniteError, match="not finite at step"):
        losses_of(cfg, log_every_n_steps=4)


def test_a_step_never_waits_for_the_gpu(cfg):
    """PyTorch raises an error wherever the host would wait for the GPU."""

    class NoWaiting(Losses):
        def on_train_batch_start(self, trainer, model, batch, batch_idx):
            torch.cuda.set_sync_debug_mode("error" if batch_idx else "default")

        def on_train_batch_end(self, trainer, *_):
            torch.cuda.set_sync_debug_mode("default")

    try:
        fit(with_dropout(cfg), callbacks=[NoWaiting()], log_every_n_steps=1000, **GPU)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
def test_compiled_layers_train_as_others(cfg):
    expected, _, _ = losses_of(cfg)
    found, _, _ = losses_of(OmegaConf.merge(cfg, {"model": {"compile": True}}))
    assert found == pytest.approx(expected, abs=0.02)
