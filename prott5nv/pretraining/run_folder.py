"""The folder of a run: only one process writes to it, and its settings stay the same."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from prott5nv.checkpoint import read_nemo
from prott5nv.data.memmap import CSVDataset
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import write_text
from prott5nv.io.exclusive import exclusive_folder
from prott5nv.io.output import check_unlinked
from prott5nv.io.text import counted, shortened
from prott5nv.pretraining.checkpoint_files import find_checkpoint
from prott5nv.pretraining.config import PRECISIONS, PretrainConfig, as_dict
from prott5nv.settings import flat

SETTINGS_FILE = "settings.json"
LOGS = "logs"  # TensorBoard files, and what NeMo's exp_manager writes

logger = logging.getLogger(__name__)

#: Settings that may differ when a run continues, because they do not decide its result: a name stands for all settings
#: below it. All others must stay the same.
FREE_SETTINGS = (
    "name",
    "do_training",
    "do_testing",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accelerator",
    "trainer.compile",
    "trainer.max_steps",
    "trainer.val_check_interval",
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
    "model.micro_batch_size",
    "model.compile",
    "model.tensor_model_parallel_size",
    "model.activations_checkpoint_granularity",
    "model.data.num_workers",
    "model.data.tokens_per_micro_batch",
    "model.data.dataset.test",
    "model.dwnstr_task_validation",
    "exp_manager.exp_dir",
    "exp_manager.name",
    "exp_manager.create_tensorboard_logger",
    "exp_manager.create_wandb_logger",
    "exp_manager.wandb_logger_kwargs",
    "exp_manager.summary_writer_kwargs",
    "exp_manager.resume_if_exists",
    "exp_manager.resume_ignore_no_checkpoint",
    "exp_manager.seconds_to_sleep",
    "exp_manager.log_step_timing",
    "exp_manager.log_tflops_per_sec_per_gpu",
    "exp_manager.checkpoint_callback_params",
)

_LOCK_SECONDS = 15.0  # data loader workers of a killed run live on for some seconds and hold its lock
_MAX_SETTINGS = 1 << 24  # bytes
_TELLING = "model.hidden_size"  # tells best that the architecture is another one


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Create the folder of a run, and keep other runs out of it until the block ends or the process dies.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    ProtT5nvError
        If another run uses the folder, it cannot be created, or a file in it is a link.
    """
    deadline, waiting = time.monotonic() + _LOCK_SECONDS, False
    with ExitStack() as stack:
        while True:
            try:
                # The run folder itself is locked for a moment whenever a file is written into it.
                stack.enter_context(exclusive_folder(folder / LOGS, str(folder), wait=False))
                break
            except OSError as error:
                raise ProtT5nvError(f"{folder}: {error.strerror}; choose another exp_manager.exp_dir=") from None
            except ProtT5nvError:
                if time.monotonic() > deadline:
                    raise
                if not waiting:
                    logger.info("another process is writing %s; waiting for up to %.0f seconds", folder, _LOCK_SECONDS)
                    waiting = True
                time.sleep(0.2)
        check_unlinked(folder)
        yield


def run_folder(config: PretrainConfig) -> Path:
    """Return the folder of a run."""
    return Path(config.exp_manager.exp_dir) / config.exp_manager.name


