"""Scores in the model card of ProtT5nv on FLIP's tasks. They are single numbers, without seeds or intervals."""

from __future__ import annotations

from typing import NamedTuple


class PublishedScores(NamedTuple):
    """Scores of published models on one task.

    Attributes
    ----------
    metric : str
        ``accuracy`` or ``mse``.
    split : str
        The split of the task that was scored.
    scores : dict of str to float
        By the name of the model.
    """

    metric: str
    split: str
    scores: dict[str, float]


#: The published models that are shown among the runs of a report; a table of its own has all of them.
COMPARABLE = ("ProtT5nv", "one-hot")
#: By the name of the task.
PUBLISHED = {
    "secondary_structure": PublishedScores(
        "accuracy",
        "sampled",
        {
            "ProtT5nv": 0.793,
            "one-hot": 0.643,
            "ESM1nv": 0.773,
            "ProtBERT": 0.818,
            "ProtT5-XL": 0.854,
            "ESM2-650M": 0.855,
            "ESM2-3B": 0.861,
            "ESM2-15B": 0.867,
        },
    ),
    "conservation": PublishedScores(
        "accuracy",
        "sampled",
        {
            "ProtT5nv": 0.256,
            "one-hot": 0.202,
            "ESM1nv": 0.249,
            "ProtBERT": 0.326,
            "ProtT5-XL": 0.343,
            "ESM2-650M": 0.329,
            "ESM2-3B": 0.337,
            "ESM2-15B": 0.340,
        },
    ),
    "scl": PublishedScores(
        "accuracy",
        "mixed_soft",
        {
            "ProtT5nv": 0.764,
            "one-hot": 0.386,
            "ESM1nv": 0.720,
            "ProtBERT": 0.740,
            "ProtT5-XL": 0.820,
            "ESM2-650M": 0.791,
            "ESM2-3B": 0.812,
            "ESM2-15B": 0.839,
        },
    ),
    "meltome": PublishedScores(
        "mse",
        "mixed_split",
        {
            "ProtT5nv": 77.39,
            "one-hot": 128.21,
            "ESM1nv": 82.85,
            "ProtBERT": 58.87,
            "ProtT5-XL": 44.76,
            "ESM2-650M": 53.38,
            "ESM2-3B": 45.78,
            "ESM2-15B": 39.49,
        },
    ),
    "gb1": PublishedScores(
        "mse",
        "two_vs_rest",
        {
            "ProtT5nv": 1.60,
            "one-hot": 2.56,
            "ESM1nv": 1.58,
            "ProtBERT": 1.61,
            "ProtT5-XL": 1.69,
            "ESM2-650M": 1.67,
            "ESM2-3B": 1.64,
            "ESM2-15B": 1.52,
        },
    ),
}


def published_table() -> tuple[list[str], list[list[str]]]:
    """Return the columns and the rows of a table of all published models."""
    columns = [f"{task}, {published.split} ({published.metric})" for task, published in PUBLISHED.items()]
    models = next(iter(PUBLISHED.values())).scores
    rows = [[model, *(f"{published.scores[model]:g}" for published in PUBLISHED.values())] for model in models]
    return ["model", *columns], rows
