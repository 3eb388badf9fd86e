"""Comparison of fine-tuning runs, zero-shot scores, baselines and published results, in four formats."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from prott5nv.checkpoint.models import model_label, model_name
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.config import RESULT_FILE
from prott5nv.flip.metrics import decimals
from prott5nv.flip.plots import baseline_key, group_name, overview, overview_panels, own_baselines, run_plots
from prott5nv.flip.published import COMPARABLE, PUBLISHED, published_table
from prott5nv.flip.run_settings import differing_names, name_targets, written_settings
from prott5nv.flip.tasks import FEW_TEST_PROTEINS, SETS
from prott5nv.flip.zero_shot import ZeroShot, read_zero_shot, zero_shot_table
from prott5nv.io.atomic import whole_files
from prott5nv.io.output import reserved_outputs
from prott5nv.io.source import read_small
from prott5nv.io.text import parse_json, valid_text

#: The content of a ``result.json``; ``folder``, the path of its folder; ``run``, that path below the folder of the
#: report; ``head``, the name of the head; and ``settings``, what :func:`_differing_settings` returns.
Run: TypeAlias = dict[str, Any]
#: One score of the comparison; the keys are those of ``report.json``.
Row: TypeAlias = dict[str, Any]

_COLUMNS = (
    "task", "split", "model", "mode", "metric", "score", "95 % interval", "seeds", "head", "settings", "run",
    "further scores",
)  # fmt: skip
_GROUP_COLUMNS = ("task", "split", "metric")  # rows with the same are one group of the page's table
_FURTHER = {
    "accuracy": ("accuracy_per_protein", "macro_f1", "mcc", "recall"),
    "mse": ("rmse", "spearman", "r2"),
}
_MARKDOWN = re.compile(r"[\\`*\[\]!|~]|://|(?<!\w)_|_(?!\w)")
_TEMPLATE = "report.html.j2"
_RESULT_KEYS = {
    "task", "split", "note", "level", "label", "classes", "metric", "mode", "model", "proteins", "longer_than_512",
    "seconds", "results", "history", "confusion", "configuration",
}  # fmt: skip


def report(folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Compare the runs in a folder and all folders below it.

    Parameters
    ----------
    folder : Path
        Folder in which to look for ``result.json`` and ``zero_shot.json`` files and to write the report.
    overwrite : bool, default False
        Whether to replace an existing report.

    Returns
    -------
    list of Path
        ``report.md``, ``report.json``, ``report.html`` and ``report.png`` in that folder.

    Raises
    ------
    ProtT5nvError
        If there is no run, a run's result cannot be read, a report exists, or a file cannot be written.
    """
    written = [folder / f"report.{suffix}" for suffix in ("md", "json", "html", "png")]
    with reserved_outputs(written, overwrite=overwrite):
        runs, zero_shot = read_runs(folder), read_zero_shot(folder)
        rows = comparison(runs)
        page = html_page(runs, rows, zero_shot)
        with whole_files(folder) as temporary:
            (temporary / "report.md").write_text(markdown(runs, rows, zero_shot), encoding="utf-8")
            (temporary / "report.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            (temporary / "report.html").write_text(page, encoding="utf-8")
            overview(runs, zero_shot).savefig(temporary / "report.png", dpi=130)
    return written


def read_runs(folder: Path) -> list[Run]:
    """Read all results in a folder and below it.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of dict
        Sorted by task, in the order of the published tasks, and then by folder.

    Raises
    ------
    ProtT5nvError
        If there is no result, or one cannot be read.
    """
    runs: list[Run] = []
    for path in sorted(folder.rglob(RESULT_FILE)):
        try:
            run = parse_json(read_small(path))
        except (ValueError, RecursionError) as error:
            raise ProtT5nvError(f"{path}: not a result of prott5nv finetune ({error})") from None
        if not isinstance(run, dict) or (missing := _RESULT_KEYS - run.keys()):
            problem = f"{min(missing)!r} is missing" if isinstance(run, dict) else "expected a JSON object"
            raise ProtT5nvError(f"{path}: not a result of prott5nv finetune ({problem})")
        runs.append({**run, "folder": path.parent, "run": valid_text(path.parent.relative_to(folder).as_posix())})
        with _checked(runs[-1]):
            runs[-1] |= {"head": str(run["configuration"]["task"]["head"]["name"]), "settings": ""}
            for row in comparison(runs[-1:]):
                _cells(row)
            _split_summary(runs[-1])
            _duration(runs[-1])
    if not runs:
        raise ProtT5nvError(f"{folder}: no {RESULT_FILE} in it or below; prott5nv finetune writes them")
    name_targets(runs)
    for run, settings in zip(runs, _differing_settings(runs), strict=True):
        run["settings"] = settings
    known = {task: number for number, task in enumerate(PUBLISHED)}
    return sorted(runs, key=lambda run: (known.get(run["task"], len(known)), run["task"], run["split"]))


def comparison(runs: Sequence[Run]) -> list[Row]:
    """Collect the scores of all runs, of their baselines and of published models.

    Parameters
    ----------
    runs : sequence of dict
        The output of :func:`read_runs`.

    Returns
    -------
    list of dict
        One row for each run, baseline and published model. A baseline that several runs share stands with the first of
        them, and its ``run`` is empty. If a split is not the official one, ``split`` describes the difference.
    """
    rows: list[Row] = []
    tasks: set[str] = set()
    for run, baselines in zip(runs, own_baselines(runs), strict=True):
        if run["task"] not in tasks:
            rows += _published_rows(run["task"])
        tasks.add(run["task"])
        model = model_label(model_name(Path(run["model"]["path"])), run["model"]["sha256"])
        rows.append(_row(run, model, run["mode"], "ours", run["results"]["encoder"]))
        for name, scores in baselines.items():
            row = _row(run, name, "", "baseline", scores)
            is_shared = sum(baseline_key(other, name) == baseline_key(run, name) for other in runs) > 1
            rows.append({**row, "run": ""} if is_shared else row)
    return rows


def markdown(runs: Sequence[Run], rows: Sequence[Row], zero_shot: Sequence[ZeroShot]) -> str:
    """Return the comparison as Markdown: tables, one line about each split and each run, and the published results.

    Parameters
    ----------
    runs, rows : sequence of dict
        The output of :func:`read_runs` and :func:`comparison`.
    zero_shot : sequence of ZeroShot
        The output of :func:`prott5nv.flip.zero_shot.read_zero_shot`.

    Returns
    -------
    str
    """
    lines = _markdown_table(
        _COLUMNS, [[_bold_if_ours(_markdown_text(cell), row) for cell in _cells(row).values()] for row in rows]
    )
    lines += ["", *(f"- {_markdown_text(text)}" for text in _split_summaries(runs))]
    lines += ["", *(f"- {_markdown_text(f'{_title(run)}: {_duration(run)}')}" for run in runs)]
    if zero_shot:
        columns, scores = zero_shot_table(zero_shot)
        lines += [
            "",
            "Zero-shot scores:",
            "",
            *_markdown_table(columns, [map(_markdown_text, row) for _, row in scores]),
        ]
    if _has_published(runs):
        lines += ["", "Published scores:", "", *_markdown_table(*published_table())]
    return "\n".join(lines) + "\n"


def html_page(runs: Sequence[Run], rows: Sequence[Row], zero_shot: Sequence[ZeroShot]) -> str:
    """Return the comparison as one HTML page with plots of every run, which needs no other file.

    Parameters
    ----------
    runs, rows : sequence of dict
        The output of :func:`read_runs` and :func:`comparison`.
    zero_shot : sequence of ZeroShot
        The output of :func:`prott5nv.flip.zero_shot.read_zero_shot`.

    Returns
    -------
    str
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    published_columns, published_rows = published_table() if _has_published(runs) else ([], [])
    zero_shot_columns, zero_shot_rows = zero_shot_table(zero_shot)
    return environment.get_template(_TEMPLATE).render(
        overview=_images(overview_panels(runs, zero_shot)),
        columns=[column for column in _COLUMNS if column not in _GROUP_COLUMNS],
        groups=_groups(rows),
        splits=_split_summaries(runs),
        zero_shot_columns=zero_shot_columns,
        zero_shot_rows=[{"kind": kind, "cells": cells} for kind, cells in zero_shot_rows],
        published_columns=published_columns,
        published_rows=[{"kind": "", "cells": cells} for cells in published_rows],
        runs=[{"title": _title(run), "duration": _duration(run), "plots": _plots(run)} for run in runs],
    )


@contextmanager
def _checked(run: Run) -> Iterator[None]:
    """Convert errors that the content of a ``result.json`` causes to one that names the file."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, ProtT5nvError):
            raise
        path = Path(run["folder"]) / RESULT_FILE
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ProtT5nvError(f"{path}: not a result of prott5nv finetune ({reason})") from None


def _differing_settings(runs: Sequence[Run]) -> list[str]:
    """Return the settings in which each run differs from others of the same task, model, mode and head."""
    groups: dict[tuple[str, ...], list[int]] = {}
    settings = []
    for number, run in enumerate(runs):
        with _checked(run):
            settings.append(written_settings(run["configuration"]))
            names = *(run[name] for name in ("task", "split", "mode", "head")), run["model"]["sha256"]
            groups.setdefault(names, []).append(number)
    texts = [""] * len(runs)
    for group in groups.values():
        differing = differing_names([settings[number] for number in group])
        for number in group:
            texts[number] = " ".join(f"{name}={settings[number].get(name)}" for name in differing)
    return texts


def _groups(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows by task, split and metric, which the title of a group names once for all of its rows."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        cells = _cells(row)
        task, split, metric = (cells.pop(column) for column in _GROUP_COLUMNS)
        groups.setdefault(f"{group_name(task, split)}: {metric}", []).append(
            {"kind": row["kind"], "cells": list(cells.values())}
        )
    return [{"title": title, "rows": of_group} for title, of_group in groups.items()]


def _plots(run: Run) -> list[tuple[str, str]]:
    with _checked(run):
        return _images(run_plots(run))


def _title(run: Run) -> str:
    settings = f", {run['settings']}" if run["settings"] else ""
    return f"{run['task']}, {run['head']}, {run['mode']}{settings} ({run['run']})"


def _split(run: Run) -> str:
    return f"{run['split']} ({run['note']})" if run["note"] else str(run["split"])


def _split_summaries(runs: Sequence[Run]) -> list[str]:
    """Return one sentence about each split, however many runs use it."""
    return list(dict.fromkeys(map(_split_summary, runs)))


def _split_summary(run: Run) -> str:
    counts = " / ".join(f"{run['proteins'][part]:,}" for part in SETS)
    summary = f"{group_name(run['task'], _split(run))}: {counts} training / validation / test proteins."
    if long := run["longer_than_512"]["test"]:
        summary += f" {long:,} of the test proteins have more than 512 residues and are embedded by windows."
    if run["proteins"]["test"] < FEW_TEST_PROTEINS:
        summary += " So few test proteins make the scores depend on chance."
    return summary


def _duration(run: Run) -> str:
    return ", ".join(f"{name} {value:,.0f} s" for name, value in run["seconds"].items())


def _bold_if_ours(cell: str, row: Row) -> str:
    return f"**{cell}**" if row["kind"] == "ours" and cell else cell


def _markdown_table(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a table whose cells are Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return lines + ["| " + " | ".join(cells) + " |" for cells in rows]


def _markdown_text(text: str) -> str:
    """Return a text in which Markdown finds no HTML, link, picture, emphasis or code, and no end of a line or cell."""
    return _MARKDOWN.sub(r"\\\g<0>", html.escape(" ".join(text.split()), quote=False))


def _row(run: Run, model: str, mode: str, kind: str, scores: dict[str, Any]) -> Row:
    metric = run["metric"]
    further = {name: score["mean"] for name, score in scores["all"].items() if name.startswith(_FURTHER[metric])}
    for part in ("up_to_512", "longer"):
        if part in scores and "longer" in scores:
            further[part] = scores[part][metric]["mean"]
    return {
        "run": run["run"],
        "task": run["task"],
        "split": _split(run),
        "model": model,
        "mode": mode,
        "head": run["head"] if kind == "ours" else "",
        "settings": run["settings"] if kind == "ours" else "",
        "kind": kind,
        "metric": metric,
        **scores["all"][metric],
        "further": further,
    }


def _has_published(runs: Sequence[Run]) -> bool:
    return any(run["task"] in PUBLISHED for run in runs)


def _published_rows(task: str) -> list[Row]:
    if task not in PUBLISHED:
        return []
    published = PUBLISHED[task]
    return [
        {
            "run": "",
            "task": task,
            "split": published.split,
            "model": model,
            "mode": "",
            "head": "",
            "settings": "",
            "kind": "published",
            "metric": published.metric,
            "mean": score,
        }
        for model, score in published.scores.items()
        if model in COMPARABLE
    ]


def _cells(row: Row) -> dict[str, str]:
    """Return the text of each column."""
    digits = decimals(row["metric"], row["mean"])
    published = row["kind"] == "published"
    score = f"{row['mean']:.{digits}f}"
    if not published and len(row["seeds"]) > 1:
        score += f" ± {row['spread']:.{digits}f}"
    cells = (
        row["task"],
        row["split"],
        row["model"] + (", published" if published else ""),
        row["mode"],
        row["metric"],
        score,
        "" if published else f"{row['low']:.{digits}f} to {row['high']:.{digits}f}",
        "" if published else str(len(row["seeds"])),
        row["head"],
        row["settings"],
        row["run"],
        "" if published else ", ".join(f"{name} {value:.3f}" for name, value in row["further"].items()),
    )
    return dict(zip(_COLUMNS, cells, strict=True))


def _images(figures: dict[str, Figure]) -> list[tuple[str, str]]:
    """Return the title of each figure, and an address that contains the figure itself."""
    images = []
    for title, figure in figures.items():
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=150)
        images.append((title, f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"))
    return images
