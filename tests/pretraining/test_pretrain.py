"""`prott5nv pretrain` and scripts/pretrain.py as a user runs them: real processes, real proteins, a real kill."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

pytest.importorskip("nemo", reason="needs the train extra")

from helpers.forked import ForkedCommand
from helpers.waiting import wait_until

from prott5nv import load, seqs_to_embedding
from prott5nv.checkpoint import read_nemo
from prott5nv.pretraining.curves import perplexity_limits, read_scalars

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "pretrain.py"
PRETRAIN = ["pretrain", "model=tiny", "trainer.enable_progress_bar=false"]
COMMAND = [sys.executable, "-m", "prott5nv", *PRETRAIN]


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
def uninterrupted(training_data, tmp_path_factory):
    results = tmp_path_factory.mktemp("results") / "a=b, ü (1)"
    settings = [*PRETRAIN[1:], *overrides(training_data, results, "uninterrupted", 30), "do_testing=true"]
    done = subprocess.run([sys.executable, str(SCRIPT), *settings], capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stderr
    return results / "uninterrupted", done


@pytest.mark.slow
def test_a_run_prints_the_path_of_a_model_that_embeds(uninterrupted):
    folder, done = uninterrupted
    exported = folder / "uninterrupted.nemo"
    assert f"model:  {exported}" in done.stdout
    assert load(exported).config.num_parameters == 274_816
    assert seqs_to_embedding(["MKTAYIAKQR"], model=exported)[0].shape == (10, 64)


@pytest.mark.slow
def test_a_run_leaves_curves_and_checkpoints(uninterrupted):
    folder, _ = uninterrupted
    assert (folder / "curves.png").stat().st_size > 10_000
    assert [step for step, _ in losses(folder)] == list(range(1, 31))
    scalars = read_scalars(folder)
    assert "hp_metric" not in scalars
    assert [step for step, _ in scalars["val_residue_perplexity"]] == [10, 20, 30]
    perplexities = [[value for _, value in scalars[f"{part}_residue_perplexity"]] for part in ("train", "val")]
    lowest, highest = perplexity_limits(perplexities)
    assert all(lowest < value < highest for values in perplexities for value in values[len(values) // 4 :])
    for name in ("grad_norm", "residues_per_s", "fraction_of_matmul_peak", "memory_gb"):
        assert len(scalars[name]) == 30 and all(value > 0 for _, value in scalars[name]), name
    assert max(value for _, value in scalars["fraction_of_matmul_peak"]) < 1
    saved = sorted(path.name for path in (folder / "checkpoints").iterdir())
    steps = [name.partition("-")[0] for name in saved if name.endswith(".ckpt")]
    assert steps == ["step10", "step20", "step30"]
    assert [name.removesuffix(".ckpt") + ".nemo" for name in saved if name.endswith(".ckpt")] == [
        name for name in saved if name.endswith(".nemo")
    ]


@pytest.mark.slow
def test_training_lowers_the_loss_and_the_test_split_is_evaluated(uninterrupted):
    folder, done = uninterrupted
    values = [value for _, value in losses(folder)]
    assert values[-1] < values[0] - 0.2
    assert "test_residue_perplexity" in done.stdout


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_losses(uninterrupted, training_data, tmp_path):
    arguments = overrides(training_data, tmp_path, "killed", 30)
    process = ForkedCommand([*PRETRAIN, *arguments], tmp_path)
    checkpoints = tmp_path / "killed" / "checkpoints"
    wait_until(lambda: process.poll() is not None or list(checkpoints.glob("step10-*.ckpt")))
    process.kill()
    killed = process.wait()
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    resumed = ForkedCommand([*PRETRAIN, *arguments], tmp_path).wait()
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from" in resumed.stdout
    assert losses(tmp_path / "killed") == losses(uninterrupted[0])
    weights, expected = (
        read_nemo(folder / f"{folder.name}.nemo").state_dict for folder in (tmp_path / "killed", uninterrupted[0])
    )
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize(
    "wrong, message",
    [
        ((), "model.data.dataset_path"),
        (("model.hidden=3",), "there is no setting model.hidden"),
        (
            ("--max-steps", "3"),
            "no option --max-steps; a setting is written NAME=VALUE; did you mean trainer.max_steps?",
        ),
        (("model.micro_batch_size=0", "model.data.dataset_path=data"), "model.micro_batch_size=0"),
        (("model=huge",), "model=huge: must be one of builtin, prott5nv, small, tiny"),
        (("name=", "model.data.dataset_path=data"), "name is empty"),
    ],
)
def test_an_error_is_one_line(wrong, message, tmp_path):
    done = ForkedCommand([*PRETRAIN, *wrong], tmp_path).wait()
    assert done.returncode == 2
    assert done.stderr.startswith("prott5nv: error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting, message",
    [
        ("trainer.limit_val_batches=0.001", "Try at least `limit_val_batches="),
        ("trainer.num_nodes=2", "start the command on each node with srun or torchrun"),
    ],
)
def test_an_error_after_the_start_of_nemo_ends_the_process(training_data, tmp_path, setting, message):
    """It does not wait for the workers of the loader, which ignore SIGTERM."""
    arguments = [*overrides(training_data, tmp_path, "refused", 2), setting, "model.data.num_workers=1"]
    done = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert done.stderr.startswith("prott5nv: error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.slow
def test_a_step_of_many_micro_batches_needs_few_file_descriptors(training_data, tmp_path):
    """Each tensor that a worker of the loader sends takes one. A worker that has none left sends nothing, forever."""
    arguments = overrides(training_data, tmp_path, "many", 2)
    many = ["model.data.num_workers=1", "model.global_batch_size=200", "model.micro_batch_size=1"]
    command = ["bash", "-c", 'ulimit -n 256; exec "$@"', "-", *COMMAND, *arguments, *many]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stdout


def test_printing_the_settings_does_not_import_nemo():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(SCRIPT), "--cfg", "job"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0 and "global_batch_size: 2688" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "hydra" in imported and not imported & {"nemo", "megatron", "lightning", "torch"}


@pytest.mark.slow
def test_multirun_trains_one_run_for_each_value(training_data, tmp_path):
    arguments = overrides(training_data, tmp_path, "runs/lr-${model.optim.lr}", 1)
    multirun = ["--multirun", "model.optim.lr=1e-3,2e-3", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = ForkedCommand([*PRETRAIN, *multirun, *arguments], tmp_path).wait()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: ") == 2
    table = done.stdout[done.stdout.rindex("validation perplexity  run") :].splitlines()
    assert table[3] == f"table of the runs: {tmp_path / 'sweep' / 'runs.csv'}" and Path(table[3].split()[-1]).is_file()
    assert [line.split()[1:] for line in table[1:3]] == [
        ["runs/lr-0.001", "model.optim.lr=0.001"],
        ["runs/lr-0.002", "model.optim.lr=0.002"],
    ]
    assert all((tmp_path / "runs" / name / f"{name}.nemo").is_file() for name in ("lr-0.001", "lr-0.002"))


def test_a_slurm_job_with_another_number_of_tasks_is_refused(training_data, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_JOB_NAME", "prott5nv")
    arguments = overrides(training_data, tmp_path, "slurm", 2)
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert "error: the Slurm job has 8 tasks, but trainer.devices=1 and trainer.num_nodes=1 need 1" in done.stderr


def test_multirun_on_several_devices_is_refused(tmp_path):
    multirun = ["--multirun", "model.optim.lr=1e-3,2e-3", f"hydra.sweep.dir={tmp_path}"]
    settings = ["model.data.dataset_path=data", "trainer.devices=2"]
    done = ForkedCommand([*PRETRAIN, *multirun, *settings], tmp_path).wait()
    assert done.returncode == 2
    message = "prott5nv: error: the run with model.optim.lr=0.001: trainer.devices=2: --multirun"
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


def test_help_names_the_data_and_the_results(tmp_path):
    done = ForkedCommand([*PRETRAIN, "--help"], tmp_path).wait()
    for words in (
        "prott5nv prepare uniref50",
        "model.data.dataset_path=DIR",
        "EXP_DIR/NAME",
        "--cfg job",
        "--multirun",
    ):
        assert words in done.stdout


@pytest.mark.slow
def test_the_command_runs_from_a_wheel(tmp_path):
    """A wheel has no scripts folder, and its YAML files are inside the package."""
    pytest.importorskip("hatchling", reason="needs the build backend")
    build = "import hatchling.build, sys; hatchling.build.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    where = "import prott5nv.assets as assets; print(assets.config_folder())"
    for command, expected in (
        ([sys.executable, "-c", where], str(tmp_path / "installed" / "prott5nv" / "conf")),
        ([*COMMAND, "model=small", "--cfg", "job"], "hidden_size: 128"),
    ):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and expected in done.stdout, done.stderr
