"""Scores on a test set: means over seeds, with 95 % intervals from a bootstrap over proteins.

The bootstrap draws whole proteins, because the residues of one protein are not independent.

Shapes: S seeds, P proteins, B bootstrap draws, R rows of output (of one protein in the docstrings, of all proteins in
the variable names), K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchmetrics.functional import mean_squared_error, r2_score, spearman_corrcoef
from torchmetrics.functional.classification import multiclass_confusion_matrix

from prott5nv.flip.tasks import LONG, Task

DRAWS = 500
_INTERVAL = (2.5, 97.5)


def evaluate(
    task: Task, indices: Sequence[int] | np.ndarray, outputs_by_seed: Sequence[Sequence[np.ndarray]]
) -> dict[str, dict[str, Any]]:
    """Compute all scores of some proteins.

    Parameters
    ----------
    task : Task
    indices : sequence of int
        Indices of the proteins.
    outputs_by_seed : sequence of sequence of ndarray, shape=(R, K) or (R,)
        For each seed, the output of :func:`prott5nv.flip.train.predict` for these proteins.

    Returns
    -------
    dict of str to dict
        By the name of the metric: ``mean`` over the seeds, ``spread`` (standard deviation over the seeds), ``low`` and
        ``high`` (95 % interval), and ``seeds``, the score of each seed.
    """
    rng = np.random.default_rng(0)
    if task.label == "class":
        confusions_SPKK = np.stack([confusions(task, indices, outputs) for outputs in outputs_by_seed])
        each_once_BP = np.ones((1, len(indices)))
        drawn_BP = rng.multinomial(len(indices), np.full(len(indices), 1 / len(indices)), size=DRAWS)
        points = _class_scores(task, confusions_SPKK, each_once_BP)
        draws = _class_scores(task, confusions_SPKK, drawn_BP)
        return {name: _summary(points[name][:, 0], draws[name]) for name in points}
    measured_R = torch.from_numpy(np.concatenate([task.targets[i] for i in indices]))
    predicted_SR = torch.from_numpy(np.stack([np.concatenate(outputs) for outputs in outputs_by_seed]))
    lengths_P = np.array([len(task.targets[i]) for i in indices])
    drawn_rows = [_rows_of(rng.integers(len(indices), size=len(indices)), lengths_P) for _ in range(DRAWS)]
    by_seed = [_number_scores(measured_R, predicted_R) for predicted_R in predicted_SR]
    by_draw = [
        [_number_scores(measured_R[rows], predicted_R[rows]) for rows in drawn_rows] for predicted_R in predicted_SR
    ]
    return {
        name: _summary(
            np.array([scores[name] for scores in by_seed]),
            np.array([[scores[name] for scores in draws_of_seed] for draws_of_seed in by_draw]),
        )
        for name in by_seed[0]
    }


def scores_by_length(
    task: Task, outputs_by_seed: Sequence[Sequence[np.ndarray]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compute the scores of the test set, and of its short and long proteins.

    Parameters
    ----------
    task : Task
    outputs_by_seed : sequence of sequence of ndarray, shape=(R, K) or (R,)
        For each seed, the output of :func:`prott5nv.flip.train.predict` for the test proteins.

    Returns
    -------
    dict of str to dict
        What :func:`evaluate` returns, for ``all`` proteins, those with ``up_to_512`` residues and ``longer`` ones. A
        group is left out if fewer than two of its proteins have scored targets.
    """
    test = task.indices("test")
    short = task.lengths[test] <= LONG
    scores = {}
    for name, chosen in (("all", np.full(len(test), True)), ("up_to_512", short), ("longer", ~short)):
        kept = np.flatnonzero(chosen).tolist()
        if sum(task.scored(test[i]).any() for i in kept) > 1:  # one protein gives no interval
            scores[name] = evaluate(task, test[kept], [[outputs[i] for i in kept] for outputs in outputs_by_seed])
    return scores


def decimals(metric: str, value: float) -> int:
    """Return how many digits after the decimal point to print, which for an error depends on its size.

    Parameters
    ----------
    metric : str
    value : float
        A mean score.

    Returns
    -------
    int

    Examples
    --------
    >>> decimals("accuracy", 0.7), decimals("mse", 23.4), decimals("mse", 0.0161)
    (3, 2, 4)
    """
    if metric != "mse":
        return 3
    return max(2, 2 - math.floor(math.log10(value))) if value > 0 else 2


def selection_metric(task: Task, balanced: bool) -> str:
    """Return the name of the metric that decides when training stops, and which epoch is kept.

    Parameters
    ----------
    task : Task
    balanced : bool
        Whether training weights the classes by their inverse frequency. The accuracy would then favour the epoch that
        predicts the most frequent class most often.

    Returns
    -------
    str
        ``mse``, ``accuracy`` or ``macro_f1``.
    """
    return "macro_f1" if balanced and task.label == "class" else task.metric


