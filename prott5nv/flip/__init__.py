"""FLIP, the benchmark of ProtT5nv: its data, heads on the encoder, scores with intervals, one-file predictors."""

from __future__ import annotations

from importlib.util import find_spec

from prott5nv.errors import ProtT5nvError

_EXTRA = ("hydra", "peft", "torchmetrics", "sklearn", "matplotlib")


def require_extra() -> None:
    """Say in one line what is missing for fine-tuning, before any of it is imported."""
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise ProtT5nvError(f"fine-tuning needs {', '.join(missing)}: pip install 'prott5nv[finetune]'")
