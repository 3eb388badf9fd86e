"""ProtT5nvModel: loss, steps, resuming and files."""

import os

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("nemo", reason="needs the train extra")

from helpers.fitting import Losses, fit
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from omegaconf import OmegaConf
from torch.utils.checkpoint import checkpoint

from prott5nv import ProtT5nvError, load
from prott5nv.pretraining.checkpoint_files import read_checkpoint, write_checkpoint
from prott5nv.pretraining.model import ProtT5nvModel
from prott5nv.pretraining.trainer import _leave_slurm_task, build_trainer, choose_precision


def built(cfg):
    model = ProtT5nvModel(cfg.model)
    model.configure_model()
    return model.eval()


def micro_batch(model):
    return model._dataset("train", shuffle=True).__getitems__([0, 1, 2])[0]


def test_the_loss_is_over_all_targets_and_the_residue_loss_over_residues(cfg):
    model = built(cfg)
    batch = micro_batch(model)
    with torch.no_grad():
        expected_S = F.cross_entropy(model(batch), batch["dec_labels"], reduction="none")
        loss_S, sums = model._losses(batch)
    torch.testing.assert_close(loss_S, expected_S, atol=1e-5, rtol=1e-5)
    residue_loss_S = expected_S[(batch["dec_labels"] >= 5) & (batch["dec_labels"] < 30)]
    expected = [expected_S.sum(), len(expected_S), residue_loss_S.sum(), len(residue_loss_S)]
    torch.testing.assert_close(sums[:4], torch.tensor(expected, dtype=torch.float32), atol=1e-3, rtol=1e-5)
    assert sums[5] == len(batch["enc_tokens"])


@pytest.mark.slow
@pytest.mark.parametrize("cut", [{"micro_batch_size": 3}, {"data": {"tokens_per_micro_batch": 500}}])
def test_micro_batches_do_not_change_a_step(cfg, cut):
    _, whole = fit(cfg)
    _, cut_model = fit(OmegaConf.merge(cfg, {"model": cut}))
    for name, weight in whole.megatron.named_parameters():
        torch.testing.assert_close(dict(cut_model.megatron.named_parameters())[name], weight, atol=2e-5, rtol=0)


def test_recomputing_layers_changes_nothing(cfg):
    cfg.model.hidden_dropout = cfg.model.attention_dropout = 0.1
    _, kept = fit(cfg)
    _, recomputed = fit(OmegaConf.merge(cfg, {"model": {"activations_checkpoint_granularity": "full"}}))
    assert recomputed.megatron.encoder.layers[0].forward.func is checkpoint
    for name, weight in kept.megatron.named_parameters():
        assert torch.equal(dict(recomputed.megatron.named_parameters())[name], weight), name


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-3), ("bf16-mixed", 0.05), ("16-mixed", 0.05)])
def test_a_gpu_computes_the_losses_of_the_cpu(cfg, precision, tolerance):
    expected, found = Losses(), Losses()
    fit(cfg, callbacks=[expected])
    fit(cfg, callbacks=[found], accelerator="gpu", precision=precision)
    assert found.values == pytest.approx(expected.values, abs=tolerance)


def test_biases_and_layernorms_do_not_decay(cfg):
    trainer, model = fit(cfg)
    decayed, undecayed = trainer.optimizers[0].param_groups
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.01, 0.0)
    names = {id(p): name for name, p in model.megatron.named_parameters()}
    assert all(names[id(p)].endswith("weight") and "norm" not in names[id(p)] for p in decayed["params"])
    assert all(names[id(p)].endswith("bias") or "norm" in names[id(p)] for p in undecayed["params"])


@pytest.mark.slow
def test_inverse_square_root_schedule_is_the_published_one(cfg):
    cfg.model.optim.sched.warmup_steps = 4
    cfg.trainer.max_steps = 12
    trainer, _ = fit(cfg)
    scheduler, rates = trainer.lr_scheduler_configs[0].scheduler, []
    scheduler.last_epoch = -1
    for _ in range(12):
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0] / 1e-3)
    assert rates[:5] == pytest.approx([(step + 1) / 5 for step in range(5)])
    assert rates[5:] == pytest.approx([(5 / (step + 1)) ** 0.5 for step in range(5, 12)])


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["fused_adam", "muon"])
def test_a_longer_run_resumes_with_a_learning_rate_above_zero(cfg, tmp_path, optimizer):
    cfg.model.optim.name = optimizer
    trainer, _ = fit(cfg)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    cfg.trainer.max_steps = 6
    trainer, _ = fit(cfg, ckpt_path=tmp_path / "three.ckpt")
    assert trainer.global_step == 6
    assert trainer.optimizers[0].param_groups[0]["lr"] > 0


def test_another_model_or_batch_size_cannot_resume(cfg, tmp_path):
    trainer, _ = fit(cfg)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    for change, message in (({"num_layers": 1}, "another model"), ({"global_batch_size": 4}, "global_batch_size")):
        with pytest.raises(ProtT5nvError, match=message):
            fit(OmegaConf.merge(cfg, {"model": change}), ckpt_path=tmp_path / "three.ckpt")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_an_error_with_the_records(cfg):
    cfg.model.optim.lr = 1e30
    with pytest.raises(ProtT5nvError, match=r"not finite at step \d.*the batch holds .*[A-Z]\d+"):
        fit(cfg)


def test_a_file_with_a_shorter_decoder_restores_without_settings(cfg, tmp_path):
    cfg.model.decoder_num_layers, cfg.model.num_sentinel_tokens = 1, 80
    built(cfg).save_to(tmp_path / "model.nemo")
    config = ProtT5nvModel.restore_from(tmp_path / "model.nemo").config
    assert (config.num_layers, config.decoder_num_layers, config.num_sentinel_tokens) == (2, 1, 80)


