"""Lightning callbacks of a run: progress bar, throughput, checkpoints, stopping on a signal."""

from __future__ import annotations

import logging
import resource
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from megatron.core import parallel_state

from prott5nv.data.micro_batch import MicroBatch
from prott5nv.errors import ProtT5nvError
from prott5nv.pretraining.checkpoint_files import (
    METRIC,
    NotWrittenError,
    best_first,
    checkpoint_name,
    read_checkpoint,
    superseded,
    write_checkpoint,
)
from prott5nv.pretraining.flops import matmul_peak, training_flops
from prott5nv.pretraining.model import NotFiniteError, ProtT5nvModel

logger = logging.getLogger(__name__)

#: Metrics in the progress bar.
SHOWN = ("loss", "residues_per_s", METRIC)

_INTERRUPTED = 130  # exit code of a program that Ctrl-C ended

MicroBatches = list[MicroBatch]


class StepProgressBar(TQDMProgressBar):
    """Progress bar that counts optimizer steps up to ``max_steps``, because Lightning sees one endless epoch."""

    @property
    def total_train_batches(self) -> int | float:
        """Number of steps of the whole run."""
        return self.trainer.max_steps if self.trainer.max_steps > 0 else float("inf")

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start at the step from which the run resumes."""
        if trainer.strategy.root_device.type == "cuda":  # showing the metrics makes the host wait for the GPU
            self._refresh_rate = trainer.log_every_n_steps
        self.train_progress_bar.reset(self.total_train_batches)
        self.train_progress_bar.initial = self.train_progress_bar.n = trainer.global_step
        self.train_progress_bar.set_description("Pretraining")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: ProtT5nvModel, outputs: Any, batch: MicroBatches, batch_idx: int
    ) -> None:
        """Show the step and its metrics."""
        if self._should_update(trainer.global_step, self.train_progress_bar.total):
            self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))
            self.train_progress_bar.update(trainer.global_step - self.train_progress_bar.n)

    def get_metrics(self, trainer: pl.Trainer, pl_module: ProtT5nvModel) -> dict[str, Any]:
        """Return the metrics to show, without the version number of the logger."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        shown = {name: trainer.callback_metrics[name].item() for name in SHOWN if name in trainer.callback_metrics}
        return {**shown, **metrics}


class Throughput(Callback):
    """Logs residues per second over all ranks, this rank's fraction of the matmul peak and of filler, and its memory.

    On a GPU, the rates are means over the steps between two readings of the metrics.
    """

    _began: float | None = None

    def on_train_start(self, trainer: pl.Trainer, model: ProtT5nvModel) -> None:
        """Measure the matmul rate of this machine."""
        dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(trainer.precision, torch.float32)
        self._peak = matmul_peak(model.device, dtype)
        self._restart()

    def on_train_batch_start(
        self, trainer: pl.Trainer, model: ProtT5nvModel, batch: MicroBatches, batch_idx: int
    ) -> None:
        """Start the clock."""
        if self._began is None:
            self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: ProtT5nvModel, outputs: Any, batch: MicroBatches, batch_idx: int
    ) -> None:
        """Log the rates of the steps since the last reading."""
        lengths_B2 = np.concatenate([part["lengths"] for part in batch] or [np.zeros((0, 2), dtype=np.int64)])
        self._residues += model.encoder_tokens
        self._flops += training_flops(model.config, *lengths_B2.T.tolist())
        self._own_tokens += int(lengths_B2.sum())
        self._computed_tokens += sum(len(part["enc_tokens"]) + len(part["dec_tokens"]) for part in batch)
        if not model.reads_device or self._began is None:
            return
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        seconds = time.perf_counter() - self._began
        flops = self._flops / parallel_state.get_tensor_model_parallel_world_size()
        model.log("residues_per_s", self._residues / seconds)
        model.log("fraction_of_matmul_peak", flops / seconds / self._peak)
        model.log("fraction_of_filler", 1 - self._own_tokens / max(1, self._computed_tokens))
        model.log("memory_gb", peak_memory_bytes(model.device) / 1e9)
        self._restart()

    def on_validation_start(self, trainer: pl.Trainer, model: ProtT5nvModel) -> None:
        """Leave the validation out of the rates."""
        self._restart()

    def on_save_checkpoint(self, trainer: pl.Trainer, model: ProtT5nvModel, checkpoint: dict[str, Any]) -> None:
        """Leave the writing of a checkpoint out of the rates."""
        self._restart()

    def _restart(self) -> None:
        self._began = None
        self._residues = self._flops = 0.0
        self._own_tokens = self._computed_tokens = 0


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that this process has held: GPU memory on a GPU, resident memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes Lightning's checkpoints atomically, and reads them without running code of the file.

    Lightning's own writer can leave an incomplete file, and its reader runs code from the file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint, or log a warning if the disk does not take it, since the run can go on without it."""
        try:
            write_checkpoint(checkpoint, path)
        except NotWrittenError as error:
            logger.warning("%s", error)

    def load_checkpoint(self, path: str | Path, map_location: Any = None) -> dict[str, Any]:
        """Read a checkpoint; see :func:`~prott5nv.pretraining.checkpoint_files.read_checkpoint`."""
        # Lightning reads this entry before anything is checked.
        return {**read_checkpoint(path), "pytorch-lightning_version": pl.__version__}


