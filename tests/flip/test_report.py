"""The comparison of fine-tuning runs."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from click.testing import CliRunner

from prott5nv import ProtT5nvError
from prott5nv.checkpoint.models import checksum
from prott5nv.cli import command

pytest.importorskip("hydra", reason="needs the finetune extra")
pytest.importorskip("matplotlib", reason="needs the finetune extra")
pytest.importorskip("jinja2", reason="needs the finetune extra")
from matplotlib.cbook import is_math_text
from matplotlib.text import Text

from prott5nv.flip.plots import overview, run_plots
from prott5nv.flip.report import read_runs, report
from prott5nv.flip.zero_shot import ZERO_SHOT_FILE, ZeroShot, ZeroShotScore, read_zero_shot, write_zero_shot


@pytest.fixture(scope="module")
def runs(tiny_checkpoint, flip_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for task, mode in (("scl", "frozen"), ("conservation", "frozen"), ("gb1", "frozen"), ("conservation", "lora")):
        given = ["finetune", task, "--mode", mode, "--model", str(tiny_checkpoint), "--data", str(flip_data)]
        given += [
            "-o",
            f"{folder}/{task}-{mode}",
            "seeds=[1,2]",
            "task.training.epochs=1",
            f"baselines={task == 'conservation'}",
        ]
        done = CliRunner().invoke(command, given, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(command, ["report", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder


@pytest.mark.slow
def test_rows_are_runs_baselines_and_published_scores(runs, tiny_checkpoint):
    label = f"tiny {checksum(tiny_checkpoint)[:8]}"
    rows = json.loads((runs / "report.json").read_text())
    conservation = [(row["kind"], row["model"], row["run"]) for row in rows if row["task"] == "conservation"]
    assert conservation == [
        ("published", "ProtT5nv", ""),
        ("published", "one-hot", ""),
        ("ours", label, "conservation-frozen"),
        ("baseline", "constant", ""),
        ("baseline", "one-hot", ""),
        ("baseline", "one-hot window", ""),
        ("ours", label, "conservation-lora"),
    ]
    splits = {row["split"] for row in rows if row["task"] == "scl"}
    assert splits == {"mixed_soft", "mixed_soft (rebuilt train)"}


@pytest.mark.slow
def test_markdown_has_scores_with_intervals(runs):
    text = (runs / "report.md").read_text()
    assert "| conservation | sampled | ProtT5nv, published |  | accuracy | 0.256 |" in text
    assert re.search(
        r"\*\*tiny [0-9a-f]{8}\*\* \| \*\*lora\*\* \| \*\*accuracy\*\* \| \*\*0\.\d{3} ± 0\.\d{3}\*\*", text
    )
    assert "| ESM2-15B | 0.867 | 0.34 | 0.839 | 39.49 | 1.52 |" in text


@pytest.mark.slow
def test_page_needs_no_other_file(runs):
    page = (runs / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 + 4 * 3  # one for each task, and three for each run
    assert not re.search(r"(src|href)=\"(?!data:)", page)


@pytest.fixture
def odd_run(runs, tmp_path):
    """A copy of a run whose names contain HTML, Markdown, mathematics and what is not a character."""
    shutil.copytree(runs / "scl-frozen", tmp_path / "scl-frozen")
    path = tmp_path / "scl-frozen" / "result.json"
    result = json.loads(path.read_text())
    result["model"]["path"] = "models/<script>alert(1)&|.nemo"
    result["note"] = "costs $5 and $6"
    result["classes"][:2] = ["$a$", "not UTF-8: \udcff"]
    path.write_text(json.dumps(result))
    return tmp_path


@pytest.mark.slow
def test_names_are_escaped_in_page_and_markdown(odd_run):
    report(odd_run)
    page = (odd_run / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)&amp;| " in page
    text = (odd_run / "report.md").read_text()
    assert "<script" not in text and "&lt;script&gt;alert(1)&amp;\\| " in text


@pytest.mark.slow
def test_a_report_of_other_tasks_has_no_published_scores(odd_run):
    path = odd_run / "scl-frozen" / "result.json"
    result = json.loads(path.read_text())
    result["proteins"]["test"] = 9
    path.write_text(json.dumps(result | {"task": "melting", "split": "melting", "note": ""}))
    report(odd_run)
    page = (odd_run / "report.html").read_text()
    assert "<span>melting: accuracy</span>" in page and 'alt="melting"' in page
    assert "So few test proteins make the scores depend on chance." in page
    assert not any("Published scores" in (odd_run / name).read_text() for name in ("report.html", "report.md"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("![x](http://a.b/c)", r"\!\[x\](http\://a.b/c)"),
        ("`code` *x* _y_ a_b", r"\`code\` \*x\* \_y\_ a_b"),
        ("two\nlines | cell", r"two lines \| cell"),
        ("<!--<script>", "&lt;\\!--&lt;script&gt;"),
    ],
)
def test_markdown_finds_nothing_in_names(name, shown, odd_run):
    path = odd_run / "scl-frozen" / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "note": name}))
    report(odd_run)
    assert f"mixed_soft ({shown})" in (odd_run / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"proteins": {}},
        {"proteins": 5},
        {"results": {"encoder": {"all": {}}}},
        {"metric": ["accuracy"]},
        {"history": None},
        {"seconds": {"a": "b"}},
        {"model": {"path": 5}},
        {"confusion": "x"},
        {"classes": [1, 2]},
        {"task": {}},
    ],
)
def test_a_result_with_other_content_is_one_line(change, odd_run):
    path = odd_run / "scl-frozen" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ProtT5nvError, match=r"scl-frozen.*not a result of prott5nv finetune") as caught:
        report(odd_run)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_dollar_signs_in_figures_are_not_mathematics(odd_run):
    (run,) = read_runs(odd_run)
    for figures in ([overview([run])], run_plots(run).values()):
        for figure in figures:
            figure.canvas.draw()
        texts = [text.get_text() for figure in figures for text in figure.findobj(Text) if "$" in text.get_text()]
        assert texts and not any(map(is_math_text, texts))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a result of prott5nv finetune"),
        ("[" * 100_000, "not a result of prott5nv finetune"),
        ("[]", "expected a JSON object"),
        ("{}", "'classes' is missing"),
    ],
)
def test_a_file_that_is_no_result(content, message, tmp_path):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ProtT5nvError, match=message):
        read_runs(tmp_path)


@pytest.mark.slow
def test_a_run_without_predictions(odd_run):
    (odd_run / "scl-frozen" / "predictions.csv").unlink()
    with pytest.raises(ProtT5nvError, match=r"predictions\.csv: no such file"):
        report(odd_run)


@pytest.mark.slow
def test_an_existing_report_is_replaced_only_on_request(odd_run):
    (odd_run / "report.md").write_text("my notes")
    with pytest.raises(ProtT5nvError, match=r"report\.md: exists already"):
        report(odd_run)
    assert (odd_run / "report.md").read_text() == "my notes" and not (odd_run / "report.json").exists()
    report(odd_run, overwrite=True)
    assert (odd_run / "report.md").read_text().startswith("| task")
    report(odd_run, overwrite=True)
    assert sorted(path.name for path in odd_run.iterdir()) == [
        *("report.html", "report.json", "report.md", "report.png", "scl-frozen")
    ]


def test_no_runs(tmp_path):
    with pytest.raises(ProtT5nvError, match=r"no result.json in it or below"):
        CliRunner().invoke(command, ["report", str(tmp_path)], catch_exceptions=False)


@pytest.mark.slow
def test_runs_are_told_apart_by_folder_head_and_mode(runs, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(runs / "scl-frozen", tmp_path / "a" / name)
    report(tmp_path)
    page, text = ((tmp_path / f"report.{suffix}").read_text() for suffix in ("html", "md"))
    for name in ("first", "second"):
        assert f"<h2>scl, mlp, frozen (a/{name})</h2>" in page
        assert f"| **mlp** |  | **a/{name}** |" in text
    figure = overview(read_runs(tmp_path))
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:2] == ["a/first: mlp, frozen", "a/second: mlp, frozen"]
    title, panel = figure.axes[0].title.get_window_extent(), figure.bbox
    assert title.x0 >= panel.x0 and title.x1 <= panel.x1


@pytest.mark.slow
def test_runs_of_a_sweep_are_told_apart_by_the_settings_that_differ(runs, tmp_path):
    for name, rate in (("first", 0.001), ("second", 0.01)):
        shutil.copytree(runs / "scl-frozen", tmp_path / name)
        path = tmp_path / name / "result.json"
        result = json.loads(path.read_text())
        result["configuration"]["task"]["training"]["lr"] = rate
        result["configuration"]["output_dir"] = name
        path.write_text(json.dumps(result))
    shutil.copytree(runs / "gb1-frozen", tmp_path / "other")
    read = read_runs(tmp_path)
    assert [run["settings"] for run in read] == ["task.training.lr=0.001", "task.training.lr=0.01", ""]
    labels = [label.get_text() for label in overview(read).axes[0].get_yticklabels()]
    assert labels[0].split() == ["mlp,", "frozen,", "task.training.lr=0.001"]
    report(tmp_path)
    assert "(first)" in (tmp_path / "report.html").read_text()
    assert "| **mlp** | **task.training.lr=0.01** | **second** |" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_targets_of_one_table_are_compared_separately(runs, tmp_path):
    """A table of one's own gives its name to task and split, whichever of its columns has the targets."""
    for name, column in (("scl-frozen", "place"), ("gb1-frozen", "fitness"), ("conservation-frozen", "target")):
        shutil.copytree(runs / name, tmp_path / column)
        path = tmp_path / column / "result.json"
        result = json.loads(path.read_text()) | {"task": "mine", "split": "mine", "note": ""}
        result["configuration"]["task"]["target_column"] = column
        path.write_text(json.dumps(result))
    found = read_runs(tmp_path)
    assert [(run["task"], run["metric"]) for run in found] == [
        ("mine", "accuracy"),
        ("mine (fitness)", "mse"),
        ("mine (place)", "accuracy"),
    ]
    titles = [axis.get_title() for axis in overview(found).axes]
    assert titles == ["mine", "mine (fitness)", "mine (place)"]
    report(tmp_path)
    assert "mine (fitness): mse" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_the_page_and_markdown_describe_a_split_once(runs, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(runs / "scl-frozen", tmp_path / name)
    report(tmp_path)
    page, text = ((tmp_path / f"report.{suffix}").read_text() for suffix in ("html", "md"))
    for written in (page, text):
        assert written.count(" training / validation / test proteins.") == 1
    groups = re.findall(r'<th class="group" colspan="9"><span>(.*?)</span></th>', page)
    assert groups == ["scl, mixed_soft: accuracy", "scl, mixed_soft (rebuilt train): accuracy"]
    assert page.count("mixed_soft (rebuilt train)") == 2  # the group and the description
    assert page.count('<tr class="ours"><td>tiny ') == 2


@pytest.mark.slow
def test_models_stand_side_by_side_on_an_axis_that_spans_their_scores(runs, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(runs / "gb1-frozen", tmp_path / name)
        path = tmp_path / name / "result.json"
        result = json.loads(path.read_text())
        result["model"] = {"path": f"models/{name}.nemo", "sha256": name}
        result["note"] = "a subset"  # its error is not comparable with the published one
        path.write_text(json.dumps(result))
    (axis,) = overview(read_runs(tmp_path)).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["first, mlp, frozen", "second, mlp, frozen"]
    scores = result["results"]["encoder"]["all"]["mse"]
    low, high = axis.get_xlim()
    assert low < scores["low"] and scores["high"] < high < scores["high"] + 0.2 * (scores["high"] - scores["low"])


@pytest.mark.slow
def test_zero_shot_scores_have_a_panel_and_a_table(odd_run):
    scores = [ZeroShotScore("a model", "ours", 0.4, 0.3, 0.5), ZeroShotScore("BLOSUM62", "baseline", 0.2, 0.1, 0.3)]
    write_zero_shot(odd_run, ZeroShot("ProteinGym, 2 assays", "Spearman", scores))
    assert read_zero_shot(odd_run) == [ZeroShot("ProteinGym, 2 assays", "Spearman", scores)]
    report(odd_run)
    assert (
        "| ProteinGym, 2 assays | a model | Spearman | 0.400 | 0.300 to 0.500 |" in (odd_run / "report.md").read_text()
    )
    assert "<h2>Zero-shot scores</h2>" in (odd_run / "report.html").read_text()
    figure = overview(read_runs(odd_run), read_zero_shot(odd_run))
    assert [axis.get_title() for axis in figure.axes][1] == "ProteinGym, 2 assays"


def test_zero_shot_titles_can_be_written_to_any_file(tmp_path):
    write_zero_shot(tmp_path, ZeroShot("t\udcff", "spearman", [ZeroShotScore("n\udcff", "ours", 0.4, 0.3, 0.5)]))
    assert read_zero_shot(tmp_path) == [ZeroShot("t?", "spearman", [ZeroShotScore("n?", "ours", 0.4, 0.3, 0.5)])]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"title": "a", "metric": "b", "scores": []}',
        '{"title": "a", "metric": "b", "scores": [{"name": "c", "kind": "d", "mean": 1, "low": 0, "high": 2}]}',
        '{"title": "a", "metric": "b", "scores": [{"name": "c", "kind": "ours", "mean": NaN, "low": 0, "high": 2}]}',
    ],
)
def test_a_file_that_has_no_zero_shot_scores(content, tmp_path):
    (tmp_path / ZERO_SHOT_FILE).write_text(content)
    with pytest.raises(ProtT5nvError, match=r"zero_shot\.json: not the result of a zero-shot benchmark") as caught:
        read_zero_shot(tmp_path)
    assert "\n" not in str(caught.value)
