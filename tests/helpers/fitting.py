"""Trains a model in the process of the test, or in that of a rank."""

import lightning.pytorch as pl

from prott5nv.pretraining.callbacks import WholeCheckpointIO
from prott5nv.pretraining.model import ProtT5nvModel


class Losses(pl.Callback):
    """Records the loss of every step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, *_):
        self.values.append(trainer.callback_metrics["loss"].item())


def fit(cfg, ckpt_path=None, **settings):
    usual = dict(
        accelerator="cpu",
        devices=1,
        max_steps=cfg.trainer.max_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        plugins=[WholeCheckpointIO()],
    )
    trainer = pl.Trainer(**{**usual, **settings})
    model = ProtT5nvModel(cfg.model, trainer)
    trainer.fit(model, ckpt_path=ckpt_path)
    return trainer, model
