"""From a composed configuration to a trained, exported model."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from nemo.utils import logging as nemo_logging
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig, OmegaConf

from prott5nv.checkpoint import warm_start_weights
from prott5nv.errors import ProtT5nvError
from prott5nv.model.config import ModelConfig
from prott5nv.model.device import choose_hardware
from prott5nv.pretraining.callbacks import (
    Checkpoints,
    StepProgressBar,
    StopOnSignal,
    Throughput,
    WholeCheckpointIO,
)
from prott5nv.pretraining.checkpoint_files import find_checkpoint
from prott5nv.pretraining.curves import plot_curves
from prott5nv.pretraining.downstream import DownstreamValidation
from prott5nv.pretraining.model import ProtT5nvModel
from prott5nv.pretraining.parallel import MegatronStrategy, say

COUNTS = (
    "model.micro_batch_size",
    "model.global_batch_size",
    "model.tensor_model_parallel_size",
    "trainer.max_steps",
    "trainer.num_nodes",
    "trainer.log_every_n_steps",
    "model.dwnstr_task_validation.dataset.num_epochs",
    "model.dwnstr_task_validation.dataset.batch_size",
    "model.dwnstr_task_validation.dataset.proteins_per_set",
)
NUMBERS = (
    "model.optim.lr",
    "model.optim.eps",
    "model.optim.weight_decay",
    "model.data.mean_span_length",
    "model.data.num_workers",
    "model.skip_loss_spikes",
    "model.dwnstr_task_validation.dataset.optim.lr",
    "trainer.gradient_clip_val",
)
OPTIONAL = ("model.skip_loss_spikes", "model.dwnstr_task_validation.dataset.proteins_per_set")


def pretrain(cfg: DictConfig) -> Path:
    """Train, test and export as the configuration says.

    Parameters
    ----------
    cfg : DictConfig
        ``conf/pretrain.yaml``, composed.

    Returns
    -------
    Path
        The ``.nemo`` file of the last weights.

    Raises
    ------
    ProtT5nvError
        If data are missing or a setting cannot be met.
    """
    check(cfg)
    nemo_logging.setLevel(nemo_logging.ERROR)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    trainer = build_trainer(cfg)
    if cfg.model.dwnstr_task_validation.enabled:
        trainer.callbacks.append(DownstreamValidation(cfg.model.dwnstr_task_validation.dataset))
    # NeMo's checkpoint callback can leave a run that it cannot resume, so ours takes its place.
    manager = {**OmegaConf.to_container(cfg.exp_manager, resolve=True), "create_checkpoint_callback": False}
    log_dir = Path(exp_manager(trainer, manager))
    saving = manager["checkpoint_callback_params"]
    folder = log_dir / "checkpoints"
    trainer.callbacks.append(Checkpoints(folder, saving["save_top_k"], saving["always_save_nemo"]))
    model = ProtT5nvModel(cfg.model, trainer)
    if cfg.restore_from_path is not None:
        with warnings.catch_warnings(record=True) as changes:  # NeMo would send them to its log
            warnings.simplefilter("always")
            model.initial_weights = warm_start_weights(cfg.restore_from_path, model.config)
        for change in changes:
            say(f"warning: {change.message}")
    if cfg.do_training:
        checkpoint = None
        if cfg.exp_manager.resume_if_exists:
            checkpoint = find_checkpoint(folder, warn=lambda message: say(f"warning: {message}", file=sys.stderr))
        if checkpoint:
            say(f"resuming from {checkpoint}")
        trainer.fit(model, ckpt_path=checkpoint)
    if cfg.do_testing:
        trainer.test(model)
    exported = log_dir / f"{cfg.name}.nemo"
    model.save_to(exported)
    if trainer.is_global_zero:
        curves = plot_curves(log_dir) if cfg.exp_manager.create_tensorboard_logger else None
        say(f"\nmodel:  {exported}" + (f"\ncurves: {curves}" if curves else ""))
    return exported


def check(cfg: DictConfig) -> None:
    """Refuse, in one sentence each, what cannot work."""
    model = cfg.model
    if model.pipeline_model_parallel_size != 1:
        raise ProtT5nvError("model.pipeline_model_parallel_size must be 1: this model gains nothing by pipelining")
    if cfg.trainer.strategy != "auto":
        raise ProtT5nvError(
            "trainer.strategy must be auto: how processes divide the work follows from trainer.devices and "
            "model.tensor_model_parallel_size, and this model is too small for sharding (FSDP) to pay"
        )
    if cfg.trainer.accumulate_grad_batches != 1:
        raise ProtT5nvError(
            "trainer.accumulate_grad_batches must be 1: model.global_batch_size is the number of proteins in a step, "
            "model.micro_batch_size how many of them fit at once"
        )
    for name in COUNTS + NUMBERS:
        value = OmegaConf.select(cfg, name)
        if value is None and name in OPTIONAL:
            continue
        try:
            sound = int(value) == value >= 1 if name in COUNTS else float(value) >= 0
        except (TypeError, ValueError):
            sound = False
        if not sound:
            raise ProtT5nvError(f"{name}={value} is not a positive {'whole number' if name in COUNTS else 'number'}")
    if model.optim.name == "muon" and model.tensor_model_parallel_size != 1:
        raise ProtT5nvError("model.optim.name=muon needs whole matrices: model.tensor_model_parallel_size must be 1")
    if model.init_method not in ("normal", "mimetic"):
        raise ProtT5nvError(f"model.init_method={model.init_method}: choose normal or mimetic")
    if model.init_method == "mimetic" and model.num_attention_heads < 3:
        raise ProtT5nvError("model.init_method=mimetic needs three attention heads: for place, sentinel, residue")
    if model.activations_checkpoint_granularity not in (None, "full"):
        raise ProtT5nvError(
            f"model.activations_checkpoint_granularity={model.activations_checkpoint_granularity}: choose null or full"
        )
    slices = model.tensor_model_parallel_size
    for name in ("num_attention_heads", "ffn_hidden_size"):
        if model[name] % slices:
            raise ProtT5nvError(f"model.tensor_model_parallel_size={slices} does not divide model.{name}={model[name]}")
    shape = OmegaConf.to_container(model, resolve=True)
    shape["masked_lm_prob"] = model.data.masked_lm_prob
    if model.data.mean_span_length < 1:
        raise ProtT5nvError(f"model.data.mean_span_length={model.data.mean_span_length}: a span has at least 1 residue")
    ModelConfig.from_dict(shape).check_pretraining(float(model.data.mean_span_length))


def build_trainer(cfg: DictConfig) -> pl.Trainer:
    """Lightning's trainer for the configuration's ``trainer`` section."""
    settings = OmegaConf.to_container(cfg.trainer, resolve=True)
    settings.pop("gradient_clip_val")  # the model clips: its gradients are complete only after all micro-batches
    settings["precision"] = precision = choose_precision(str(settings["precision"]))
    settings["val_check_interval"] = min(settings["val_check_interval"], settings["max_steps"])
    if precision == "16-mixed" and cfg.model.skip_loss_spikes is not None:
        raise ProtT5nvError(
            "model.skip_loss_spikes does not go with trainer.precision=16-mixed, whose gradient scaler skips steps by "
            "a rule of its own; choose bf16-mixed or 32"
        )
    if settings["num_nodes"] > 1 or settings["devices"] not in (1, "1", [0]):
        settings["strategy"] = MegatronStrategy()
    try:
        return pl.Trainer(
            **settings,
            plugins=[WholeCheckpointIO()],
            callbacks=[Throughput(), StopOnSignal(), *([StepProgressBar()] if settings["enable_progress_bar"] else [])],
            logger=False,  # exp_manager adds the loggers and the checkpoint callback
            enable_checkpointing=False,
            use_distributed_sampler=False,
            check_val_every_n_epoch=None,  # the stream of samples has no epochs; validate by steps
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
    except (
        TypeError,
        ValueError,
        RuntimeError,
        MisconfigurationException,
    ) as error:  # Lightning's own words for a setting it does not know
        raise ProtT5nvError(f"trainer: {error} (precision={precision})") from None


def choose_precision(precision: str) -> str:
    """The precision to train in; ``auto`` is the fastest sound one of this machine, and is announced."""
    allowed = ("auto", "32", "32-true", "bf16-mixed", "16-mixed")
    if precision not in allowed:
        raise ProtT5nvError(f"trainer.precision={precision}: choose one of {', '.join(allowed)}")
    if precision == "16-mixed" and not torch.cuda.is_available():
        raise ProtT5nvError("trainer.precision=16-mixed needs a CUDA device; use 32 or bf16-mixed")
    if precision != "auto":
        return precision
    hardware = choose_hardware()
    chosen = {"fp32": "32", "bf16": "bf16-mixed", "fp16": "16-mixed"}[hardware.precision]
    say(f"precision: {chosen}: {hardware}")
    return chosen
