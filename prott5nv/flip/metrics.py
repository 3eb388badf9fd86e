"""Scores on a test set, over seeds, with 95 % intervals from a bootstrap over proteins.

Residues of one protein are not independent, so proteins are what is drawn. The score is the mean over seeds, the spread
their standard deviation.

Shapes: S seeds, P proteins, B bootstrap draws, R rows of output of a protein, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchmetrics.functional import mean_squared_error, r2_score, spearman_corrcoef
from torchmetrics.functional.classification import multiclass_confusion_matrix

from prott5nv.flip.tasks import LONG, Task

DRAWS = 500
_INTERVAL = (2.5, 97.5)


def evaluate(task: Task, indices: Sequence[int], outputs_by_seed: Sequence[Sequence[np.ndarray]]) -> dict[str, dict]:
    """All scores of some proteins.

    Parameters
    ----------
    task : Task
    indices : sequence of int
        P proteins.
    outputs_by_seed : sequence of sequence of ndarray, shape=(R, K) or (R,)
        What :func:`prott5nv.flip.train.predict` returned for them, for each seed.

    Returns
    -------
    dict of str to dict
        For each metric: ``mean`` over seeds, ``spread`` (standard deviation), ``low`` and ``high`` (95 % interval),
        ``seeds``.
    """
    rng = np.random.default_rng(0)
    if task.label == "class":
        confusions_SPKK = np.stack([confusions(task, indices, outputs) for outputs in outputs_by_seed])
        whole = np.ones((1, len(indices)))
        drawn_BP = rng.multinomial(len(indices), np.full(len(indices), 1 / len(indices)), size=DRAWS)
        points = _class_scores(task, confusions_SPKK, whole)
        draws = _class_scores(task, confusions_SPKK, drawn_BP)
        return {name: _summary(points[name][:, 0], draws[name]) for name in points}
    measured_R = torch.from_numpy(np.concatenate([task.targets[i] for i in indices]))
    predicted_SR = torch.from_numpy(np.stack([np.concatenate(outputs) for outputs in outputs_by_seed]))
    lengths_P = np.array([len(task.targets[i]) for i in indices])
    picks = [_rows_of(rng.integers(len(indices), size=len(indices)), lengths_P) for _ in range(DRAWS)]
    points = [_number_scores(measured_R, predicted_R) for predicted_R in predicted_SR]
    draws = [[_number_scores(measured_R[rows], predicted_R[rows]) for rows in picks] for predicted_R in predicted_SR]
    return {
        name: _summary(
            np.array([point[name] for point in points]),
            np.array([[draw[name] for draw in of_seed] for of_seed in draws]),
        )
        for name in points[0]
    }


def scores_by_length(task: Task, outputs_by_seed: Sequence[Sequence[np.ndarray]]) -> dict[str, dict]:
    """Scores of the test set: of ``all`` proteins, and of those with ``up_to_512`` residues and ``longer`` ones."""
    test = task.indices("test")
    short = task.lengths[test] <= LONG
    scores = {}
    for name, chosen in (("all", np.full(len(test), True)), ("up_to_512", short), ("longer", ~short)):
        places = np.flatnonzero(chosen)
        if sum(task.scored(test[place]).any() for place in places) > 1:  # one protein gives no interval
            scores[name] = evaluate(task, test[places], [[outputs[p] for p in places] for outputs in outputs_by_seed])
    return scores


def selection_score(task: Task, outputs: Sequence[np.ndarray], indices: Sequence[int]) -> float:
    """The task's own metric: what early stopping looks at."""
    if task.label == "class":
        total_KK = confusions(task, indices, outputs).sum(0)
        return float(np.trace(total_KK) / max(1, total_KK.sum()))
    measured = np.concatenate([task.targets[i] for i in indices])
    return float(np.nanmean((np.concatenate(outputs) - measured) ** 2))


def confusions(task: Task, indices: Sequence[int], outputs: Sequence[np.ndarray]) -> np.ndarray:
    """Confusion matrix of each protein, true class by predicted class: ndarray, shape=(P, K, K), dtype=int64."""
    matrices = []
    for i, scores_RK in zip(indices, outputs, strict=True):
        scored_R = task.scored(i)
        predicted = torch.from_numpy(scores_RK.argmax(-1)[scored_R])
        true = torch.from_numpy(task.targets[i][scored_R])
        matrices.append(multiclass_confusion_matrix(predicted, true, task.num_outputs, validate_args=False).numpy())
    return np.stack(matrices)


def _class_scores(task: Task, confusions_SPKK: np.ndarray, drawn_BP: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of each seed and each draw of proteins: ndarray, shape=(S, B), each."""
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
    # A class that is neither there nor predicted says nothing, as in torchmetrics.
    present_SBK = (true_SBK + predicted_SBK) > 0
    f1_SBK = 2 * hits_SBK / np.maximum(true_SBK + predicted_SBK, 1)
    scores["macro_f1"] = f1_SBK.sum(-1) / present_SBK.sum(-1)
    scores["mcc"] = _matthews(hits_SBK, true_SBK, predicted_SBK, all_SB)
    return scores


def _matthews(hits_SBK, true_SBK, predicted_SBK, all_SB):
    covariance = hits_SBK.sum(-1) * all_SB - (true_SBK * predicted_SBK).sum(-1)
    variances = (all_SB**2 - (predicted_SBK**2).sum(-1)) * (all_SB**2 - (true_SBK**2).sum(-1))
    return covariance / np.sqrt(np.maximum(variances, 1))


def _rows_of(proteins: np.ndarray, lengths_P: np.ndarray) -> np.ndarray:
    """Numbers of the rows of some proteins, whose rows lie end to end."""
    starts_P = np.cumsum(lengths_P) - lengths_P
    lengths = lengths_P[proteins]
    firsts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts_P[proteins] - firsts, lengths)


def _number_scores(y: torch.Tensor, x: torch.Tensor) -> dict[str, float]:
    scored = ~y.isnan()
    y, x = y[scored], x[scored]
    mse = float(mean_squared_error(x, y))
    # Constants have no ranks and no variance to explain: torchmetrics would answer NaN.
    measured_vary, predicted_vary = (bool(numbers.std(correction=0) > 0) for numbers in (y, x))
    spearman = float(spearman_corrcoef(x, y)) if measured_vary and predicted_vary else 0.0
    r2 = float(r2_score(x, y)) if measured_vary else 0.0
    return {"mse": mse, "rmse": mse**0.5, "spearman": spearman, "r2": r2}


def _summary(seeds_S: np.ndarray, draws_SB: np.ndarray) -> dict:
    low, high = np.percentile(draws_SB.mean(0), _INTERVAL)
    spread = float(seeds_S.std(ddof=1)) if len(seeds_S) > 1 else 0.0
    return {
        "mean": float(seeds_S.mean()),
        "spread": spread,
        "low": float(low),
        "high": float(high),
        "seeds": [float(score) for score in seeds_S],
    }
