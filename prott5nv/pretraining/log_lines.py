"""Progress of a run in plain lines, where a progress bar would fill a log file."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from prott5nv.io.progress import duration
from prott5nv.pretraining.checkpoint_files import METRIC

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 60.0

# Metrics of a line: name in Lightning, name in the line, format.
_METRICS = (("loss", "loss", ".3f"), (METRIC, "validation perplexity", ".3f"))


class LogLines(Callback):
    """Logs step, loss and speed after the first step, then each minute, and after the last step."""

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Start the clock."""
        self._first_step = trainer.global_step
        self._start = time.monotonic()
        self._last_line = -_SECONDS_BETWEEN_LINES

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log a line if it is time."""
        now = time.monotonic()
        is_last = trainer.global_step == trainer.max_steps
        if not trainer.is_global_zero or (now - self._last_line < _SECONDS_BETWEEN_LINES and not is_last):
            return
        parts = [f"step {trainer.global_step:,}/{trainer.max_steps:,}"]
        metrics = dict(trainer.callback_metrics)
        if is_last:  # its validation comes after this line
            metrics.pop(METRIC, None)
        parts += [f"{label} {metrics[name].item():{form}}" for name, label, form in _METRICS if name in metrics]
        if "residues_per_s" in metrics:
            parts.append(f"{metrics['residues_per_s'].item():,.0f} residues/s")
        # The first step compiles and allocates, so it says nothing about the others.
        if (steps := trainer.global_step - self._first_step) > 1 and not is_last:
            parts.append(f"{duration((trainer.max_steps - trainer.global_step) * (now - self._start) / steps)} left")
        logger.info("%s", "  ".join(parts))
        self._last_line = now
