"""Runs side by side: one table of them, their baselines and the published figures, as Markdown, JSON and one page."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable
from pathlib import Path

from prott5nv.errors import ProtT5nvError
from prott5nv.flip.finetune import RESULT_FILE
from prott5nv.flip.plots import overview, plots_of
from prott5nv.flip.published import PUBLISHED

_COLUMNS = ("task", "split", "model", "mode", "metric", "score", "95 % interval", "seeds", "further scores")
_COMPARABLE = ("ProtT5nv", "one-hot")  # published figures that stand among the rows; all are in a table of their own
_FURTHER = {
    "accuracy": ("accuracy_per_protein", "macro_f1", "mcc", "recall"),
    "mse": ("rmse", "spearman", "r2"),
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: .25em .6em; text-align: left; }
tr { border-bottom: 1px solid #ddd; } tr.ours { font-weight: 600; } tr.published { color: #666; }
img { max-width: 100%; }
"""


def report(folder: Path) -> list[Path]:
    """Gather the runs below a folder.

    Parameters
    ----------
    folder : Path
        ``result.json`` files are looked for in it and in all folders below.

    Returns
    -------
    list of Path
        ``report.md``, ``report.json``, ``report.html`` and ``report.png`` in that folder.

    Raises
    ------
    ProtT5nvError
        If there is no run.
    """
    runs = read_runs(folder)
    rows = table(runs)
    figure = overview(runs)
    figure.savefig(folder / "report.png", dpi=130)
    (folder / "report.md").write_text(markdown(runs, rows))
    (folder / "report.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "report.html").write_text(_page(runs, rows, figure))
    return [folder / f"report.{suffix}" for suffix in ("md", "json", "html", "png")]


def read_runs(folder: Path) -> list[dict]:
    """What each run found, with its folder: by task, then as their folders are called."""
    runs = []
    for path in sorted(folder.rglob(RESULT_FILE)):
        try:
            runs.append({**json.loads(path.read_text()), "folder": path.parent})
        except json.JSONDecodeError as error:
            raise ProtT5nvError(f"{path}: not a run's result ({error})") from None
    if not runs:
        raise ProtT5nvError(f"{folder}: no {RESULT_FILE} in it or below; prott5nv finetune writes them")
    order = list(PUBLISHED)
    return sorted(runs, key=lambda run: order.index(run["task"]) if run["task"] in order else len(order))


def table(runs: list[dict]) -> list[dict]:
    """One row for each run, each of its baselines and each published figure.

    Baselines are those of a task's first run; where a split is not the official one, ``split`` says so.
    """
    rows, seen = [], set()
    for run in runs:
        if run["task"] not in {task for task, _ in seen}:
            rows += _published_rows(run["task"])
        split = f"{run['split']} ({run['note']})" if run["note"] else run["split"]
        key = (run["task"], split)
        for name, scores in run["results"].items():
            if name == "encoder":
                rows.append(_row(run, split, Path(run["model"]["path"]).name, run["mode"], "ours", scores))
            elif key not in seen:
                rows.append(_row(run, split, name, "", "baseline", scores))
        seen.add(key)
    return rows


def markdown(runs: list[dict], rows: list[dict]) -> str:
    """The tables, and a line about each run."""
    lines = _markdown_table(_COLUMNS, ([_strong(cell, row) for cell in _cells(row)] for row in rows))
    lines += ["", *(f"- {run['task']}, {run['mode']}: {_about(run)}" for run in runs)]
    lines += ["", "Published figures:", "", *_markdown_table(*_published_table())]
    return "\n".join(lines) + "\n"


def _strong(cell: str, row: dict) -> str:
    return f"**{cell}**" if row["kind"] == "ours" and cell else cell


def _markdown_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(list(columns)) + "|"]
    return lines + ["| " + " | ".join(cells) + " |" for cells in rows]


def _row(run: dict, split: str, model: str, mode: str, kind: str, scores: dict) -> dict:
    metric = run["metric"]
    further = {name: found["mean"] for name, found in scores["all"].items() if name.startswith(_FURTHER[metric])}
    for part in ("up_to_512", "longer"):
        if part in scores and "longer" in scores:
            further[part] = scores[part][metric]["mean"]
    return {
        "task": run["task"],
        "split": split,
        "model": model,
        "mode": mode,
        "kind": kind,
        "metric": metric,
        **scores["all"][metric],
        "further": further,
    }


def _published_table() -> tuple[list[str], list[list[str]]]:
    """All published models in one table: its columns and rows."""
    columns = [f"{task}, {split} ({metric})" for task, (metric, split, _) in PUBLISHED.items()]
    models = next(iter(PUBLISHED.values()))[2]
    return ["model", *columns], [[model, *(f"{of[model]:g}" for *_, of in PUBLISHED.values())] for model in models]


def _published_rows(task: str) -> list[dict]:
    if task not in PUBLISHED:
        return []
    metric, split, figures = PUBLISHED[task]
    return [
        {
            "task": task,
            "split": split,
            "model": model,
            "mode": "",
            "kind": "published",
            "metric": metric,
            "mean": figure,
        }
        for model, figure in figures.items()
        if model in _COMPARABLE
    ]


def _cells(row: dict) -> list[str]:
    digits = 3 if row["metric"] == "accuracy" else 2
    published = row["kind"] == "published"
    score = f"{row['mean']:.{digits}f}"
    if not published and len(row["seeds"]) > 1:
        score += f" ± {row['spread']:.{digits}f}"
    return [
        row["task"],
        row["split"],
        row["model"] + (", published" if published else ""),
        row["mode"],
        row["metric"],
        score,
        "" if published else f"{row['low']:.{digits}f} to {row['high']:.{digits}f}",
        "" if published else str(len(row["seeds"])),
        "" if published else ", ".join(f"{name} {value:.3f}" for name, value in row["further"].items()),
    ]


def _page(runs: list[dict], rows: list[dict], figure) -> str:
    kinds = [row["kind"] for row in rows]
    published_columns, published_rows = _published_table()
    sections = "".join(
        f"<h2>{html.escape(run['task'])}, {html.escape(run['mode'])}</h2>\n<p>{html.escape(_about(run))}</p>\n"
        + _image(plots_of(run))
        for run in runs
    )
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Fine-tuning</title><style>{_STYLE}</style>\n'
        f"<h1>Fine-tuning</h1>\n{_image(figure)}\n{_html_table(_COLUMNS, map(_cells, rows), kinds)}"
        f"<h2>Published figures</h2>\n{_html_table(published_columns, published_rows, [''] * len(published_rows))}"
        f"{sections}</html>\n"
    )


def _html_table(columns: Iterable[str], rows: Iterable[Iterable[str]], kinds: Iterable[str]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        f'<tr class="{kind}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>\n"
        for cells, kind in zip(rows, kinds, strict=True)
    )
    return f"<table><tr>{head}</tr>\n{body}</table>\n"


def _about(run: dict) -> str:
    counts = ", ".join(f"{count:,} {part}" for part, count in run["proteins"].items())
    seconds = ", ".join(f"{name} {value:,.0f} s" for name, value in run["seconds"].items())
    note = f"; {run['note']}" if run["note"] else ""
    return (
        f"Split {run['split']}{note}: {counts} proteins. {run['longer_than_512']['test']:,} of the test set have more "
        f"than 512 residues and are embedded by windows. {seconds}, {len(run['history'])} seeds."
    )


def _image(figure) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">\n'
