"""scripts/pretrain.py as a user runs it: real processes, real proteins, a real kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("nemo", reason="needs the train extra")

from prott5nv import load, seqs_to_embedding
from prott5nv.checkpoint import read_nemo
from prott5nv.pretraining.curves import read_scalars

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "pretrain.py"


def command(*overrides):
    return [sys.executable, str(SCRIPT), "model=tiny", "trainer.enable_progress_bar=false", *overrides]


def run(*overrides):
    return subprocess.run(command(*overrides), capture_output=True, text=True, timeout=240)


def overrides(training_data, results, name, max_steps):
    return (
        f"name={name}",
        f"model.data.dataset_path={training_data}",
        "model.data.num_workers=0",
        "model.global_batch_size=4",
        "model.micro_batch_size=3",
        f"trainer.max_steps={max_steps}",
        "trainer.val_check_interval=10",
        "trainer.log_every_n_steps=1",
        f"exp_manager.exp_dir={results}",
    )


def losses(folder):
    return read_scalars(folder)["loss"]


@pytest.fixture(scope="module")
def undisturbed(training_data, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    done = run(*overrides(training_data, results, "undisturbed", 30), "do_testing=true")
    assert done.returncode == 0, done.stderr
    return results / "undisturbed", done


def test_the_run_says_where_the_model_is_and_it_embeds(undisturbed):
    folder, done = undisturbed
    exported = folder / "undisturbed.nemo"
    assert f"model:  {exported}" in done.stdout
    assert load(exported).config.num_parameters == 274_816
    assert seqs_to_embedding(["MKTAYIAKQR"], model=exported)[0].shape == (10, 64)


def test_the_run_leaves_curves_and_checkpoints(undisturbed):
    folder, _ = undisturbed
    assert (folder / "curves.png").stat().st_size > 10_000
    assert len(losses(folder)) == 30
    scalars = read_scalars(folder)
    for name in ("grad_norm", "residues_per_s", "share_of_matmul_peak", "memory_gb"):
        assert len(scalars[name]) == 30 and all(value > 0 for _, value in scalars[name]), name
    assert max(value for _, value in scalars["share_of_matmul_peak"]) < 1
    saved = sorted(path.name for path in (folder / "checkpoints").iterdir())
    steps = [name.partition("-")[0] for name in saved if name.endswith(".ckpt")]
    assert steps == ["step=10", "step=20", "step=30"]
    assert [name.removesuffix(".ckpt") + ".nemo" for name in saved if name.endswith(".ckpt")] == [
        name for name in saved if name.endswith(".nemo")
    ]


def test_training_lowers_the_loss_and_the_test_split_is_evaluated(undisturbed):
    folder, done = undisturbed
    values = [value for _, value in losses(folder)]
    assert values[-1] < values[0] - 0.2
    assert "test_residue_perplexity" in done.stdout


def test_a_killed_run_goes_on_to_the_same_losses(undisturbed, training_data, tmp_path):
    arguments = overrides(training_data, tmp_path, "killed", 30)
    process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    checkpoints = tmp_path / "killed" / "checkpoints"
    deadline = time.monotonic() + 200
    while not list(checkpoints.glob("step=10-*.ckpt")) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    resumed = run(*arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from" in resumed.stdout
    assert losses(tmp_path / "killed") == losses(undisturbed[0])
    weights, expected = (
        read_nemo(folder / f"{folder.name}.nemo").state_dict for folder in (tmp_path / "killed", undisturbed[0])
    )
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize(
    "wrong, message",
    [
        ((), "model.data.dataset_path"),
        (("model.hidden=3",), "Key 'hidden' is not in struct"),
        (("model=huge",), "prott5nv small tiny"),
    ],
)
def test_a_mistake_is_one_line(wrong, message):
    done = run(*wrong)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


def test_hydra_shows_the_configuration_without_importing_nemo():
    started = time.process_time()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(SCRIPT), "--cfg", "job"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0 and "global_batch_size: 2688" in done.stdout
    assert "nemo" not in done.stderr and time.process_time() - started < 60
