"""Results of a zero-shot benchmark, such as ProteinGym, in a JSON file that the report shows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import write_text
from prott5nv.io.source import read_small
from prott5nv.io.text import parse_json

ZERO_SHOT_FILE = "zero_shot.json"
_KINDS = ("ours", "baseline", "published")


class ZeroShotScore(NamedTuple):
    """The score of one method, with its 95 % interval.

    Attributes
    ----------
    name : str
        The model and how it scores.
    kind : str
        ``ours``, ``baseline`` or ``published``.
    mean, low, high : float
    """

    name: str
    kind: str
    mean: float
    low: float
    high: float


class ZeroShot(NamedTuple):
    """The scores of several methods on one benchmark.

    Attributes
    ----------
    title : str
        Name of the benchmark, and what part of it was scored.
    metric : str
        Name of the score. Higher values are better.
    scores : list of ZeroShotScore
    """

    title: str
    metric: str
    scores: list[ZeroShotScore]


def write_zero_shot(folder: Path, benchmark: ZeroShot) -> None:
    """Write the scores to ``zero_shot.json`` in `folder`.

    Parameters
    ----------
    folder : Path
    benchmark : ZeroShot
    """
    scores = [score._asdict() for score in benchmark.scores]
    write_text(folder / ZERO_SHOT_FILE, json.dumps({**benchmark._asdict(), "scores": scores}, indent=1) + "\n")


def read_zero_shot(folder: Path) -> list[ZeroShot]:
    """Read all ``zero_shot.json`` files in a folder and below it.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of ZeroShot

    Raises
    ------
    ProtT5nvError
        If a file has other content.
    """
    return [_read(path) for path in sorted(folder.rglob(ZERO_SHOT_FILE))]


def _read(path: Path) -> ZeroShot:
    try:
        content = parse_json(read_small(path))
        benchmark = ZeroShot(
            str(content["title"]), str(content["metric"]), [_checked_score(score) for score in content["scores"]]
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ProtT5nvError(f"{path}: not the result of a zero-shot benchmark ({reason})") from None
    if not benchmark.scores:
        raise ProtT5nvError(f"{path}: not the result of a zero-shot benchmark (it has no scores)")
    return benchmark


def _checked_score(score: dict[str, object]) -> ZeroShotScore:
    numbers = [float(str(score[name])) for name in ("mean", "low", "high")]
    if score["kind"] not in _KINDS or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{score['name']!r} has another kind, or a score that is not finite")
    return ZeroShotScore(str(score["name"]), str(score["kind"]), *numbers)


def zero_shot_table(benchmarks: Sequence[ZeroShot]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the columns of a table of all scores, and the kind and cells of each row.

    Parameters
    ----------
    benchmarks : sequence of ZeroShot

    Returns
    -------
    columns : list of str
    rows : list of tuple of str and list of str
    """
    rows = [
        (
            score.kind,
            [one.title, score.name, one.metric, f"{score.mean:.3f}", f"{score.low:.3f} to {score.high:.3f}"],
        )
        for one in benchmarks
        for score in one.scores
    ]
    return ["benchmark", "method", "metric", "score", "95 % interval"], rows
