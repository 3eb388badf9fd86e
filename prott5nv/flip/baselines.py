"""What a result is worth: the same task without a language model, through the same training and the same metrics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from prott5nv import __version__
from prott5nv.flip.features import OneHot
from prott5nv.flip.heads import POOLED, make_head
from prott5nv.flip.metrics import scores_by_length
from prott5nv.flip.tasks import IGNORED, Task
from prott5nv.flip.train import Settings, fit, predict
from prott5nv.io.atomic import whole_file

_RIDGE_PENALTIES = 10.0 ** np.arange(0, 6)
_CLASS_PENALTIES = 10.0 ** np.arange(-2, 4)

Outputs = list[list[np.ndarray]]


def scored_baselines(task: Task, head: dict, settings: Settings, seeds: Sequence[int], folder: Path) -> dict[str, dict]:
    """Test scores of each baseline, computed once for all runs of the same task, head, settings and seeds.

    Parameters
    ----------
    task, head, settings, seeds
        As for :func:`baselines`.
    folder : Path
        Of the cache.

    Returns
    -------
    dict of str to dict
        What :func:`prott5nv.flip.metrics.scores_by_length` returned, by the name of the baseline.
    """
    digest = hashlib.sha256(repr([__version__, task.level, task.classes, head, settings, list(seeds)]).encode())
    for sequence, part, target in zip(task.sequences, task.sets, task.targets, strict=True):
        digest.update(f"\n{sequence} {part} ".encode() + target.tobytes())
    path = folder / f"baselines-{digest.hexdigest()[:32]}.json"
    if path.is_file():
        return json.loads(path.read_text())
    scores = {name: scores_by_length(task, found) for name, found in baselines(task, head, settings, seeds).items()}
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(scores))
    return scores


def baselines(task: Task, head: dict, settings: Settings, seeds: Sequence[int]) -> dict[str, Outputs]:
    """Outputs of each baseline for the test proteins, by seed; those that need no seed have one entry.

    Parameters
    ----------
    task : Task
    head : dict
        ``name`` and settings of the head that stands on the encoder.
    settings : Settings
    seeds : sequence of int

    Returns
    -------
    dict of str to list of list of ndarray
        ``constant``: the most frequent class, or the mean. ``one-hot``: the same head on one-hot residues. And a
        linear model: ``one-hot window`` for residues, ``one-hot ridge`` for proteins of one length, else
        ``composition``.
    """
    found = {"constant": [_constant(task)], "one-hot": [_one_hot(task, head, settings, seed) for seed in seeds]}
    if task.level == "residue":
        found["one-hot window"] = [_one_hot(task, {"name": "window"}, settings, seed) for seed in seeds[:1]]
    else:
        one_length = len(set(task.lengths)) == 1
        found["one-hot ridge" if one_length else "composition"] = [_linear(task, flat=one_length)]
    return found


def _constant(task: Task) -> list[np.ndarray]:
    known = np.concatenate([task.targets[i] for i in task.indices("train")])
    if task.label == "number":
        row = np.float32(np.nanmean(known))
    else:
        row = np.bincount(known[known != IGNORED], minlength=task.num_outputs).astype(np.float32)
    return [np.stack([row] * len(task.targets[i])) for i in task.indices("test")]


def _one_hot(task: Task, head: dict, settings: Settings, seed: int) -> list[np.ndarray]:
    torch.manual_seed(seed)
    network = make_head(task.level, OneHot.width, task.num_outputs, **head)
    features = OneHot(task.sequences, pooled=isinstance(network, POOLED))
    fit(network, features, task, settings, seed)
    return predict(network, features, task, task.indices("test"))


def _linear(task: Task, *, flat: bool) -> list[np.ndarray]:
    """Ridge regression, or logistic for classes, with the penalty that does best on the validation set."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = OneHot(task.sequences, pooled=not flat)
    sets = {}
    for part in ("train", "val", "test"):
        indices = task.indices(part)
        rows = np.stack([features.batch([i])[0].numpy().ravel() for i in indices])
        sets[part] = rows, np.concatenate([task.targets[i] for i in indices])
    varying = sets["train"][0].std(0) > 0
    sets = {part: (rows[:, varying], targets) for part, (rows, targets) in sets.items()}
    best = None
    for penalty in _RIDGE_PENALTIES if task.label == "number" else _CLASS_PENALTIES:
        linear = Ridge(penalty) if task.label == "number" else LogisticRegression(C=1 / penalty, max_iter=500)
        model = make_pipeline(StandardScaler(), linear)
        model.fit(*sets["train"])
        score = model.score(*sets["val"])  # accuracy, or R2
        if best is None or score > best[0]:
            best = score, model
    rows, _ = sets["test"]
    if task.label == "number":
        return list(best[1].predict(rows).astype(np.float32)[:, None])
    probabilities = np.zeros((len(rows), 1, task.num_outputs), dtype=np.float32)
    probabilities[:, 0, best[1].classes_] = best[1].predict_proba(rows)
    return list(probabilities)
