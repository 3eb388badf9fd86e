"""What happens beside the steps of a run: progress, throughput, checkpoints, signals."""

from __future__ import annotations

import resource
import signal
import sys
import time
from pathlib import Path

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from megatron.core import parallel_state

from prott5nv.pretraining.checkpoint_files import METRIC, best_first, checkpoint_name, superseded, write_checkpoint
from prott5nv.pretraining.flops import matmul_peak, training_flops
from prott5nv.pretraining.model import NotFiniteError, ProtT5nvModel
from prott5nv.pretraining.parallel import say

CU_SEQLENS = ("enc_cu_seqlens", "dec_cu_seqlens")


class StepProgressBar(TQDMProgressBar):
    """Counts optimizer steps up to ``max_steps``: the stream of samples has no epochs to count."""

    @property
    def total_train_batches(self) -> int | float:
        return self.trainer.max_steps if self.trainer.max_steps > 0 else float("inf")

    def on_train_epoch_start(self, trainer, *_):
        self.train_progress_bar.reset(self.total_train_batches)
        self.train_progress_bar.initial = self.train_progress_bar.n = trainer.global_step
        self.train_progress_bar.set_description("Pretraining")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self._should_update(trainer.global_step, self.train_progress_bar.total):
            self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))
            self.train_progress_bar.update(trainer.global_step - self.train_progress_bar.n)

    def get_metrics(self, trainer, pl_module):
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class Throughput(Callback):
    """Logs what all ranks together train on in a second, and how well this one uses its hardware."""

    def on_train_start(self, trainer, model):
        dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(trainer.precision, torch.float32)
        self._peak = matmul_peak(model.device, dtype)

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        seconds = time.perf_counter() - self._start
        lengths = ([n for part in batch for n in part[name].diff().tolist()] for name in CU_SEQLENS)
        flops = training_flops(model.config, *lengths) / parallel_state.get_tensor_model_parallel_world_size()
        model.log("residues_per_s", model.encoder_tokens / seconds, prog_bar=True)
        model.log("share_of_matmul_peak", flops / seconds / self._peak)
        model.log("memory_gb", memory_bytes(model.device) / 1e9)


def memory_bytes(device: torch.device) -> int:
    """The most that this process has held so far: GPU memory on a GPU, resident memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's files, complete or absent; its own writer copies across file systems under the final name."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        write_checkpoint(checkpoint, path)


class Checkpoints(Callback):
    """Saves after each validation, at the end and when training has to stop.

    Parameters
    ----------
    folder : Path
    keep_best : int
        How many checkpoints of the lowest validation perplexity to keep, beside the newest two; -1 keeps all.
    export_best : bool
        Write each of these as a ``.nemo`` file too.
    """

    def __init__(self, folder: Path, keep_best: int = 3, export_best: bool = True):
        self.folder = folder
        self.keep_best = keep_best
        self.export_best = export_best
        self._saved_step: int | None = None

    def on_train_start(self, trainer, model):
        self._saved_step = trainer.global_step

    def on_validation_end(self, trainer, model):
        if trainer.state.fn == TrainerFn.FITTING:
            self._save(trainer, model, trainer.callback_metrics[METRIC].item())

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        if model.stopping:
            self._save(trainer, model)

    def on_train_end(self, trainer, model):
        if self._saved_step != trainer.global_step:
            self._save(trainer, model)

    def on_exception(self, trainer, model, exception):
        if isinstance(exception, NotFiniteError):
            # Of no other name's pattern, so never resumed from and never thinned out.
            path = self.folder / f"not-finite-{checkpoint_name(trainer.global_step)}"
            trainer.save_checkpoint(path)
            say(f"the state before that step: {path}")

    def _save(self, trainer, model: ProtT5nvModel, perplexity: float | None = None) -> None:
        path = self.folder / checkpoint_name(trainer.global_step, perplexity)
        trainer.save_checkpoint(path)
        self._saved_step = trainer.global_step
        best = best_first(self.folder) if trainer.is_global_zero else []
        is_best = path in best if self.keep_best == -1 else path in best[: self.keep_best]
        if self.export_best and trainer.strategy.broadcast(is_best):
            model.save_to(path.with_suffix(".nemo"))
        if trainer.is_global_zero:
            for old in superseded(self.folder, self.keep_best):
                old.unlink(missing_ok=True)


class StopOnSignal(Callback):
    """On SIGTERM or SIGUSR1, to any rank, all finish their step, save and exit with code 0, to be started again."""

    def on_train_start(self, trainer, model):
        def request(signum, frame):
            model.stop_requested = True

        # Lightning has set its own by now, and puts back what was there before when training ends.
        for signum in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(signum, request)

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        if model.stopping:  # by now the step before has been saved and logged
            say(f"stopped at step {trainer.global_step} on a signal; the same command goes on from there")
            raise SystemExit(0)
