"""The folder of a run: its settings, its lock, its results when the run continues."""

import copy
import json
import logging
import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("nemo", reason="needs the train extra")

from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from prott5nv import ProtT5nvError
from prott5nv.pretraining import run_folder
from prott5nv.pretraining.checkpoint_files import checkpoint_name
from prott5nv.pretraining.curves import plot_curves
from prott5nv.pretraining.model import ProtT5nvModel
from prott5nv.pretraining.run_folder import check_settings, deciding_settings, exclusive, write_settings
from prott5nv.pretraining.trainer import pretrain


@pytest.fixture(autouse=True)
def _restored_handlers():
    """Restore the levels of the root logger's handlers, such as those of pytest, which NeMo changes."""
    levels = [(handler, handler.level) for handler in logging.root.handlers]
    yield
    for handler, level in levels:
        handler.setLevel(level)


@pytest.fixture
def run_cfg(cfg, tmp_path):
    """The configuration of a run of two steps with a validation after each."""
    changes = {
        "name": "run",
        "trainer": {
            "accelerator": "cpu",
            "precision": "32",
            "max_steps": 2,
            "val_check_interval": 1,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
        },
        "exp_manager": {"exp_dir": str(tmp_path / "re=sults (1)"), "name": "run"},
    }
    return OmegaConf.merge(cfg, changes)


def changed(cfg, name, value):
    cfg = copy.deepcopy(cfg)
    OmegaConf.update(cfg, name, value, force_add=True)
    return cfg


def differing(cfg, name, value):
    settings, other = deciding_settings(cfg), deciding_settings(changed(cfg, name, value))
    return {key for key in settings.keys() | other.keys() if settings.get(key) != other.get(key)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.optim.lr", 0.5),
        ("model.optim.sched.name", "CosineAnnealing"),
        ("model.data.masked_lm_prob", 0.3),
        ("model.data.random_crop", True),
        ("model.data.dataset.train", "x000"),
        ("model.hidden_dropout", 0.3),
        ("model.seed", 1),
        ("model.skip_loss_spikes", 6.0),
        ("trainer.precision", "bf16-mixed"),
        ("trainer.limit_val_batches", 2),
        ("exp_manager.ema", {"enable": True}),
    ],
)
def test_settings_that_decide_the_result_are_compared(run_cfg, name, value):
    assert {key for key in differing(run_cfg, name, value) if key.startswith(name)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trainer.max_steps", 9),
        ("trainer.devices", 2),
        ("trainer.num_nodes", 2),
        ("trainer.log_every_n_steps", 5),
        ("model.data.num_workers", 3),
        ("model.tensor_model_parallel_size", 2),
        ("exp_manager.create_wandb_logger", True),
        ("exp_manager.exp_dir", "elsewhere"),
    ],
)
def test_other_settings_may_change(run_cfg, name, value):
    assert differing(run_cfg, name, value) == set()


def test_the_data_may_move_but_not_change(run_cfg, training_data, tmp_path):
    moved = tmp_path / "moved"
    for split in ("train", "val"):
        (moved / split).mkdir(parents=True)
        (moved / split / "x000.csv").write_bytes((training_data / split / "x000.csv").read_bytes())
    assert differing(run_cfg, "model.data.dataset_path", str(moved)) == set()
    with open(moved / "train" / "x000.csv", "a") as file:
        file.write("28,late,3,MKV\n")
    assert differing(run_cfg, "model.data.dataset_path", str(moved)) == {"model.data.dataset_path"}


def test_the_file_of_initial_weights_is_compared_by_its_content(run_cfg, tiny_checkpoint, tmp_path):
    cfg = changed(run_cfg, "restore_from_path", str(tiny_checkpoint))
    same = tmp_path / "same.nemo"
    same.write_bytes(tiny_checkpoint.read_bytes())
    assert differing(cfg, "restore_from_path", str(same)) == set()
    assert differing(cfg, "restore_from_path", None) == {"restore_from_path"}


@pytest.mark.parametrize("content", [None, "{", "[" * 100_000, "[1]", "\udcff"])
def test_unreadable_settings_are_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / run_folder.SETTINGS_FILE).write_text(content, errors="surrogateescape")
    with pytest.raises(ProtT5nvError, match=r"settings.json: .*choose another name=") as caught:
        check_settings(tmp_path, {"model.seed": 1})
    assert "\n" not in str(caught.value)


def test_a_difference_is_named_with_both_values(tmp_path):
    write_settings(tmp_path, {"model.optim.lr": 1e-3, "model.seed": 1})
    check_settings(tmp_path, {"model.optim.lr": 1e-3, "model.seed": 1})
    with pytest.raises(ProtT5nvError, match=r"the run has model.optim.lr=0.001, and this command 0.01"):
        check_settings(tmp_path, {"model.optim.lr": 1e-2, "model.seed": 1})
    with pytest.raises(ProtT5nvError, match=r"the run has callbacks.x=null, and this command 1"):
        check_settings(tmp_path, {"model.optim.lr": 1e-3, "model.seed": 1, "callbacks.x": 1})
    several = {"model.attention_dropout": 0, "model.hidden_size": 128, "model.optim.lr": 1e-3, "model.seed": 1}
    with pytest.raises(ProtT5nvError, match=r"model.hidden_size=null, and this command 128; 1 other setting, too; set"):
        check_settings(tmp_path, several)