def selection_score(
    task: Task, outputs: Sequence[np.ndarray], indices: Sequence[int] | np.ndarray, balanced: bool = False
) -> float:
    """Compute only the metric of :func:`selection_metric`.

    Parameters
    ----------
    task : Task
    outputs : sequence of ndarray, shape=(R, K) or (R,)
        The output of :func:`prott5nv.flip.train.predict`.
    indices : sequence of int
        Indices of the proteins.
    balanced : bool, default False
        See :func:`selection_metric`.

    Returns
    -------
    float
    """
    if task.label == "class":
        confusions_SPKK = confusions(task, indices, outputs)[None]
        if not confusions_SPKK.any():
            return 0.0
        scores = _class_scores(task, confusions_SPKK, np.ones((1, len(indices))))
        return float(scores[selection_metric(task, balanced)][0, 0])
    measured = np.concatenate([task.targets[i] for i in indices])
    return float(np.nanmean((np.concatenate(outputs).astype(np.float64) - measured) ** 2))


def confusions(task: Task, indices: Sequence[int] | np.ndarray, outputs: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the confusion matrix of each protein.

    Parameters
    ----------
    task : Task
        A task with classes.
    indices : sequence of int
        Indices of the proteins.
    outputs : sequence of ndarray, shape=(R, K)
        The output of :func:`prott5nv.flip.train.predict`.

    Returns
    -------
    ndarray, shape=(P, K, K), dtype=int64
        Number of targets by true class and predicted class.
    """
    matrices = []
    for i, scores_RK in zip(indices, outputs, strict=True):
        scored_R = task.scored(i)
        predicted = torch.from_numpy(scores_RK.argmax(-1)[scored_R])
        true = torch.from_numpy(task.targets[i][scored_R])
        matrices.append(multiclass_confusion_matrix(predicted, true, task.num_outputs, validate_args=False).numpy())
    return np.stack(matrices)


def _class_scores(task: Task, confusions_SPKK: np.ndarray, drawn_BP: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the scores of each seed and each draw of proteins: ndarray, shape=(S, B), for each metric."""
    total_SBKK = np.einsum("bp,spij->sbij", drawn_BP, confusions_SPKK, optimize=True).astype(float)
    hits_SBK = np.diagonal(total_SBKK, axis1=-2, axis2=-1)
    true_SBK, predicted_SBK, all_SB = total_SBKK.sum(-1), total_SBKK.sum(-2), total_SBKK.sum((-2, -1))
    scores = {"accuracy": hits_SBK.sum(-1) / all_SB}
    if task.level == "residue":
        rows_SP = confusions_SPKK.sum((-2, -1))
        accuracy_SP = np.trace(confusions_SPKK, axis1=-2, axis2=-1) / np.maximum(rows_SP, 1)
        scores["accuracy_per_protein"] = (accuracy_SP @ drawn_BP.T) / ((rows_SP > 0) @ drawn_BP.T)
        for k, name in enumerate(task.classes):
            scores[f"recall_{name}"] = hits_SBK[..., k] / np.maximum(true_SBK[..., k], 1)
    # The mean leaves out classes that are neither true nor predicted, as torchmetrics does.
    present_SBK = (true_SBK + predicted_SBK) > 0
    f1_SBK = 2 * hits_SBK / np.maximum(true_SBK + predicted_SBK, 1)
    scores["macro_f1"] = f1_SBK.sum(-1) / present_SBK.sum(-1)
    scores["mcc"] = _matthews(hits_SBK, true_SBK, predicted_SBK, all_SB)
    return scores


def _matthews(hits_SBK: np.ndarray, true_SBK: np.ndarray, predicted_SBK: np.ndarray, all_SB: np.ndarray) -> np.ndarray:
    """Compute Matthews' correlation coefficient: ndarray, shape=(S, B)."""
    covariance = hits_SBK.sum(-1) * all_SB - (true_SBK * predicted_SBK).sum(-1)
    variances = (all_SB**2 - (predicted_SBK**2).sum(-1)) * (all_SB**2 - (true_SBK**2).sum(-1))
    return covariance / np.sqrt(np.maximum(variances, 1))


def _rows_of(proteins: np.ndarray, lengths_P: np.ndarray) -> np.ndarray:
    """Return the row indices of some proteins in the concatenated rows of all of them."""
    starts_P = np.cumsum(lengths_P) - lengths_P
    lengths = lengths_P[proteins]
    output_starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts_P[proteins] - output_starts, lengths)


def _number_scores(measured_R: torch.Tensor, predicted_R: torch.Tensor) -> dict[str, float]:
    scored_R = ~measured_R.isnan()
    measured, predicted = measured_R[scored_R], predicted_R[scored_R]
    mse = float(mean_squared_error(predicted, measured))
    # Constant numbers have neither ranks nor variance, and torchmetrics would return NaN.
    measured_vary, predicted_vary = (bool(numbers.std(correction=0) > 0) for numbers in (measured, predicted))
    spearman = float(spearman_corrcoef(predicted, measured)) if measured_vary and predicted_vary else 0.0
    r2 = float(r2_score(predicted, measured)) if measured_vary else 0.0
    return {"mse": mse, "rmse": mse**0.5, "spearman": spearman, "r2": r2}


def _summary(seeds_S: np.ndarray, draws_SB: np.ndarray) -> dict[str, Any]:
    low, high = np.percentile(draws_SB.mean(0), _INTERVAL)
    spread = float(seeds_S.std(ddof=1)) if len(seeds_S) > 1 else 0.0
    return {
        "mean": float(seeds_S.mean()),
        "spread": spread,
        "low": float(low),
        "high": float(high),
        "seeds": [float(score) for score in seeds_S],
    }
