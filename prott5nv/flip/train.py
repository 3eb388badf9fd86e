"""Training of a head, alone or with the encoder, and its predictions.

Shapes: B proteins of a batch, T rows of features, R rows of output, K outputs, D columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prott5nv.embedding.batching import batches_of
from prott5nv.flip.features import Features
from prott5nv.flip.heads import Head
from prott5nv.flip.metrics import selection_score
from prott5nv.flip.tasks import IGNORED, Task

_PROTEINS_FOR_STATISTICS = 2000


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes
    ----------
    epochs : int
        At most.
    patience : int
        Epochs without a better validation score after which to stop.
    batch_size : int
        Proteins in a step.
    lr, encoder_lr, weight_decay : float
        Of AdamW, for the head and for what is trained of the encoder.
    warmup : float
        Fraction of the steps in which the learning rate rises; from there it falls to zero in a line.
    balanced : bool
        Whether rare classes weigh as much as frequent ones.
    max_tokens : int
        Residues to compute at once; a larger batch is cut and its gradients are added.
    """

    epochs: int = 20
    patience: int = 5
    batch_size: int = 64
    lr: float = 1e-3
    encoder_lr: float = 1e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    balanced: bool = False
    max_tokens: int = 16384


def fit(
    head: Head,
    features: Features,
    task: Task,
    settings: Settings,
    seed: int,
    on_epoch: Callable[[dict], None] = lambda epoch: None,
) -> list[dict]:
    """Train until the validation score stops improving; the best weights are left in place.

    Parameters
    ----------
    head : Head
    features : Features
        Trained, too, if it is a module with parameters that require gradients.
    task : Task
    settings : Settings
    seed : int
        Of the order of proteins and of dropout; the head was drawn before.
    on_epoch : callable, optional
        Called with each entry of the history.

    Returns
    -------
    list of dict
        Epoch, training loss and validation score of each epoch.
    """
    torch.manual_seed(seed)
    order = np.random.default_rng(seed)
    encoder = [features] if isinstance(features, nn.Module) else []
    groups = [{"params": list(head.parameters()), "lr": settings.lr}]
    groups += [
        {"params": [p for p in module.parameters() if p.requires_grad], "lr": settings.encoder_lr} for module in encoder
    ]
    trained = nn.ModuleList([head, *encoder])
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    train, val = task.indices("train"), task.indices("val")
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_up_and_fall(steps, settings.warmup))
    _standardise(head, features, task, train, order)
    weights_K = _class_weights(task, train) if settings.balanced and task.label == "class" else None

    history, best, best_state, waited = [], None, None, 0
    for epoch in range(1, settings.epochs + 1):
        trained.train()
        total = 0.0
        shuffled = order.permutation(train)
        for start in range(0, len(shuffled), settings.batch_size):
            batch = shuffled[start : start + settings.batch_size]
            targets = sum(int(task.scored(i).sum()) for i in batch)
            if not targets:
                continue
            for piece in batches_of(batch, task.lengths.__getitem__, settings.max_tokens):
                loss = _loss(head, features, task, piece, weights_K) / targets
                loss.backward()
                total += loss.item()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        score = selection_score(task, predict(head, features, task, val, settings.max_tokens), val)
        history.append({"epoch": epoch, "loss": total / -(-len(train) // settings.batch_size), task.metric: score})
        on_epoch(history[-1])
        improvement = score if task.label == "class" else -score
        if best is None or improvement > best:
            best, waited = improvement, 0
            best_state = {name: value.clone() for name, value in trained.state_dict().items()}
        else:
            waited += 1
            if waited >= settings.patience:
                break
    trained.load_state_dict(best_state)
    return history


@torch.no_grad()
def predict(
    head: Head, features: Features, task: Task, indices: Sequence[int], max_tokens: int = 16384
) -> list[np.ndarray]:
    """Probabilities of the classes, or numbers, for some proteins.

    Returns
    -------
    list of ndarray, shape=(R, K) or (R,), dtype=float32
    """
    head.eval()
    if isinstance(features, nn.Module):
        features.eval()
    found: dict[int, np.ndarray] = {}
    by_length = sorted(indices, key=lambda i: -task.lengths[i])  # runs of one length are computed together
    for piece in batches_of(by_length, task.lengths.__getitem__, max_tokens):
        scores_RK, lengths = _scores(head, features, piece)
        outputs = (scores_RK.softmax(-1) if task.label == "class" else scores_RK[:, 0]).cpu()
        for i, rows in zip(piece, outputs.split(lengths if head.per_residue else 1), strict=True):
            found[i] = rows.numpy()
    return [found[i] for i in indices]


def _scores(head: Head, features: Features, indices: Sequence[int]) -> tuple[Tensor, list[int]]:
    rows_TD, lengths = features.batch(indices)
    return head(rows_TD.to(head.feature_mean.device), lengths), lengths


def _loss(head: Head, features: Features, task: Task, indices: Sequence[int], weights_K: Tensor | None) -> Tensor:
    """Summed over targets."""
    scores_RK, _ = _scores(head, features, indices)
    targets_R = torch.from_numpy(np.concatenate([task.targets[i] for i in indices])).to(scores_RK.device)
    if task.label == "class":
        return F.cross_entropy(scores_RK, targets_R, weights_K, ignore_index=IGNORED, reduction="sum")
    scored_R = ~targets_R.isnan()
    # In units of the training targets' spread, so that one learning rate suits melting points and fitness alike.
    errors = (scores_RK[:, 0] - targets_R)[scored_R] / head.target_std
    return errors.square().sum()


def _standardise(head: Head, features: Features, task: Task, train: np.ndarray, order: np.random.Generator) -> None:
    """Give the head mean and spread of its features, and of targets that are numbers, on training proteins."""
    drawn = order.permutation(train)[:_PROTEINS_FOR_STATISTICS]
    with torch.no_grad():
        rows = [head.pool(*features.batch(piece)) for piece in batches_of(drawn, task.lengths.__getitem__, 16384)]
    head.standardise(torch.cat(rows))
    if task.label == "number":
        targets = np.concatenate([task.targets[i] for i in train])
        head.target_mean.fill_(float(np.nanmean(targets)))
        head.target_std.fill_(float(np.nanstd(targets)) or 1.0)


def _class_weights(task: Task, train: np.ndarray) -> Tensor:
    """Inverse frequencies, 1 on average over targets: Tensor, shape=(K,)."""
    targets = np.concatenate([task.targets[i] for i in train])
    counts_K = np.bincount(targets[targets != IGNORED], minlength=task.num_outputs)
    return torch.from_numpy(counts_K.sum() / np.maximum(counts_K, 1) / len(counts_K)).float()


def _warm_up_and_fall(steps: int, warmup: float) -> Callable[[int], float]:
    rising = max(1, int(warmup * steps))
    return lambda step: min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))
