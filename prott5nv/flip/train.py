"""Training of a head, alone or together with the encoder, and prediction with it.

Shapes: T rows of features, R rows of output, K classes (or 1 for a number).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prott5nv.embedding.batching import batches_of
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.config import TrainingConfig
from prott5nv.flip.features import Features
from prott5nv.flip.head_base import Head
from prott5nv.flip.metrics import selection_metric, selection_score
from prott5nv.flip.targets import IGNORED
from prott5nv.flip.tasks import Task
from prott5nv.io.progress import Progress
from prott5nv.io.text import counted
from prott5nv.model.finite import check_finite

logger = logging.getLogger(__name__)

_PROTEINS_FOR_STATISTICS = 2000
_IDS_SHOWN = 3


def fit(head: Head, features: Features, task: Task, config: TrainingConfig, seed: int) -> list[dict[str, float]]:
    """Train until the validation score stops improving, and keep the weights of the best epoch.

    The best epoch is logged at level ``INFO``, and so is each epoch when the encoder is trained. When only the head is
    trained, which takes seconds, its epochs are logged at level ``DEBUG``.

    Parameters
    ----------
    head : Head
        Initialized by the caller; trained in place.
    features : Features
        Input of the head. If it is a module, its parameters that require gradients are trained as well.
    task : Task
    config : TrainingConfig
    seed : int
        Seed of the order of the proteins and of dropout.

    Returns
    -------
    list of dict
        ``epoch``, ``loss`` on the training set, and the validation score under the name of its metric.

    Raises
    ------
    ProtT5nvError
        If the loss or a prediction is NaN or infinite.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    groups: list[dict[str, Any]] = [{"params": list(head.parameters()), "lr": config.lr}]
    trained = nn.ModuleList([head])
    if isinstance(features, nn.Module):
        groups.append({"params": [p for p in features.parameters() if p.requires_grad], "lr": config.encoder_lr})
        trained.append(features)
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    train, val = task.indices("train"), task.indices("val")
    steps_per_epoch = config.steps_per_epoch(len(train))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, _warmup_then_decay(config.epochs * steps_per_epoch, config.warmup)
    )
    _standardize(head, features, task, rng.permutation(train)[:_PROTEINS_FOR_STATISTICS], config.max_tokens)
    weights_K = _class_weights(task, train) if config.balanced and task.label == "class" else None

    metric = selection_metric(task, config.balanced)
    history: list[dict[str, float]] = []
    best: dict[str, float] = {}
    best_state: dict[str, Tensor] = {}
    epochs_waited = 0
    head_alone = len(trained) == 1  # trains in seconds, unless there are many proteins
    advice = "" if head_alone else "mode=frozen is faster"
    progress = Progress(config.epochs * len(train), "proteins", advice=advice, only_long=head_alone)
    for epoch in range(1, config.epochs + 1):
        trained.train()
        loss = 0.0
        for batch in np.split(rng.permutation(train), range(config.batch_size, len(train), config.batch_size)):
            batch_loss = _accumulate_gradients(head, features, task, batch, weights_K, config.max_tokens)
            progress.update(len(batch))
            if batch_loss is None:
                continue
            loss += batch_loss
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        score = selection_score(task, predict(head, features, task, val, config.max_tokens), val, config.balanced)
        if not np.isfinite(score):
            raise ProtT5nvError(f"seed {seed}, epoch {epoch}: the validation score is {score}; lower task.training.lr")
        history.append({"epoch": epoch, "loss": loss / steps_per_epoch, metric: score})
        level = logging.DEBUG if head_alone else logging.INFO
        logger.log(level, "seed %d, epoch %d, loss %.4f, %s %.4f", seed, epoch, loss / steps_per_epoch, metric, score)
        if not best or (score > best[metric] if task.label == "class" else score < best[metric]):
            best, epochs_waited = history[-1], 0
            best_state = {name: value.clone() for name, value in trained.state_dict().items()}
        else:
            epochs_waited += 1
            if epochs_waited >= config.patience:
                break
    progress.close()
    logger.info(
        "seed %d: %s, the best is epoch %d: validation %s %.4f",
        seed,
        counted(len(history), "epoch"),
        best["epoch"],
        metric,
        best[metric],
    )
    trained.load_state_dict(best_state)
    return history


