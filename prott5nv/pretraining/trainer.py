"""Runs a pretraining: builds Lightning's trainer and the model from the settings, trains, tests and exports."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import lightning.pytorch as pl
import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from nemo.utils import logging as nemo_logging
from nemo.utils.exp_manager import ExpManagerConfig, exp_manager
from nemo.utils.get_rank import is_global_rank_zero
from omegaconf import DictConfig

from prott5nv.checkpoint import warm_start_weights
from prott5nv.errors import ProtT5nvError
from prott5nv.io.text import did_you_mean
from prott5nv.model.device import choose_hardware
from prott5nv.pretraining.callbacks import (
    Checkpoints,
    StepProgressBar,
    StopOnSignal,
    Throughput,
    WholeCheckpointIO,
)
from prott5nv.pretraining.checkpoint_files import checkpoint_step, last_validation
from prott5nv.pretraining.config import PRECISIONS, ExperimentConfig, PretrainConfig, TrainerConfig, as_dict, checked
from prott5nv.pretraining.curves import plot_curves
from prott5nv.pretraining.downstream import DownstreamValidation
from prott5nv.pretraining.log_lines import LogLines
from prott5nv.pretraining.model import ProtT5nvModel
from prott5nv.pretraining.parallel import MegatronStrategy
from prott5nv.pretraining.run_folder import (
    LOGS,
    checkpoint_to_continue,
    exclusive,
    run_folder,
    write_settings,
)
from prott5nv.pretraining.weights_and_biases import check_wandb, wandb_logger

logger = logging.getLogger(__name__)


class PretrainingRun(NamedTuple):
    """A finished run.

    Attributes
    ----------
    folder : Path
        Folder of the run.
    model : Path or None
        The ``.nemo`` file with the last weights; None if nothing was trained.
    validation_perplexity : float or None
        Perplexity over residues of the last validation; None if there was none.
    """

    folder: Path
    model: Path | None
    validation_perplexity: float | None


def pretrain(cfg: DictConfig) -> PretrainingRun:
    """Train, test and export a model.

    Parameters
    ----------
    cfg : DictConfig
        ``conf/pretrain.yaml``, composed after :func:`prott5nv.pretraining.presets.register`.

    Returns
    -------
    PretrainingRun

    Raises
    ------
    ProtT5nvError
        If data are missing, a setting cannot be used, or the folder belongs to a run with other settings.
    """
    config = checked(cfg)
    if not config.do_training and not config.do_testing:
        raise ProtT5nvError(
            "do_training=false and do_testing=false: there is nothing to do; `prott5nv prepare uniref50` prepares data"
        )
    _leave_slurm_task()
    _check_surroundings(cfg, config)
    nemo_logging.setLevel(nemo_logging.ERROR)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    folder = run_folder(config)
    with exclusive(folder) if is_global_rank_zero() else nullcontext():
        return _run(cfg, config, folder)


def _run(cfg: DictConfig, config: PretrainConfig, folder: Path) -> PretrainingRun:
    checkpoints = folder / "checkpoints"
    checkpoint, settings = checkpoint_to_continue(cfg, config)
    if config.do_training and checkpoint is None and is_global_rank_zero():
        write_settings(folder, settings)
    trainer = build_trainer(cfg)
    if config.model.dwnstr_task_validation.enabled:
        trainer.callbacks.append(DownstreamValidation(config.model.dwnstr_task_validation.dataset))
    exp_manager(trainer, _exp_manager_settings(cfg, checkpoint))
    if config.exp_manager.create_wandb_logger:
        wandb = wandb_logger(config.exp_manager.wandb_logger_kwargs, folder, is_continued=checkpoint is not None)
        trainer.loggers = [*trainer.loggers, wandb]
    _remove_empty_logs(folder / LOGS)
    kept = config.exp_manager.checkpoint_callback_params
    interval = None if config.trainer.limit_val_batches else config.trainer.val_check_interval
    trainer.callbacks.append(Checkpoints(checkpoints, kept.save_top_k, kept.always_save_nemo, interval))
    model = ProtT5nvModel(cfg.model, trainer)
    if config.restore_from_path is not None and not (config.do_training and checkpoint):
        _take_weights(model, config.restore_from_path)
        checkpoint = None
    exported = None
    with _interrupts_passed_on(), _errors_reported():
        if config.do_training:
            if checkpoint:
                logger.info("resuming from %s", checkpoint)
                if (step := checkpoint_step(checkpoint)) >= config.trainer.max_steps:
                    logger.info(
                        "step %d is reached already; a trainer.max_steps larger than that continues the run", step
                    )
            trainer.fit(model, ckpt_path=checkpoint)
        if config.do_testing:
            trainer.test(model, ckpt_path=None if config.do_training else checkpoint)
    if config.do_training:
        exported = folder / f"{Path(config.name).name}.nemo"
        model.save_to(exported)
        logger.info("\nmodel:  %s", exported)
    validated = last_validation(checkpoints)
    if validated:
        logger.info("validation perplexity at step %d: %.3f", *validated)
    if trainer.is_global_zero and config.exp_manager.create_tensorboard_logger and (curves := plot_curves(folder)):
        logger.info("curves: %s", curves)
    return PretrainingRun(folder, exported, validated[1] if validated else None)


def _leave_slurm_task() -> None:
    """Forget a Slurm job's only task, so that ``trainer.devices`` starts one process per device, as without Slurm.

    Lightning would train with one process, because it leaves the start of processes to Slurm. The processes inherit the
    variables, and each would take itself for the first one.
    """
    if os.environ.get("SLURM_NTASKS", "1") == "1" and os.environ.get("SLURM_PROCID", "0") == "0":
        for name in ("NTASKS", "NTASKS_PER_NODE", "PROCID", "LOCALID", "NODEID"):
            os.environ.pop(f"SLURM_{name}", None)


def _check_slurm_tasks(devices: str, nodes: int) -> None:
    """Refuse a Slurm job of several tasks that Lightning cannot use."""
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if tasks <= 1 or "TORCHELASTIC_RUN_ID" in os.environ or not SLURMEnvironment.detect():  # as in a shell of a job
        return
    remedy = "start one task for each device with --ntasks-per-node, as scripts/slurm/pretrain.sbatch does"
    if devices.isdecimal() and tasks != int(devices) * nodes:
        needed = f"trainer.devices={devices} and trainer.num_nodes={nodes} need {int(devices) * nodes}"
        raise ProtT5nvError(f"the Slurm job has {tasks} tasks, but {needed}; {remedy}")
    if "SLURM_NTASKS_PER_NODE" not in os.environ:  # which Lightning needs
        raise ProtT5nvError(f"the Slurm job has {tasks} tasks, but it does not say how many each node has; {remedy}")


def _check_surroundings(cfg: DictConfig, config: PretrainConfig) -> None:
    """Refuse what Lightning, NeMo, Weights & Biases or this machine would refuse later, and less clearly."""
    sections = {
        "trainer": {*signature(pl.Trainer.__init__).parameters, *get_type_hints(TrainerConfig)} - {"self"},
        "exp_manager": {*get_type_hints(ExpManagerConfig), *get_type_hints(ExperimentConfig)},
    }
    for section, arguments in sections.items():
        for name in cfg[section]:
            if name not in arguments:
                names = [f"{section}.{argument}" for argument in sorted(arguments)]
                raise ProtT5nvError(f"there is no setting {section}.{name}{did_you_mean(f'{section}.{name}', names)}")
    accelerator, devices, cores = config.trainer.accelerator, str(config.trainer.devices), os.cpu_count() or 1
    has_gpu = choose_hardware().device.type != "cpu"
    if accelerator in ("gpu", "cuda") and not has_gpu:
        raise ProtT5nvError(f"trainer.accelerator={accelerator}: PyTorch finds no GPU here; choose auto or cpu")
    if devices in ("0", "[]"):
        raise ProtT5nvError(f"trainer.devices={devices}: choose a number of at least 1, or auto for all devices")
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not has_gpu)
    if on_cpu and devices.isdecimal() and int(devices) > cores:
        raise ProtT5nvError(f"trainer.devices={devices}: this machine has no GPU for training and {cores} CPU cores")
    _check_slurm_tasks(devices, config.trainer.num_nodes)
    launchers = ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "NODE_RANK")
    if config.trainer.num_nodes > 1 and not any(name in os.environ for name in launchers):
        raise ProtT5nvError(
            f"trainer.num_nodes={config.trainer.num_nodes}: start the command on each node with srun or torchrun; "
            "docs/guides/clusters.md shows how"
        )
    if config.exp_manager.create_wandb_logger and is_global_rank_zero():
        check_wandb(config.exp_manager.wandb_logger_kwargs)


@contextmanager
def _interrupts_passed_on() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C before and after training, where Lightning would exit with code 1."""
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


