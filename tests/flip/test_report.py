"""Runs side by side."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from prott5nv import ProtT5nvError
from prott5nv.cli import command

pytest.importorskip("hydra", reason="needs the finetune extra")
pytest.importorskip("matplotlib", reason="needs the finetune extra")


@pytest.fixture(scope="module")
def runs(tiny_checkpoint, flip_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for task, mode in (("scl", "frozen"), ("conservation", "frozen"), ("gb1", "frozen"), ("conservation", "lora")):
        given = ["finetune", task, "--mode", mode, "--model", str(tiny_checkpoint), "--data", str(flip_data)]
        given += ["-o", f"{folder}/{task}-{mode}", "seeds=[1,2]", "task.training.epochs=1"]
        done = CliRunner().invoke(command, given, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(command, ["report", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder


def test_rows(runs):
    rows = json.loads((runs / "report.json").read_text())
    of_conservation = [(row["kind"], row["model"], row["mode"]) for row in rows if row["task"] == "conservation"]
    assert of_conservation == [
        ("published", "ProtT5nv", ""),
        ("published", "one-hot", ""),
        ("ours", "tiny.nemo", "frozen"),
        ("baseline", "constant", ""),
        ("baseline", "one-hot", ""),
        ("baseline", "one-hot window", ""),
        ("ours", "tiny.nemo", "lora"),
    ]
    splits = {row["split"] for row in rows if row["task"] == "scl"}
    assert splits == {"mixed_soft", "mixed_soft (rebuilt train)"}


def test_markdown_has_scores_with_intervals(runs):
    text = (runs / "report.md").read_text()
    assert "| conservation | sampled | ProtT5nv, published |  | accuracy | 0.256 |" in text
    assert re.search(r"\*\*tiny.nemo\*\* \| \*\*lora\*\* \| \*\*accuracy\*\* \| \*\*0\.\d{3} ± 0\.\d{3}\*\*", text)
    assert "| ESM2-15B | 0.867 | 0.34 | 0.839 | 39.49 | 1.52 |" in text


def test_page_needs_nothing_else(runs):
    page = (runs / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5  # the overview and one for each run
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_no_runs(tmp_path):
    with pytest.raises(ProtT5nvError, match=r"no result.json in it or below"):
        CliRunner().invoke(command, ["report", str(tmp_path)], catch_exceptions=False)
