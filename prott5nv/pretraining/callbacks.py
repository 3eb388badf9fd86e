"""What a person sees of a run while it runs."""

from __future__ import annotations

import time

from lightning.pytorch.callbacks import Callback, TQDMProgressBar


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
    """Logs the residues that all ranks together train on in a second."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        rate = pl_module.encoder_tokens / (time.perf_counter() - self._start)
        pl_module.log("residues_per_s", rate, prog_bar=True)