class Checkpoints(Callback):
    """Saves a checkpoint after each validation, at the end, and when training has to stop.

    Parameters
    ----------
    folder : Path
    keep_best : int, default 3
        Number of checkpoints with the lowest validation perplexity to keep beside the newest two; -1 keeps all.
    export_best : bool, default True
        Whether to write a ``.nemo`` file beside each of them.
    interval : int, optional
        Number of steps after which a run without validation saves a checkpoint.
    """

    def __init__(self, folder: Path, keep_best: int = 3, export_best: bool = True, interval: int | None = None):
        self.folder = folder
        self.keep_best = keep_best
        self.export_best = export_best
        self.interval = interval
        self._saved_step: int | None = None

    def on_train_start(self, trainer: pl.Trainer, model: ProtT5nvModel) -> None:
        """Remember the step of the checkpoint that the run resumes from, so that it is not saved again."""
        self._saved_step = trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, model: ProtT5nvModel) -> None:
        """Save with the validation perplexity in the file name."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._save(trainer, model, trainer.callback_metrics[METRIC].item())

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: ProtT5nvModel, outputs: Any, batch: MicroBatches, batch_idx: int
    ) -> None:
        """Save if a signal stops the run after this step, or if it is the turn of a run without validation."""
        # After the last step, the validation or the end of training saves.
        stops_early = model.stopping and trainer.global_step != trainer.max_steps
        if stops_early or (self.interval and trainer.global_step % self.interval == 0):
            self._save(trainer, model)

    def on_train_end(self, trainer: pl.Trainer, model: ProtT5nvModel) -> None:
        """Save the last step."""
        if self._saved_step != trainer.global_step:
            self._save(trainer, model)

    def on_exception(self, trainer: pl.Trainer, model: ProtT5nvModel, exception: BaseException) -> None:
        """Save the state before a loss that is NaN or infinite, so that the user can examine it."""
        if isinstance(exception, NotFiniteError):
            # This name does not match the pattern of checkpoints, so the file is neither resumed from nor deleted.
            path = self.folder / f"not-finite-{checkpoint_name(exception.step)}"
            trainer.save_checkpoint(path)
            logger.info("the state before that step: %s", path)

    def _save(self, trainer: pl.Trainer, model: ProtT5nvModel, perplexity: float | None = None) -> None:
        path = self.folder / checkpoint_name(trainer.global_step, perplexity)
        trainer.save_checkpoint(path)
        if not trainer.strategy.broadcast(path.exists()):
            if model.stopping:
                raise ProtT5nvError(f"{path}: not written; the same command continues from the checkpoint before it")
            return
        self._saved_step = trainer.global_step
        best = best_first(self.folder) if trainer.is_global_zero else []
        is_best = path in best if self.keep_best == -1 else path in best[: self.keep_best]
        if self.export_best and trainer.strategy.broadcast(is_best):
            _export(model, path.with_suffix(".nemo"))
        if trainer.is_global_zero:
            for old in superseded(self.folder, self.keep_best, trainer.global_step):
                old.unlink(missing_ok=True)


def _export(model: ProtT5nvModel, path: Path) -> None:
    """Write a ``.nemo`` file, or log a warning if that fails, since the run can go on without it."""
    try:
        model.save_to(path)
    except ProtT5nvError as error:  # only the first rank writes
        logger.warning("%s; training goes on without this file", error)


class StopOnSignal(Callback):
    """On SIGTERM, SIGUSR1 or Ctrl-C to any rank, lets all ranks finish their step, save and exit.

    The exit code is 0, or 130 after Ctrl-C. The same command then continues the run. A second Ctrl-C exits at once.
    """

    _exit_code = 0

    def on_train_start(self, trainer: pl.Trainer, model: ProtT5nvModel) -> None:
        """Install the signal handlers."""

        def request(signum: int, frame: FrameType | None) -> None:
            if signum == signal.SIGINT:
                if model.stop_requested:
                    logger.info("stopped without saving; the same command continues from the last checkpoint")
                    raise SystemExit(_INTERRUPTED)
                self._exit_code = _INTERRUPTED
                logger.info("finishing this step and saving; press Ctrl-C again to stop without saving")
            model.stop_requested = True

        # By now Lightning has installed its own handlers. It restores those from before training at the end.
        for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(signum, request)

    def on_train_batch_start(
        self, trainer: pl.Trainer, model: ProtT5nvModel, batch: MicroBatches, batch_idx: int
    ) -> None:
        """Exit, once the previous step has been saved and logged."""
        if model.stopping:
            logger.info("stopped at step %d on a signal; the same command continues from there", trainer.global_step)
            raise SystemExit(self._exit_code)