@contextmanager
def _errors_reported() -> Iterator[None]:
    """Turn errors of Lightning about settings, and of the communication with a killed process, into one line."""
    try:
        yield
    except MisconfigurationException as error:  # what Lightning finds out when it has the data
        raise ProtT5nvError(f"trainer: {' '.join(str(error).split())}") from None
    except RuntimeError as error:  # Gloo has no type of its own.
        if "Connection" not in str(error) or "gloo" not in str(error):
            raise
        raise ProtT5nvError(
            "another process of this run has ended; the same command continues from the last checkpoint"
        ) from None


def _exp_manager_settings(cfg: DictConfig, checkpoint: Path | None) -> dict[str, Any]:
    """Return the arguments of NeMo's exp_manager.

    It writes to a subfolder, because it moves all other files in its folder to a new one whenever a run continues. The
    subfolder is the same for all parts of a run, so TensorBoard shows them as one curve.
    """
    settings = as_dict(cfg.exp_manager)
    # NeMo's checkpoint callback can leave a run that it cannot resume, so ours replaces it.
    settings["create_checkpoint_callback"] = settings["create_wandb_logger"] = False  # see `wandb_logger`
    settings |= {"version": LOGS, "resume_if_exists": True, "resume_ignore_no_checkpoint": True}
    writer: dict[str, Any] = {"default_hp_metric": False}  # which would be a curve of one meaningless value
    if checkpoint:
        # TensorBoard then drops what an interrupted run logged after this checkpoint, so the curve is continuous.
        writer["purge_step"] = checkpoint_step(checkpoint) + 1
    settings["summary_writer_kwargs"] = {**writer, **(settings.get("summary_writer_kwargs") or {})}
    return settings