@torch.no_grad()
def predict(
    head: Head, features: Features, task: Task, indices: Sequence[int] | np.ndarray, max_tokens: int
) -> list[np.ndarray]:
    """Predict the targets of some proteins of a task.

    Parameters
    ----------
    head : Head
    features : Features
        Input of the head.
    task : Task
    indices : sequence of int
        Indices of the proteins.
    max_tokens : int
        Residues per micro-batch.

    Returns
    -------
    list of ndarray, shape=(R, K) or (R,), dtype=float32
        Probabilities of the classes, or numbers, of each protein.

    Raises
    ------
    ProtT5nvError
        If a prediction is NaN or infinite.
    """
    head.eval()
    if isinstance(features, nn.Module):
        features.eval()
    outputs: dict[int, np.ndarray] = {}
    by_length = sorted(indices, key=lambda i: -task.lengths[i])  # proteins of similar length share a micro-batch
    for micro_batch in batches_of(by_length, task.lengths.__getitem__, max_tokens):
        scores_RK, lengths = _scores(head, features, micro_batch)
        outputs_R = (scores_RK.softmax(-1) if task.label == "class" else scores_RK[:, 0]).cpu()
        for i, rows in zip(micro_batch, outputs_R.split(lengths if head.per_residue else 1), strict=True):
            check_finite(rows.numpy(), task.ids[i], "fp32")
            outputs[i] = rows.numpy()
    return [outputs[i] for i in indices]


def _scores(head: Head, features: Features, indices: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Return the output of the head, and the number of rows of features of each protein."""
    rows_TD, lengths = features.batch(indices)
    return head(rows_TD.to(head.feature_mean.device), lengths), lengths


def _accumulate_gradients(
    head: Head, features: Features, task: Task, batch: np.ndarray, weights_K: Tensor | None, max_tokens: int
) -> float | None:
    """Run the backward pass of a batch and return its mean loss; None if none of its targets is scored."""
    num_targets = sum(int(task.scored(i).sum()) for i in batch)
    if not num_targets:
        return None
    total = 0.0
    for micro_batch in batches_of(batch, task.lengths.__getitem__, max_tokens):
        loss = _summed_loss(head, features, task, micro_batch, weights_K) / num_targets
        if not loss.isfinite():
            raise ProtT5nvError(
                f"the training loss of {_names(task, micro_batch)} is {loss.item()}; lower the learning rate, "
                "task.training.lr, or in the modes lora and full task.training.encoder_lr"
            )
        loss.backward()
        total += loss.item()
    return total


def _names(task: Task, indices: Sequence[int]) -> str:
    """Return the ids of the first proteins of a micro-batch."""
    shown = ", ".join(task.ids[i] for i in indices[:_IDS_SHOWN])
    return shown if len(indices) <= _IDS_SHOWN else f"{shown} and {len(indices) - _IDS_SHOWN} more proteins"


def _summed_loss(
    head: Head, features: Features, task: Task, indices: Sequence[int], weights_K: Tensor | None
) -> Tensor:
    scores_RK, _ = _scores(head, features, indices)
    targets_R = torch.from_numpy(np.concatenate([task.targets[i] for i in indices])).to(scores_RK.device)
    if task.label == "class":
        return F.cross_entropy(scores_RK, targets_R, weights_K, ignore_index=IGNORED, reduction="sum")
    scored_R = ~targets_R.isnan()
    # Dividing by the spread of the training targets lets one learning rate suit melting points and fitness alike.
    errors = (scores_RK[:, 0] - targets_R)[scored_R] / head.target_std
    return errors.square().sum()


def _standardize(head: Head, features: Features, task: Task, sample: np.ndarray, max_tokens: int) -> None:
    """Set the head's feature statistics from a sample of training proteins, and its target statistics from all."""
    with torch.no_grad():
        rows = [head.pool(*features.batch(batch)) for batch in batches_of(sample, task.lengths.__getitem__, max_tokens)]
    head.standardize(torch.cat(rows))
    if task.label == "number":
        targets = np.concatenate([task.targets[i] for i in task.indices("train")])
        head.target_mean.fill_(float(np.nanmean(targets)))
        head.target_std.fill_(float(np.nanstd(targets)) or 1.0)


def _class_weights(task: Task, train: np.ndarray) -> Tensor:
    """Return inverse class frequencies whose mean over the targets is 1: Tensor, shape=(K,)."""
    targets = np.concatenate([task.targets[i] for i in train])
    counts_K = np.bincount(targets[targets != IGNORED], minlength=task.num_outputs)
    return torch.from_numpy(counts_K.sum() / np.maximum(counts_K, 1) / len(counts_K)).float()


def _warmup_then_decay(steps: int, warmup: float) -> Callable[[int], float]:
    warmup_steps = max(1, int(warmup * steps))
    return lambda step: min((step + 1) / warmup_steps, max(0.0, (steps - step) / max(1, steps - warmup_steps)))
