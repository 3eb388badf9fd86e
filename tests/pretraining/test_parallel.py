"""Several processes give the same run as one."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("nemo", reason="needs the train extra")

from helpers.fitting import Losses, fit
from helpers.forked import ForkedCommand
from helpers.waiting import wait_until
from megatron.core.transformer.enums import AttnMaskType
from omegaconf import OmegaConf

from prott5nv import ModelConfig, ProtT5nvError, load
from prott5nv.checkpoint import read_nemo
from prott5nv.checkpoint.parameter_names import megatron_to_prott5
from prott5nv.cli import main
from prott5nv.embedding.store import EmbeddingStore
from prott5nv.model.attention import Packing
from prott5nv.pretraining.curves import read_scalars
from prott5nv.pretraining.losses import gather_vocabulary
from prott5nv.pretraining.megatron import PackedCoreAttention, initialize_parallel, transformer_config
from prott5nv.pretraining.model import ProtT5nvModel
from prott5nv.pretraining.parallel import MegatronStrategy
from prott5nv.pretraining.tensor_parallel import gather_shards


def train(cfg, max_steps, ckpt_path=None, save=None, devices=2, precision="32"):
    """Return the losses of the steps, the whole weights after them, and the loss of the test split."""
    cfg.trainer.max_steps = max_steps
    losses = Losses()
    strategy = MegatronStrategy() if devices > 1 else "auto"
    trainer, model = fit(cfg, ckpt_path, devices=devices, strategy=strategy, callbacks=[losses], precision=precision)
    if save:
        trainer.save_checkpoint(save)
    weights = {name: gather_shards(p.detach(), p).numpy() for name, p in model.megatron.named_parameters()}
    return losses.values, weights, trainer.test(model, verbose=False)[0]["test_loss"]


def assert_close(weights, expected):
    for name, weight in weights.items():
        np.testing.assert_allclose(weight, expected[name], atol=2e-5, rtol=0, err_msg=name)


RANK = """
import sys
import torch.distributed as dist
from helpers.fitting import Losses, fit
from omegaconf import OmegaConf
from prott5nv.pretraining.parallel import MegatronStrategy
losses = Losses()
_, accelerator, precision, settings = sys.argv
strategy = MegatronStrategy()
fit(OmegaConf.load(settings), callbacks=[losses], accelerator=accelerator, precision=precision, strategy=strategy)
print(dist.get_backend(), *losses.values)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accelerator", "precision", "backend"),
    [("cpu", "32", "gloo"), pytest.param("gpu", "bf16-mixed", "nccl", marks=pytest.mark.gpu)],
)
def test_a_rank_that_lightning_starts_uses_the_backend_of_its_device(cfg, tmp_path, accelerator, precision, backend):
    """It runs in a process of its own, because this one has a group for its other tests."""
    expected = Losses()
    fit(cfg, callbacks=[expected], accelerator=accelerator, precision=precision)
    OmegaConf.save(cfg, tmp_path / "settings.yaml")
    command = [sys.executable, "-c", RANK, accelerator, precision, str(tmp_path / "settings.yaml")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    found_backend, *losses = done.stdout.splitlines()[-1].split()
    assert found_backend == backend
    assert list(map(float, losses)) == pytest.approx(expected.values, abs=1e-3 if accelerator == "gpu" else 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size, tensor_parallel", [(2, 1), (2, 2), (4, 1), (4, 2)])
def test_several_ranks_train_as_one(cfg, on_ranks, size, tensor_parallel):
    cfg.model.global_batch_size, cfg.model.micro_batch_size = 5, 2  # a rank gets fewer proteins than another
    cfg.model.gradient_clip_val = 0.5  # less than the norm
    expected_losses, expected_weights, expected_test = train(cfg, 4, devices=1)
    cfg.model.tensor_model_parallel_size = tensor_parallel
    ranks = on_ranks(size, train, cfg, 4, None, None, size)
    for losses, weights, test_loss in ranks:
        assert losses == pytest.approx(expected_losses, rel=1e-5)
        assert test_loss == pytest.approx(expected_test, rel=1e-5)
        assert_close(weights, expected_weights)
        for name, weight in weights.items():
            np.testing.assert_array_equal(weight, ranks[0][1][name])


@pytest.mark.slow
@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_two_ranks_resume_to_the_bit(cfg, on_ranks, tmp_path, tensor_parallel):
    cfg.model.hidden_dropout = cfg.model.attention_dropout = 0.1
    cfg.model.tensor_model_parallel_size = tensor_parallel
    straight, weights, _ = on_ranks(2, train, cfg, 4)[0]
    first, _, _ = on_ranks(2, train, cfg, 2, None, tmp_path / "two.ckpt")[0]
    second, resumed_weights, _ = on_ranks(2, train, cfg, 4, tmp_path / "two.ckpt")[0]
    assert first + second == straight
    for name, weight in weights.items():
        np.testing.assert_array_equal(resumed_weights[name], weight)


@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_shards(cfg, on_ranks, tmp_path):
    straight, weights, _ = train(cfg, 4, devices=1)
    cfg.model.tensor_model_parallel_size = 2
    on_ranks(2, train, cfg, 2, None, tmp_path / "two.ckpt")
    cfg.model.tensor_model_parallel_size = 1
    losses, resumed_weights, _ = train(cfg, 4, tmp_path / "two.ckpt", devices=1)
    assert losses == pytest.approx(straight[2:], rel=1e-5)
    assert_close(resumed_weights, weights)


@pytest.mark.slow
def test_shards_start_with_mimetic_weights(cfg, on_ranks):
    cfg.model.init_method, cfg.model.optim.lr = "mimetic", 0.0
    expected, expected_weights, _ = train(cfg, 1, devices=1)
    cfg.model.tensor_model_parallel_size = 2
    for losses, weights, _ in on_ranks(2, train, cfg, 1):
        assert losses == pytest.approx(expected, rel=1e-5)
        for name, weight in weights.items():
            np.testing.assert_array_equal(weight, expected_weights[name])


@pytest.mark.slow
def test_shards_train_in_mixed_precision(cfg, on_ranks):
    expected, _, _ = train(cfg, 3, devices=1)
    cfg.model.tensor_model_parallel_size = 2
    losses, _, _ = on_ranks(2, train, cfg, 3, None, None, 2, "bf16-mixed")[0]
    assert losses == pytest.approx(expected, rel=1e-2)


def attend_with_dropout():
    initialize_parallel(2)
    config = transformer_config(ModelConfig.preset("tiny", attention_dropout=0.5), 1)
    attention = PackedCoreAttention(config, 1, AttnMaskType.padding, None)
    torch.manual_seed(0)
    x = torch.randn(9, 1, 2, 16)
    packing = Packing(torch.tensor([0, 4, 9], dtype=torch.int32))
    return attention(x, x, x, (packing, packing)).numpy(), torch.rand(1).item()


@pytest.mark.slow
def test_dropout_differs_between_the_heads_of_ranks_but_not_after_them(on_ranks):
    (first, after_first), (second, after_second) = on_ranks(2, attend_with_dropout)
    assert (first != second).any() and after_first == after_second


def logits_and_gradients(cfg, path, copy):
    model = ProtT5nvModel.restore_from(path, override_config={**cfg.model, "tensor_model_parallel_size": 2})
    model.save_to(copy)
    batch = model._dataset("train", shuffle=True).__getitems__([0, 1, 2])[0]
    loss_S, _ = model.eval()._losses(batch)
    loss_S.sum().backward()
    with torch.no_grad():
        logits = gather_vocabulary(model(batch))
    gradients = {name: gather_shards(p.grad, p) for name, p in model.megatron.named_parameters()}
    return logits.numpy(), {name: gradient.numpy() for name, gradient in megatron_to_prott5(gradients).items()}


@pytest.mark.slow
def test_shards_of_a_nemo_file_are_the_whole_model(cfg, on_ranks, tiny_checkpoint, tmp_path):
    plain = load(tiny_checkpoint)
    model = ProtT5nvModel.restore_from(tiny_checkpoint, override_config=cfg.model)
    batch = model._dataset("train", shuffle=True).__getitems__([0, 1, 2])[0]
    hidden = plain.encode(batch["enc_tokens"], batch["enc_cu_seqlens"])
    decoded = plain.decode(batch["dec_tokens"], batch["dec_cu_seqlens"], hidden, batch["enc_cu_seqlens"])
    expected = plain.logits(decoded)
    F.cross_entropy(expected, batch["dec_labels"], reduction="sum").backward()

    copy = tmp_path / "copy.nemo"
    for logits, gradients in on_ranks(2, logits_and_gradients, cfg, tiny_checkpoint, copy):
        assert np.abs(logits - expected.detach().numpy()).max() <= 1e-5 * expected.abs().max()
        for name, parameter in plain.named_parameters():
            difference = np.abs(gradients[name] - parameter.grad.numpy()).max()
            assert difference <= 1e-5 * parameter.grad.abs().max(), name
    copied, original = read_nemo(copy).state_dict, read_nemo(tiny_checkpoint).state_dict
    assert copied.keys() == original.keys()
    assert all(torch.equal(copied[name], weight) for name, weight in original.items())


def stopped(cfg):
    with pytest.raises(ProtT5nvError) as caught:
        fit(cfg, devices=2, strategy=MegatronStrategy())
    return str(caught.value)


@pytest.mark.slow
def test_an_invalid_record_on_one_rank_stops_both_with_one_message(cfg, on_ranks, training_data, tmp_path):
    data = shutil.copytree(training_data, tmp_path / "data")
    rows = (data / "train" / "x000.csv").read_text().splitlines()
    rows[5] = rows[5].replace(",", ";")
    (data / "train" / "x000.csv").write_text("\n".join(rows) + "\n")
    cfg.model.data.dataset_path = str(data)
    cfg.model.data.num_workers = 1
    first, second = on_ranks(2, stopped, cfg)
    assert first == second
    assert re.match(r".*x000\.csv, line 6: not a row of", first) and "\n" not in first


def test_a_loss_that_is_not_finite_names_the_records_of_all_ranks(cfg, on_ranks):
    cfg.model.optim.lr = 1e30
    first, second = on_ranks(2, stopped, cfg)
    assert first == second
    assert len(re.search("the batch holds (.*?)[.] Lower", first)[1].split(", ")) == 8


@pytest.fixture
def two_devices(training_data, tmp_path):
    return (
        "pretrain",
        "model=tiny",
        "trainer.enable_progress_bar=false",
        "name=two",
        f"model.data.dataset_path={training_data}",
        "model.data.num_workers=0",
        "model.global_batch_size=8",
        "model.hidden_dropout=0",
        "model.attention_dropout=0",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
        "trainer.precision=32",
        "trainer.max_steps=6",
        "trainer.val_check_interval=2",
        "trainer.log_every_n_steps=1",
        f"exp_manager.exp_dir={tmp_path}",
    )


@pytest.mark.slow
def test_a_killed_run_of_two_processes_resumes_to_a_model_that_embeds(cfg, two_devices, on_ranks, tmp_path, examples):
    arguments = (*two_devices, "do_testing=true")
    process = ForkedCommand(arguments, tmp_path)
    wait_until(lambda: process.poll() is not None or list((tmp_path / "two" / "checkpoints").glob("step2-*.ckpt")))
    process.kill()
    wait_until(lambda: process.poll() is not None and not process.group_is_alive())  # what it started ends too
    killed = process.wait()
    assert killed.returncode == -signal.SIGKILL and "Traceback" not in killed.stderr, killed.stderr

    resumed = "".join(on_ranks(2, completed_command, arguments))  # saves importing NeMo in a second process
    for words in ("resuming from", "model:", "test_residue_perplexity"):
        assert resumed.count(words) == 1
    expected, _, _ = train(cfg, 6, devices=1)
    assert [loss for _, loss in read_scalars(tmp_path / "two")["loss"]] == pytest.approx(expected, rel=1e-5)

    embed = ["embed", examples / "proteins.fasta", "-o", "out.h5", "--model", tmp_path / "two" / "two.nemo"]
    assert ForkedCommand(embed, tmp_path).wait().returncode == 0
    assert len(EmbeddingStore(tmp_path / "out.h5")) == 36


def completed_command(arguments):
    """Return what a command prints on standard output."""
    stdout = io.StringIO()
    with redirect_stdout(stdout), pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert not caught.value.code
    return stdout.getvalue()


def refused_command(arguments):
    """Return the exit code of a command and what it prints on standard error."""
    stderr = io.StringIO()
    with redirect_stderr(stderr), pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code, stderr.getvalue()


@pytest.mark.slow
def test_the_command_stops_all_processes_with_one_line(two_devices, on_ranks):
    first, second = on_ranks(2, refused_command, [*two_devices, "model.optim.lr=1e30"])
    assert first[0] == second[0] == 2
    assert first[1].startswith("prott5nv: error: the loss is not finite") and first[1].count("\n") == 1
    assert second[1] == ""