@pytest.mark.parametrize(("saved", "now"), [("32", "32-true"), ("32-true", "32")])
def test_names_of_the_same_precision_are_equal(saved, now, tmp_path):
    write_settings(tmp_path, {"trainer.precision": saved})
    check_settings(tmp_path, {"trainer.precision": now})
    with pytest.raises(ProtT5nvError, match=f'trainer.precision="{saved}", and this command "bf16-mixed"'):
        check_settings(tmp_path, {"trainer.precision": "bf16-mixed"})


def test_a_second_run_in_the_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "_LOCK_SECONDS", 0.1)
    folder = tmp_path / "run"
    code = "import sys, fcntl, os; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print(1, flush=True)"
    code += "; sys.stdin.read()"
    with exclusive(folder):
        pass
    command = [sys.executable, "-c", code, str(folder / run_folder.LOGS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(ProtT5nvError, match=r"another process is writing .*run; wait for it"), exclusive(folder):
            pass
        process.kill()
    with exclusive(folder):
        pass


def test_a_folder_that_cannot_be_created_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProtT5nvError, match=r"exp_manager.exp_dir"), exclusive(tmp_path / "file" / "run"):
        pass


def losses(folder):
    """Return what TensorBoard shows: the events of the one folder, in the order in which they were written."""
    events = EventAccumulator(str(folder / run_folder.LOGS), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


@pytest.mark.slow
def test_a_run_continues_in_its_folder(run_cfg, tmp_path):
    straight = pretrain(changed(run_cfg, "exp_manager.exp_dir", str(tmp_path / "straight")))
    first = pretrain(changed(run_cfg, "trainer.max_steps", 1))
    assert first.validation_perplexity is not None
    model, finished = first.model, first.model.read_bytes()
    with pytest.raises(ProtT5nvError, match=r"the run has model.optim.lr=.*, and this command 9"):
        pretrain(changed(run_cfg, "model.optim.lr", 9.0))
    with pytest.raises(ProtT5nvError, match="a run with checkpoints exists"):
        pretrain(changed(run_cfg, "exp_manager.resume_if_exists", False))
    assert model.read_bytes() == finished

    # Steps that were logged after the checkpoint, by a part of the run that was killed, do not show.
    second = pretrain(run_cfg)
    assert second.folder == first.folder and second.model == model
    assert losses(second.folder) == losses(straight.folder) and len(losses(second.folder)) == 2
    assert second.validation_perplexity == straight.validation_perplexity
    os.remove(second.folder / "checkpoints" / checkpoint_name(2, second.validation_perplexity))
    again = pretrain(run_cfg)
    assert losses(again.folder) == losses(straight.folder)
    assert sorted(os.listdir(again.folder)) == ["checkpoints", "curves.png", "logs", "run.nemo", "settings.json"]
    assert json.loads((again.folder / "settings.json").read_text())["model.seed"] == run_cfg.model.seed


def test_curves_are_drawn_with_scores_of_validation_alone(tmp_path):
    assert plot_curves(tmp_path) is None
    with SummaryWriter(tmp_path / run_folder.LOGS) as writer:
        writer.add_scalar("val_residue_perplexity", 20.0, 2)
    assert plot_curves(tmp_path) == tmp_path / "curves.png" and (tmp_path / "curves.png").stat().st_size > 5000


def test_logs_of_nemo_and_lightning_exist_only_with_messages(run_cfg, tmp_path):
    folder = pretrain(changed(run_cfg, "trainer.max_steps", 1)).folder / run_folder.LOGS
    assert not list(folder.glob("*.txt"))
    logging.getLogger("lightning.pytorch").warning("a message")
    for name in ("lightning_logs.txt", "nemo_error_log.txt"):
        assert (folder / name).read_text() == "a message\n"


def test_without_training_there_must_be_something_to_test(run_cfg):
    with pytest.raises(ProtT5nvError, match="there is nothing to do"):
        pretrain(OmegaConf.merge(run_cfg, {"do_training": False}))
    with pytest.raises(ProtT5nvError, match="no checkpoint to test"):
        pretrain(OmegaConf.merge(run_cfg, {"do_training": False, "do_testing": True}))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("trainer.devices", 0, "trainer.devices=0: choose a number of at least 1, or auto"),
        ("trainer.accelerator", "gpu", "trainer.accelerator=gpu: PyTorch finds no GPU here"),
    ],
)
def test_a_missing_device_is_one_line(run_cfg, setting, value, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ProtT5nvError, match=message):
        pretrain(changed(run_cfg, setting, value))


def test_control_c_before_the_first_step_is_passed_on(run_cfg, monkeypatch):
    def interrupt(model):
        raise KeyboardInterrupt

    monkeypatch.setattr(ProtT5nvModel, "on_fit_start", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            pretrain(run_cfg)
    finally:
        signal.signal(signal.SIGINT, handler)
