"""Runs a pretraining: builds Lightning's trainer and the model from the settings, trains, tests and exports."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from nemo.utils import logging as nemo_logging
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig

from prott5nv.checkpoint import warm_start_weights
from prott5nv.errors import ProtT5nvError
from prott5nv.model.device import choose_hardware
from prott5nv.pretraining.callbacks import (
    Checkpoints,
    StepProgressBar,
    StopOnSignal,
    Throughput,
    WholeCheckpointIO,
)
from prott5nv.pretraining.checkpoint_files import find_checkpoint
from prott5nv.pretraining.config import PretrainConfig, as_dict, checked
from prott5nv.pretraining.curves import plot_curves
from prott5nv.pretraining.downstream import DownstreamValidation
from prott5nv.pretraining.model import ProtT5nvModel
from prott5nv.pretraining.parallel import MegatronStrategy

logger = logging.getLogger(__name__)


def pretrain(cfg: DictConfig) -> Path:
    """Train, test and export a model.

    Parameters
    ----------
    cfg : DictConfig
        ``conf/pretrain.yaml``, composed after :func:`prott5nv.pretraining.config.register`.

    Returns
    -------
    Path
        The ``.nemo`` file with the last weights.

    Raises
    ------
    ProtT5nvError
        If data are missing, or a setting cannot be used.
    """
    config = checked(cfg)
    nemo_logging.setLevel(nemo_logging.ERROR)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    trainer = build_trainer(cfg)
    if config.model.dwnstr_task_validation.enabled:
        trainer.callbacks.append(DownstreamValidation(config.model.dwnstr_task_validation.dataset))
    # NeMo's checkpoint callback can leave a run that it cannot resume, so ours replaces it.
    log_dir = Path(exp_manager(trainer, {**as_dict(cfg.exp_manager), "create_checkpoint_callback": False}))
    kept = config.exp_manager.checkpoint_callback_params
    checkpoints = log_dir / "checkpoints"
    interval = None if config.trainer.limit_val_batches else config.trainer.val_check_interval
    trainer.callbacks.append(Checkpoints(checkpoints, kept.save_top_k, kept.always_save_nemo, interval))
    model = ProtT5nvModel(cfg.model, trainer)
    if config.restore_from_path is not None:
        _take_weights(model, config.restore_from_path)
    if config.do_training:
        checkpoint = find_checkpoint(checkpoints) if config.exp_manager.resume_if_exists else None
        if checkpoint:
            logger.info("resuming from %s", checkpoint)
        trainer.fit(model, ckpt_path=checkpoint)
    if config.do_testing:
        trainer.test(model)
    exported = log_dir / f"{config.name}.nemo"
    model.save_to(exported)
    logger.info("\nmodel:  %s", exported)
    if trainer.is_global_zero and config.exp_manager.create_tensorboard_logger and (curves := plot_curves(log_dir)):
        logger.info("curves: %s", curves)
    return exported


def _take_weights(model: ProtT5nvModel, path: str) -> None:
    """Let training start from the weights of a file, and log what had to be adapted."""
    with warnings.catch_warnings(record=True) as changes:  # otherwise NeMo sends them to its own log
        warnings.simplefilter("always")
        model.initial_weights = warm_start_weights(path, model.config)
    for change in changes:
        logger.warning("%s", change.message)


def build_trainer(cfg: DictConfig) -> pl.Trainer:
    """Build Lightning's trainer.

    Parameters
    ----------
    cfg : DictConfig
        The configuration of :func:`pretrain`. Values added with ``+trainer.X=`` are passed on to Lightning.

    Returns
    -------
    lightning.pytorch.Trainer

    Raises
    ------
    ProtT5nvError
        If Lightning or this machine cannot use a setting.
    """
    config = checked(cfg)
    precision = choose_precision(config.trainer.precision, config.trainer.accelerator)
    if precision == "16-mixed" and config.model.skip_loss_spikes is not None:
        raise ProtT5nvError(
            "model.skip_loss_spikes cannot be used with trainer.precision=16-mixed, whose gradient scaler already "
            "skips steps by its own rule; choose bf16-mixed or 32"
        )
    settings = as_dict(cfg.trainer)
    settings.pop("gradient_clip_val")  # the model clips: its gradients are complete only after all micro-batches
    settings["precision"] = precision
    settings["val_check_interval"] = min(config.trainer.val_check_interval, config.trainer.max_steps)
    if _uses_several_processes(config):
        settings["strategy"] = MegatronStrategy()
    callbacks = [Throughput(), StopOnSignal()]
    if config.trainer.enable_progress_bar:
        callbacks.append(StepProgressBar())
    try:
        return pl.Trainer(
            **settings,
            plugins=[WholeCheckpointIO()],
            callbacks=callbacks,
            logger=False,  # exp_manager adds the loggers
            enable_checkpointing=False,
            use_distributed_sampler=False,
            check_val_every_n_epoch=None,  # the stream of samples has no epochs, so validation counts steps
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:  # how Lightning refuses a setting
        raise ProtT5nvError(f"trainer: {error} (precision={precision})") from None


def _uses_several_processes(config: PretrainConfig) -> bool:
    return config.trainer.num_nodes > 1 or config.trainer.devices not in (1, "1", [0])


def choose_precision(precision: str, accelerator: str = "auto") -> str:
    """Return the precision to train in.

    Parameters
    ----------
    precision : str
        A value of ``trainer.precision``. For ``auto``, this machine's fastest numerically safe precision is chosen
        and logged.
    accelerator : str, default "auto"
        A value of ``trainer.accelerator``. For ``cpu``, a GPU in this machine does not count.

    Returns
    -------
    str
        A precision that Lightning knows.

    Raises
    ------
    ProtT5nvError
        If this machine cannot train in this precision.
    """
    if precision == "16-mixed" and (accelerator == "cpu" or not torch.cuda.is_available()):
        raise ProtT5nvError("trainer.precision=16-mixed needs a CUDA device; use 32 or bf16-mixed")
    if precision != "auto":
        return precision
    hardware = choose_hardware("cpu" if accelerator == "cpu" else "auto")
    chosen = {"fp32": "32", "bf16": "bf16-mixed", "fp16": "16-mixed"}[hardware.precision]
    logger.info("precision: %s: %s", chosen, hardware)
    return chosen
