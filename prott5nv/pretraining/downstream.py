"""Downstream validation: after each validation of a pretraining run, trains a head on frozen embeddings."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from prott5nv.errors import ProtT5nvError
from prott5nv.flip.config import TrainingConfig
from prott5nv.flip.features import stored_embeddings
from prott5nv.flip.heads import make_head
from prott5nv.flip.metrics import selection_score
from prott5nv.flip.prepare import FLIP
from prott5nv.flip.tasks import Task, load_task
from prott5nv.flip.train import fit, predict
from prott5nv.pretraining.config import DownstreamDataConfig
from prott5nv.pretraining.model import ProtT5nvModel

logger = logging.getLogger(__name__)

# The heads of BioNeMo v1
HEADS: dict[str, dict[str, Any]] = {
    "residue": {"name": "convnet", "channels": 32, "kernel": 7, "dropout": 0.25},
    "protein": {"name": "mlp", "hidden_size": 256, "dropout": 0.1},
}


class DownstreamValidation(Callback):
    """Exports the weights after each validation, scores them with :func:`probe`, and logs ``TASK/METRIC``.

    The first rank does the work, while the others wait for its score.

    Parameters
    ----------
    config : DownstreamDataConfig
        The section ``model.dwnstr_task_validation.dataset`` of ``conf/model.yaml``.

    Raises
    ------
    ProtT5nvError
        If there is no such task, or its table is missing.
    """

    def __init__(self, config: DownstreamDataConfig):
        self.config = config
        self.task = _load_task(config)

    def on_validation_epoch_end(self, trainer: pl.Trainer, model: ProtT5nvModel) -> None:
        """Score the weights and log the score, or a warning if that fails."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        score = None
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.nemo"
                model.save_to(path)
                if trainer.is_global_zero:
                    score = probe(path, self.task, self.config, model.device)
        except (OSError, ProtT5nvError) as error:  # for example, the disk is full
            logger.warning("no score on %s: %s; training goes on without it", self.task.name, error)
        score = trainer.strategy.broadcast(score)
        if score is not None:
            model.log(f"{self.task.name}/{self.task.metric}", score, prog_bar=True)


def probe(path: Path, task: Task, config: DownstreamDataConfig, device: torch.device) -> float:
    """Train a head on the frozen embeddings of a model, and score it on the task's validation set.

    Parameters
    ----------
    path : Path
        A ``.nemo`` file. The embeddings are stored beside it while the head trains.
    task : Task
    config : DownstreamDataConfig
        How to train the head.
    device : torch.device

    Returns
    -------
    float
        Accuracy for classes, mean squared error for numbers.
    """
    training = TrainingConfig(
        epochs=config.num_epochs,
        patience=5,
        batch_size=config.batch_size,
        lr=config.optim.lr,
        encoder_lr=0.0,  # the encoder is frozen
        weight_decay=0.01,
        warmup=0.1,
        balanced=False,
        max_tokens=16384,
    )
    validation = task.indices("val")  # the test set stays unseen, since the score may decide which checkpoint is used
    features = stored_embeddings(
        task.ids, task.sequences, path, path.parent, pooled=task.level == "protein", device=str(device)
    )
    # Pretraining is in the middle of a validation: its random generators must not change, and gradients are off.
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        torch.manual_seed(config.random_seed)
        head = make_head(task.level, features.width, task.num_outputs, **HEADS[task.level]).to(device)
        fit(head, features, task, training, config.random_seed)
        return selection_score(task, predict(head, features, task, validation, training.max_tokens), validation)


def _load_task(config: DownstreamDataConfig) -> Task:
    name = config.task_name
    if name not in FLIP:
        raise ProtT5nvError(f"{config.path}task_name={name}: choose one of {', '.join(FLIP)}")
    if config.dataset_path is None:
        raise ProtT5nvError(f"{config.path}dataset_path is missing: name the folder that `prott5nv prepare flip` made")
    split = next(iter(FLIP[name].splits))  # the first one is that of the published scores
    path = Path(config.dataset_path) / name / f"{split}.csv"
    if not path.is_file():
        raise ProtT5nvError(
            f"{path}: no such file; make it with `prott5nv prepare flip {name} --from DIR -o {path.parents[1]}`"
        )
    task = load_task(path, name=name)
    return task if config.proteins_per_set is None else task.subset(config.proteins_per_set)