def _remove_empty_logs(folder: Path) -> None:
    """Remove the files for messages of NeMo and Lightning; the first message creates its file again.

    Most runs have none of these messages, because NeMo logs errors only here, and Lightning warnings and errors.
    """
    empty = {os.path.abspath(path) for path in folder.glob("*.txt") if not path.stat().st_size}
    for name in ("nemo_logger", "lightning.pytorch"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.FileHandler) and handler.baseFilename in empty:
                handler.close()
                Path(handler.baseFilename).unlink(missing_ok=True)  # two handlers may share it


def _take_weights(model: ProtT5nvModel, path: str) -> None:
    """Let training start from the weights of a file, and log its name and what had to be adapted."""
    logger.info("starting from the weights of %s", path)
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
    settings.pop("compile")  # so does it compile its layers
    settings["precision"] = precision
    settings["val_check_interval"] = min(config.trainer.val_check_interval, config.trainer.max_steps)
    if _uses_several_processes(config):
        settings["strategy"] = MegatronStrategy()
    callbacks = [Throughput(), StopOnSignal(), *_own_callbacks(config)]
    settings["enable_progress_bar"] = config.trainer.enable_progress_bar and sys.stdout.isatty()
    callbacks.append(StepProgressBar() if settings["enable_progress_bar"] else LogLines())
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


def _own_callbacks(config: PretrainConfig) -> list[pl.Callback]:
    """Build the callbacks that the configuration adds."""
    callbacks = []
    for name, arguments in config.callbacks.items():
        try:
            callback = instantiate(arguments)
        except HydraException as error:
            raise ProtT5nvError(f"callbacks.{name}: {str(error.__cause__ or error).splitlines()[0]}") from None
        if not isinstance(callback, pl.Callback):
            raise ProtT5nvError(f"callbacks.{name}: _target_ must name a subclass of lightning.pytorch.Callback")
        callbacks.append(callback)
    return callbacks


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
    precision = PRECISIONS.get(precision, precision)
    if precision == "16-mixed" and (accelerator == "cpu" or not torch.cuda.is_available()):
        raise ProtT5nvError("trainer.precision=16-mixed needs a CUDA device; use 32 or bf16-mixed")
    if precision != "auto":
        return precision
    hardware = choose_hardware("cpu" if accelerator == "cpu" else "auto")
    chosen = {"fp32": "32", "bf16": "bf16-mixed", "fp16": "16-mixed"}[hardware.precision]
    logger.info("precision: %s: %s", chosen, hardware)
    return chosen
