"""Downstream validation: how much a head on frozen embeddings learns, after each validation of a pretraining run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from omegaconf import DictConfig

from prott5nv.errors import ProtT5nvError
from prott5nv.flip.features import stored_embeddings
from prott5nv.flip.heads import make_head
from prott5nv.flip.metrics import selection_score
from prott5nv.flip.prepare import FLIP
from prott5nv.flip.tasks import Task, load_task
from prott5nv.flip.train import Settings, fit, predict

HEADS = {"residue": "convnet", "protein": "mlp"}  # upstream's


class DownstreamValidation(Callback):
    """Exports the weights after each validation, and logs what :func:`probe` makes of them as ``TASK/METRIC``.

    The first rank does the work while the others wait for its score.

    Parameters
    ----------
    dataset : DictConfig
        The section ``model.dwnstr_task_validation.dataset`` of ``conf/model.yaml``.

    Raises
    ------
    ProtT5nvError
        If there is no such task, or its table is not there.
    """

    def __init__(self, dataset: DictConfig):
        self.dataset = dataset
        self.task = _load(dataset)

    def on_validation_epoch_end(self, trainer, model):
        if trainer.state.fn != TrainerFn.FITTING:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.nemo"
            model.save_to(path)
            score = probe(path, self.task, self.dataset, model.device) if trainer.is_global_zero else None
        score = trainer.strategy.broadcast(score)
        model.log(f"{self.task.name}/{self.task.metric}", score, prog_bar=True)


def probe(path: Path, task: Task, dataset: DictConfig, device: torch.device) -> float:
    """Score on a task's test set of a head that was trained on frozen embeddings.

    Parameters
    ----------
    path : Path
        A ``.nemo`` file; embeddings are kept beside it while the head trains.
    task : Task
    dataset : DictConfig
        ``num_epochs``, ``batch_size``, ``optim.lr`` and ``random_seed``.
    device : torch.device

    Returns
    -------
    float
        Accuracy, or mean squared error where numbers are predicted.
    """
    settings = Settings(epochs=dataset.num_epochs, batch_size=dataset.batch_size, lr=dataset.optim.lr)
    test = task.indices("test")
    features = stored_embeddings(task.sequences, path, path.parent, pooled=task.level == "protein", device=str(device))
    # The run that is interrupted here may use PyTorch's generators, and computes no gradients at the moment.
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        torch.manual_seed(dataset.random_seed)
        head = make_head(task.level, features.width, task.num_outputs, HEADS[task.level]).to(device)
        fit(head, features, task, settings, dataset.random_seed)
        return selection_score(task, predict(head, features, task, test), test)


def _load(dataset: DictConfig) -> Task:
    setting = "model.dwnstr_task_validation.dataset"
    name = dataset.task_name
    if name not in FLIP:
        raise ProtT5nvError(f"{setting}.task_name={name}: choose one of {', '.join(FLIP)}")
    if dataset.dataset_path is None:
        raise ProtT5nvError(f"{setting}.dataset_path is missing: the folder that `prott5nv prepare flip` wrote")
    split = next(iter(FLIP[name].splits))  # the one that published figures are of
    path = Path(dataset.dataset_path) / name / f"{split}.csv"
    if not path.is_file():
        raise ProtT5nvError(
            f"{path}: no such file; `prott5nv prepare flip {name} --from DIR -o {path.parents[1]}` makes it"
        )
    task = load_task(path, name=name)
    return task if dataset.proteins_per_set is None else task.subset(dataset.proteins_per_set)
