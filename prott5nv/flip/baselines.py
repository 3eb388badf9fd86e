"""Baselines without a language model, trained on the same task and scored by the same metrics."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from prott5nv import __version__
from prott5nv.flip.config import HeadConfig, TrainingConfig
from prott5nv.flip.features import OneHot
from prott5nv.flip.head_base import MeanHead
from prott5nv.flip.heads import make_head
from prott5nv.flip.metrics import scores_by_length
from prott5nv.flip.targets import IGNORED
from prott5nv.flip.tasks import SETS, Task
from prott5nv.flip.train import fit, predict
from prott5nv.io.atomic import write_text

logger = logging.getLogger(__name__)

_RIDGE_PENALTIES = 10.0 ** np.arange(0, 6)
_LOGISTIC_PENALTIES = 10.0 ** np.arange(-2, 4)

Outputs = list[list[np.ndarray]]


def scored_baselines(
    task: Task, head: HeadConfig, config: TrainingConfig, seeds: Sequence[int], folder: Path
) -> dict[str, dict[str, Any]]:
    """Score each baseline on the test set, once for all runs with the same task, head, training and seeds.

    Parameters
    ----------
    task, head, config, seeds
        As for :func:`baselines`.
    folder : Path
        Folder of the cache.

    Returns
    -------
    dict of str to dict
        By the name of the baseline, what :func:`prott5nv.flip.metrics.scores_by_length` returns.
    """
    digest = hashlib.sha256(repr([__version__, task.level, task.classes, head, config, list(seeds)]).encode())
    for sequence, part, target in zip(task.sequences, task.sets, task.targets, strict=True):
        digest.update(f"\n{sequence} {part} ".encode() + target.tobytes())
    path = folder / f"baselines-{digest.hexdigest()[:32]}.json"
    if path.is_file():
        return cast(dict[str, dict[str, Any]], json.loads(path.read_text(encoding="utf-8")))
    scores = {name: scores_by_length(task, outputs) for name, outputs in baselines(task, head, config, seeds).items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(scores))
    return scores


def baselines(task: Task, head: HeadConfig, config: TrainingConfig, seeds: Sequence[int]) -> dict[str, Outputs]:
    """Train each baseline and predict the test proteins.

    Parameters
    ----------
    task : Task
    head : HeadConfig
        The head that is trained on the encoder.
    config : TrainingConfig
    seeds : sequence of int

    Returns
    -------
    dict of str to list of list of ndarray
        By the name of the baseline, the outputs for each seed; baselines that use no random numbers have one entry.
        ``constant`` predicts the most frequent class or the mean. ``one-hot`` is the same head on one-hot residues. The
        third one is a linear model: ``one-hot window`` for residues, ``one-hot ridge`` for proteins that all have the
        same length (ridge or logistic regression), and ``composition`` for other proteins (the same on the amino-acid
        composition).
    """
    outputs = {
        "constant": [_constant(task)],
        "one-hot": [_one_hot(task, head.settings(head.name), config, seed) for seed in seeds],
    }
    if task.level == "residue":
        outputs["one-hot window"] = [_one_hot(task, head.settings("window"), config, seeds[0])]
    else:
        same_length = len(set(task.lengths)) == 1
        outputs["one-hot ridge" if same_length else "composition"] = [_linear(task, pooled=not same_length)]
    return outputs


def _constant(task: Task) -> list[np.ndarray]:
    known = np.concatenate([task.targets[i] for i in task.indices("train")])
    row: np.ndarray | np.float32
    if task.label == "number":
        row = np.float32(np.nanmean(known))
    else:
        row = np.bincount(known[known != IGNORED], minlength=task.num_outputs).astype(np.float32)
    return [np.stack([row] * len(task.targets[i])) for i in task.indices("test")]


def _one_hot(task: Task, head: dict[str, Any], config: TrainingConfig, seed: int) -> list[np.ndarray]:
    logger.info("baseline: head %s on one-hot residues", head["name"])
    torch.manual_seed(seed)
    network = make_head(task.level, OneHot.width, task.num_outputs, **head)
    features = OneHot(task.sequences, pooled=isinstance(network, MeanHead))
    fit(network, features, task, config, seed)
    return predict(network, features, task, task.indices("test"), config.max_tokens)


def _linear(task: Task, *, pooled: bool) -> list[np.ndarray]:
    """Fit ridge or logistic regression with the penalty that scores best on the validation set."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = OneHot(task.sequences, pooled=pooled)
    sets = {}
    for part in SETS:
        indices = task.indices(part)
        rows = np.stack([features.batch([i])[0].numpy().ravel() for i in indices])
        sets[part] = rows, np.concatenate([task.targets[i] for i in indices])
    varying = sets["train"][0].std(0) > 0
    if not varying.any():  # sequences of equal composition: only the intercept is left
        return _constant(task)
    sets = {part: (rows[:, varying], targets) for part, (rows, targets) in sets.items()}
    best_score, best_model = -np.inf, make_pipeline()
    for penalty in _RIDGE_PENALTIES if task.label == "number" else _LOGISTIC_PENALTIES:
        linear = Ridge(penalty) if task.label == "number" else LogisticRegression(C=1 / penalty, max_iter=500)
        model = make_pipeline(StandardScaler(), linear)
        with warnings.catch_warnings():  # load_task has warned of many classes
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            model.fit(*sets["train"])
            score = model.score(*sets["val"])  # accuracy, or R2
        if score > best_score:
            best_score, best_model = score, model
    rows, _ = sets["test"]
    if task.label == "number":
        return list(best_model.predict(rows).astype(np.float32)[:, None])
    probabilities = np.zeros((len(rows), 1, task.num_outputs), dtype=np.float32)
    probabilities[:, 0, best_model.classes_] = best_model.predict_proba(rows)
    return list(probabilities)
