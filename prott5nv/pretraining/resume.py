"""Decides whether a run can resume from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prott5nv.checkpoint.parameter_names import parameter_shapes
from prott5nv.errors import ProtT5nvError
from prott5nv.model.config import ModelConfig


def check_resumable(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that was saved by a run with another model, data stream or optimizer.

    Parameters
    ----------
    saved, current : mapping
        Descriptions of the run that saved the checkpoint and of this run: ``config`` (as in NeMo's
        ``model_config.yaml``), ``stream`` (values by their settings' names) and ``optimizer``.

    Raises
    ------
    ProtT5nvError
        If the run cannot resume; the message gives the reason.
    """
    shapes, current_shapes = (
        dict(parameter_shapes(ModelConfig.from_nemo(description["config"]))) for description in (saved, current)
    )
    different = [name for name, value in current["stream"].items() if saved["stream"][name] != value]
    if shapes != current_shapes:
        reason = "it is of another model"
    elif different:
        reason = f"it was trained with another {', '.join(different)}, so its position in the data does not apply"
    elif saved.get("optimizer", current["optimizer"]) != current["optimizer"]:
        reason = f"its optimizer state is of model.optim.name={saved['optimizer']}"
    else:
        return
    raise ProtT5nvError(
        f"cannot resume from the checkpoint in the experiment's folder: {reason}; choose another name=, or delete the "
        "folder"
    )
