"""Checks, before anything of a checkpoint is used, that a run can resume from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import Precision
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from prott5nv.errors import ProtT5nvError
from prott5nv.pretraining.checkpoint_files import read_checkpoint
from prott5nv.pretraining.config import architecture, as_dict

#: Shapes of tensors by name. Megatron's layers have entries that are no tensors.
Shapes = Mapping[str, tuple[int, ...] | None]

# What the optimizers keep for each parameter. Muon's matrices, which have only a momentum, come first.
_MOMENTS = {
    "fused_adam": {"step", "exp_avg", "exp_avg_sq"},
    "muon": {"step", "exp_avg", "exp_avg_sq"},
    "apex_fused_adam": {"exp_avg", "exp_avg_sq"},
}
_MOMENTS_OF_MATRICES = {**_MOMENTS, "muon": {"momentum_buffer"}}
_REMEDY = "choose another name=, or delete the folder"


def check_resumable(checkpoint: Mapping[str, Any], current: Mapping[str, Any], shapes: Shapes) -> None:
    """Refuse a checkpoint of another model, data stream or optimizer.

    Parameters
    ----------
    checkpoint : mapping
        Lightning's checkpoint, as :func:`prott5nv.pretraining.checkpoint_files.read_checkpoint` returns it.
    current : mapping
        Description of this run: ``stream`` (values by their settings' names) and ``optimizer``. The checkpoint has that
        of its run as ``prott5nv``.
    shapes : mapping
        Shapes of the entries of this run's state dict, with None for those that are no tensors.

    Raises
    ------
    ProtT5nvError
        If the run cannot resume; the message gives the reason.
    """
    state_dict = _section(checkpoint, "state_dict")
    saved = _section(checkpoint, "prott5nv")
    stream = _section(saved, "stream")
    optimizer = saved.get("optimizer")
    if not isinstance(optimizer, str) or not all(type(value) in (int, str) for value in stream.values()):
        raise _unfit("prott5nv")
    different = [name for name, value in current["stream"].items() if stream.get(name) != value]
    if tensor_shapes(state_dict) != shapes:
        reason = "it is of another model"
    elif different:
        reason = f"it was trained with another {', '.join(different)}, so its position in the data does not apply"
    elif optimizer != current["optimizer"]:
        reason = f"its optimizer state is of model.optim.name={optimizer[:100]!r}"
    else:
        return
    raise ProtT5nvError(f"a run cannot resume from this checkpoint: {reason}; {_REMEDY}")


def check_training_state(
    checkpoint: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    shapes: list[tuple[int, ...]],
    precision: Precision,
) -> None:
    """Refuse a checkpoint whose training state has another form than that of this run.

    Parameters
    ----------
    checkpoint : mapping
        Lightning's checkpoint.
    optimizer : torch.optim.Optimizer
        Optimizer of this run before its first step.
    scheduler : torch.optim.lr_scheduler.LRScheduler
        Learning-rate schedule of this run before its first step.
    shapes : list of tuple of int
        Shapes of the optimized parameters, in the order of the optimizer.
    precision : lightning.pytorch.plugins.precision.Precision
        Lightning's precision plugin, which has a gradient scaler with fp16.

    Raises
    ------
    ProtT5nvError
        If the form differs, or a number is infinite or not a number.
    """
    states = checkpoint.get("optimizer_states")
    expected = {"state": dict, "param_groups": optimizer.state_dict()["param_groups"]}
    kind = checkpoint["prott5nv"]["optimizer"]
    if kind == "apex_fused_adam" and checkpoint.get("global_step"):
        for group in expected["param_groups"]:
            group["step"] = 1  # apex adds it in the first step
    check_form(states, [expected], "optimizer_states")
    assert states is not None
    for saved_group, group in zip(states[0]["param_groups"], expected["param_groups"], strict=True):
        if saved_group["params"] != group["params"]:
            raise _unfit("optimizer_states/param_groups")
    matrices = expected["param_groups"][0]["params"]
    for index, moments in states[0]["state"].items():
        name = f"optimizer_states/{index}"
        if type(index) is not int or not 0 <= index < len(shapes) or not isinstance(moments, dict):
            raise _unfit(name)
        if kind not in _MOMENTS:  # an optimizer of the user's own, whose state may have any form
            continue
        if moments.keys() != (_MOMENTS_OF_MATRICES if index in matrices else _MOMENTS)[kind]:
            raise _unfit(name)
        for key, moment in moments.items():
            if not isinstance(moment, Tensor) or tuple(moment.shape) != (() if key == "step" else shapes[index]):
                raise _unfit(f"{name}/{key}")
    check_form(checkpoint.get("lr_schedulers"), [scheduler.state_dict()], "lr_schedulers")
    scaler = type(precision).__qualname__
    if scaler in checkpoint:
        check_form(checkpoint[scaler], precision.state_dict(), scaler)
    check_form(checkpoint.get("callbacks"), dict, "callbacks")
    step, losses = checkpoint.get("global_step"), checkpoint["prott5nv"].get("recent_losses")
    check_form(losses, list, "recent_losses")
    check_form(losses, [0.0] * len(losses), "recent_losses")
    if type(step) is not int or step < 0:
        raise _unfit("global_step")


def check_form(saved: Any, expected: Any, name: str) -> None:
    """Refuse a part of a checkpoint that has other keys, lengths or types than expected.

    Parameters
    ----------
    saved : Any
        Plain data.
    expected : Any
        Plain data of the expected form, or a type in place of data of any form.
    name : str
        Name of the part in the error message.

    Raises
    ------
    ProtT5nvError
        If the form differs, or a number is infinite or not a number.
    """
    if isinstance(expected, type):
        fits = isinstance(saved, expected)
    elif isinstance(expected, Mapping):
        fits = isinstance(saved, Mapping) and saved.keys() == expected.keys()
    elif isinstance(expected, (list, tuple)):
        fits = isinstance(saved, (list, tuple)) and len(saved) == len(expected)
    elif type(expected) in (int, float):
        fits = type(saved) in (int, float) and math.isfinite(saved)
    else:
        fits = type(saved) is type(expected)
    if not fits:
        raise _unfit(name)
    if isinstance(expected, Mapping):
        for key, value in expected.items():
            check_form(saved[key], value, f"{name}/{key}")
    elif isinstance(expected, (list, tuple)):
        for index, value in enumerate(expected):
            check_form(saved[index], value, f"{name}/{index}")


def loops_at(trainer: pl.Trainer, step: int) -> dict[str, Any]:
    """Return the state of Lightning's loops after a number of steps, as its checkpoints hold it.

    Checkpoints do not hold it, because the step determines it.
    """
    names = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    loops: dict[str, Any] = {name: getattr(trainer, name).state_dict() for name in names}
    progress = loops["fit_loop"]["epoch_loop.manual_optimization.optim_step_progress"]
    progress["total"] = {"ready": step, "completed": step}
    return loops


def read_model(path: str | Path, override_config: Mapping[str, Any]) -> tuple[DictConfig, dict[str, Any]]:
    """Read the configuration and the weights of a checkpoint.

    Parameters
    ----------
    path : str or Path
        A ``.ckpt`` file.
    override_config : mapping
        Training settings that replace those of the file.

    Returns
    -------
    cfg : DictConfig
        The ``model`` section of the configuration.
    state_dict : dict of str to Tensor or None
        Whole weights by their names in the NeMo model.

    Raises
    ------
    ProtT5nvError
        If the file is not a valid checkpoint.
    """
    checkpoint = read_checkpoint(path)
    state: dict[str, Any] | None = checkpoint.get("state_dict")
    try:
        cfg = OmegaConf.merge(OmegaConf.create(checkpoint["hyper_parameters"]["cfg"]), override_config)
        config = architecture(as_dict(cast(DictConfig, cfg)))
    except (KeyError, TypeError, ValueError, AttributeError, OmegaConfBaseException) as error:
        if isinstance(error, ProtT5nvError):
            raise ProtT5nvError(f"{path}: {error}") from None
        raise ProtT5nvError(f"{path}: its configuration cannot be read") from None
    # This is compared before the model is built, which could otherwise take any amount of memory.
    sizes = (
        [] if not isinstance(state, dict) else [math.prod(shape) for shape in tensor_shapes(state).values() if shape]
    )
    if not isinstance(state, dict) or sum(sizes) != config.num_parameters:
        raise ProtT5nvError(f"{path}: its weights do not fit its configuration")
    return cast(DictConfig, cfg), state


def tensor_shapes(state_dict: Mapping[str, Any]) -> dict[str, tuple[int, ...] | None]:
    """Return the shapes of the tensors in a state dict; None for what is no tensor."""
    return {name: tuple(value.shape) if isinstance(value, Tensor) else None for name, value in state_dict.items()}


def _section(checkpoint: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = checkpoint.get(name)
    if not isinstance(section, Mapping):
        raise _unfit(name)
    return section


def _unfit(name: str) -> ProtT5nvError:
    return ProtT5nvError(f"a run cannot resume from this checkpoint: {name[:200]!r} is not as expected; {_REMEDY}")
