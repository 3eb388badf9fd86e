"""Several processes are the same run as one."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the train extra")

from fitting import Losses, fit

from prott5nv import ProtT5nvError
from prott5nv.pretraining.curves import read_scalars
from prott5nv.pretraining.parallel import MegatronStrategy

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "pretrain.py"


def train(cfg, max_steps, ckpt_path=None, save=None, devices=2):
    """Losses of the steps and weights after them."""
    cfg.trainer.max_steps = max_steps
    losses = Losses()
    strategy = MegatronStrategy() if devices > 1 else "auto"
    trainer, model = fit(cfg, ckpt_path, devices=devices, strategy=strategy, callbacks=[losses])
    if save:
        trainer.save_checkpoint(save)
    return losses.values, {name: p.detach().numpy() for name, p in model.megatron.named_parameters()}


def test_two_ranks_train_as_one(cfg, on_ranks):
    cfg.model.global_batch_size, cfg.model.micro_batch_size = 5, 2  # shares of 2 and 3
    expected_losses, expected_weights = train(cfg, 4, devices=1)
    ranks = on_ranks(2, train, cfg, 4)
    for losses, weights in ranks:
        assert losses == pytest.approx(expected_losses, rel=1e-5)
        for name, weight in weights.items():
            np.testing.assert_allclose(weight, expected_weights[name], atol=2e-5, rtol=0, err_msg=name)
            np.testing.assert_array_equal(weight, ranks[0][1][name])


def test_two_ranks_resume_to_the_bit(cfg, on_ranks, tmp_path):
    cfg.model.hidden_dropout = cfg.model.attention_dropout = 0.1
    straight, weights = on_ranks(2, train, cfg, 4)[0]
    first, _ = on_ranks(2, train, cfg, 2, None, tmp_path / "two.ckpt")[0]
    second, resumed_weights = on_ranks(2, train, cfg, 4, tmp_path / "two.ckpt")[0]
    assert first + second == straight
    for name, weight in weights.items():
        np.testing.assert_array_equal(resumed_weights[name], weight)


def stopped(cfg):
    with pytest.raises(ProtT5nvError) as caught:
        fit(cfg, devices=2, strategy=MegatronStrategy())
    return str(caught.value)


def test_a_bad_record_in_one_ranks_share_stops_both_with_one_message(cfg, on_ranks, training_data, tmp_path):
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


def run(*overrides):
    command = [sys.executable, str(SCRIPT), "model=tiny", "trainer.enable_progress_bar=false", *overrides]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture
def two_devices(training_data, tmp_path):
    return (
        "name=two",
        f"model.data.dataset_path={training_data}",
        "model.data.num_workers=0",
        "model.global_batch_size=8",
        "model.hidden_dropout=0",
        "model.attention_dropout=0",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
        "trainer.precision=32",
        "trainer.max_steps=3",
        "trainer.log_every_n_steps=1",
        f"exp_manager.exp_dir={tmp_path}",
    )


def test_the_script_starts_its_processes_and_speaks_with_one_voice(cfg, two_devices, tmp_path):
    done = run(*two_devices, "do_testing=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model:") == done.stdout.count("test_residue_perplexity") == 1
    assert (tmp_path / "two" / "two.nemo").is_file()
    expected, _ = train(cfg, 3, devices=1)
    assert [loss for _, loss in read_scalars(tmp_path / "two")["loss"]] == pytest.approx(expected, rel=1e-5)


def test_the_script_stops_all_processes_with_one_line(two_devices):
    done = run(*two_devices, "model.optim.lr=1e30")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the loss is not finite") and done.stderr.count("\n") == 1