def checkpoint_to_continue(cfg: DictConfig, config: PretrainConfig) -> tuple[Path | None, dict[str, Any]]:
    """Find the checkpoint to resume from or to test, after a check that it belongs to a run with these settings.

    Parameters
    ----------
    cfg : DictConfig
        The configuration of :func:`prott5nv.pretraining.trainer.pretrain`.
    config : PretrainConfig
        Its checked form.

    Returns
    -------
    checkpoint : Path or None
        None for a new run, and for a test of other weights.
    settings : dict
        As :func:`deciding_settings` returns them; empty without training.

    Raises
    ------
    ProtT5nvError
        If training data are missing, there is no checkpoint although one is needed, or the folder belongs to a run with
        other settings.
    """
    folder = run_folder(config)
    checkpoint = find_checkpoint(folder / "checkpoints")
    if not config.do_training:
        if checkpoint is None and config.restore_from_path is None:
            raise ProtT5nvError(f"do_training=false: {folder} has no checkpoint to test; set restore_from_path=FILE")
        return checkpoint, {}
    settings = deciding_settings(cfg)
    if checkpoint is None:
        if config.exp_manager.resume_if_exists and not config.exp_manager.resume_ignore_no_checkpoint:
            raise ProtT5nvError(
                f"{folder}: no checkpoint; start a run with exp_manager.resume_ignore_no_checkpoint=true"
            )
        return None, settings
    if not config.exp_manager.resume_if_exists:
        raise ProtT5nvError(
            f"{folder}: a run with checkpoints exists; choose another name=, or continue it with "
            "exp_manager.resume_if_exists=true"
        )
    check_settings(folder, settings)
    return checkpoint, settings


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to continue a run with other settings.

    Parameters
    ----------
    folder : Path
        Folder of a run that has checkpoints.
    settings : mapping
        As :func:`deciding_settings` returns them.

    Raises
    ------
    ProtT5nvError
        If a setting differs, which the message names, or the settings of the run cannot be read.
    """
    path = folder / SETTINGS_FILE
    remedy = "choose another name=, or delete the folder"
    if not path.is_file():
        raise ProtT5nvError(f"{path}: no such file, but the folder has checkpoints; {remedy}")
    try:
        with open(path, encoding="utf-8") as file:
            saved = json.loads(file.read(_MAX_SETTINGS))
        if not isinstance(saved, dict):
            raise ValueError
    except (OSError, ValueError, RecursionError):
        raise ProtT5nvError(f"{path}: the settings of the run cannot be read; {remedy}") from None
    names = sorted(settings.keys() | saved.keys(), key=lambda name: (name != _TELLING, name))
    if differing := [name for name in names if _meaning(name, saved) != _meaning(name, settings)]:
        name = differing[0]
        others = f"; {counted(len(differing) - 1, 'other setting')}, too" if differing[1:] else ""
        raise ProtT5nvError(
            f"{folder}: the run has {name}={_shown(saved.get(name))}, and this command {_shown(settings.get(name))}"
            f"{others}; set it back, or choose another name= (restore_from_path=FILE.nemo starts from the weights of "
            "this run)"
        )


def _meaning(name: str, settings: Mapping[str, Any]) -> Any:
    """Return the value of a setting, and one value for all of the same meaning."""
    value = settings.get(name)
    return PRECISIONS.get(value, value) if name == "trainer.precision" and isinstance(value, str) else value


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings that decide the result of a run to its folder.

    Parameters
    ----------
    folder : Path
    settings : mapping
        As :func:`deciding_settings` returns them.

    Raises
    ------
    ProtT5nvError
        If the file cannot be written.
    """
    write_text(folder / SETTINGS_FILE, json.dumps(settings, indent=1) + "\n")


def deciding_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings that decide the result of a run.

    Parameters
    ----------
    cfg : DictConfig
        The configuration of :func:`prott5nv.pretraining.trainer.pretrain`.

    Returns
    -------
    dict
        Values by their names on the command line, without `FREE_SETTINGS`. A checksum stands for the training data and
        for the file of initial weights, so that these can be moved but not exchanged.

    Raises
    ------
    ProtT5nvError
        If the data or the file of initial weights are missing.
    """
    settings = flat(as_dict(cfg), FREE_SETTINGS)
    splits = ["train", "val"] if cfg.trainer.limit_val_batches else ["train"]
    settings["model.data.dataset_path"] = _data_checksum(cfg.model.data, splits)
    if cfg.restore_from_path is not None:
        settings["restore_from_path"] = f"model {read_nemo(cfg.restore_from_path, weights=False).sha256}"
    # JSON has no tuples, so the values are compared as they are read back.
    comparable: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return comparable


def _data_checksum(data: DictConfig, splits: list[str]) -> str:
    """Return a checksum of the names and sizes of the data files, which is quick also for many gigabytes."""
    checksum = hashlib.sha256()
    for split in splits:
        for path in CSVDataset(data.dataset_path, split, data.dataset[split]).paths:
            checksum.update(f"{split}/{path.name} {path.stat().st_size}\n".encode())
    return f"data {checksum.hexdigest()}"


def _shown(value: Any) -> str:
    return shortened(json.dumps(value, ensure_ascii=False))