@pytest.mark.filterwarnings("error::UserWarning")
def test_nemo_file_round_trip(cfg, tmp_path):
    model = built(cfg)
    model.save_to(tmp_path / "model.nemo")
    restored = ProtT5nvModel.restore_from(tmp_path / "model.nemo").eval()
    batch = micro_batch(model)
    with torch.no_grad():
        assert torch.equal(restored(batch), model(batch))
        plain = load(tmp_path / "model.nemo")
        hidden = plain.encode(batch["enc_tokens"], batch["enc_cu_seqlens"])
        decoded = plain.decode(batch["dec_tokens"], batch["dec_cu_seqlens"], hidden, batch["enc_cu_seqlens"])
        logits = plain.logits(decoded)
    assert (logits - model(batch)).abs().max() <= 1e-5 * logits.abs().max()


def test_a_training_checkpoint_opens_without_running_code(cfg, tmp_path):
    trainer, model = fit(cfg)
    path = tmp_path / "three.ckpt"
    trainer.save_checkpoint(path)
    plain = torch.load(path, weights_only=True)
    weights = {name: weight for name, weight in model.state_dict().items() if weight is not None}
    assert all(torch.equal(plain["state_dict"][name], weight) for name, weight in weights.items())
    assert plain["hyper_parameters"]["cfg"]["optim"]["lr"] == 1e-3 and plain["global_step"] == 3

    loaded = ProtT5nvModel.load_from_checkpoint(path, override_config={"optim": {"lr": 0.5}})
    assert all(torch.equal(loaded.state_dict()[name], weight) for name, weight in weights.items())
    assert loaded.cfg.optim.lr == 0.5 and loaded.cfg.num_layers == 2

    content = read_checkpoint(path)
    content["hyper_parameters"]["cfg"]["num_layers"] = 5
    write_checkpoint(content, path)
    with pytest.raises(ProtT5nvError, match=r"three.ckpt: its weights do not fit its configuration"):
        ProtT5nvModel.load_from_checkpoint(path)
    write_checkpoint({"state_dict": {}}, path)
    with pytest.raises(ProtT5nvError, match=r"three.ckpt: its configuration cannot be read"):
        ProtT5nvModel.load_from_checkpoint(path)


def test_the_configuration_of_a_nemo_file(tiny_checkpoint):
    cfg = ProtT5nvModel.restore_from(tiny_checkpoint, return_config=True)
    assert (cfg.num_layers, cfg.hidden_size) == (2, 64)


def test_callbacks_come_from_the_configuration(cfg):
    stopping = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val_loss", "patience": 7}
    OmegaConf.update(cfg, "callbacks.stop", stopping, force_add=True)
    callbacks = build_trainer(cfg).callbacks
    assert [each.patience for each in callbacks if isinstance(each, EarlyStopping)] == [7]
    for wrong, message in (
        ({"_target_": "builtins.dict"}, "callbacks.stop: _target_ must name a subclass of"),
        ({"_target_": "nowhere.Callback"}, "callbacks.stop: .*nowhere"),
        ({**stopping, "patiently": 1}, "callbacks.stop: .*patiently"),
    ):
        cfg.callbacks.stop = wrong
        with pytest.raises(ProtT5nvError, match=message) as caught:
            build_trainer(cfg)
        assert "\n" not in str(caught.value)


def test_this_machine_cannot_train_in_16_bit_floats():
    if torch.cuda.is_available():
        pytest.skip("this machine can")
    with pytest.raises(ProtT5nvError, match="16-mixed"):
        choose_precision("16-mixed")


def test_the_precision_on_a_cpu_does_not_follow_a_gpu(monkeypatch):
    on_cpu = choose_precision("auto", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: (7, 0))  # a GPU for which auto means fp16
    assert choose_precision("auto", "cpu") == on_cpu
    for name in ("16-mixed", "16"):  # the second one as in BioNeMo v1
        with pytest.raises(ProtT5nvError, match="16-mixed needs a CUDA device"):
            choose_precision(name, "cpu")
    assert (choose_precision("bf16", "cpu"), choose_precision("32-true", "cpu")) == ("bf16-mixed", "32")


@pytest.mark.parametrize("tasks", [{"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}, {}])
def test_the_only_task_of_a_slurm_job_starts_a_process_for_each_device(cfg, monkeypatch, tasks):
    monkeypatch.setenv("SLURM_JOB_NAME", "prott5nv")
    for name, value in {"SLURM_JOB_ID": "17", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", **tasks}.items():
        monkeypatch.setenv(name, value)
    cfg.trainer.devices, cfg.trainer.accelerator = 2, "cpu"
    _leave_slurm_task()
    strategy = build_trainer(cfg).strategy
    assert isinstance(strategy.cluster_environment, LightningEnvironment) and strategy.num_processes == 2
    assert not any(name.endswith(("PROCID", "LOCALID")) for name in os.environ)


def test_each_of_several_slurm_tasks_stays_one_process(cfg, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NAME", "prott5nv")
    for name, value in {"NTASKS": "2", "NTASKS_PER_NODE": "2", "PROCID": "1", "LOCALID": "1", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    cfg.trainer.devices, cfg.trainer.accelerator = 2, "cpu"
    _leave_slurm_task()
    assert isinstance(build_trainer(cfg).strategy.cluster_environment, SLURMEnvironment)


def test_added_trainer_settings_reach_lightning(cfg):
    OmegaConf.update(cfg, "trainer.limit_train_batches", 7, force_add=True)
    assert build_trainer(cfg).limit_train_batches == 7
    OmegaConf.update(cfg, "trainer.number_of_gpus", 1, force_add=True)
    with pytest.raises(ProtT5nvError, match="number_of_gpus"):
        build_trainer(cfg)
