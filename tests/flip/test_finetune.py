"""Fine-tuning on each task, from FLIP's files to a predictor, by the command line."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from prott5nv import ProtT5nvError
from prott5nv.assets import BUILTIN_MODEL
from prott5nv.cli import command, main
from prott5nv.flip.finetune import _train
from prott5nv.flip.plots import run_plots
from prott5nv.flip.predict import predict_file
from prott5nv.flip.predictor import Predictor
from prott5nv.flip.prepare import FLIP
from prott5nv.io.exclusive import exclusive_folder

pytest.importorskip("hydra", reason="needs the finetune extra")
pytest.importorskip("torchmetrics", reason="needs the finetune extra")


@pytest.fixture
def finetune(tiny_checkpoint, flip_data, tmp_path):
    """Run the command, and return the folder of the run and its result."""

    def run(task, *arguments):
        output = tmp_path / "run"
        options = ["--model", str(tiny_checkpoint), "--data", str(flip_data), "-o", str(output), "--overwrite"]
        overrides = [f"cache_dir={tmp_path}/cache", *arguments]
        done = CliRunner().invoke(command, ["finetune", str(task), *options, *overrides], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return output, json.loads((output / "result.json").read_text())

    return run


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("task", FLIP)
def test_every_task_from_its_files_to_a_predictor(task, finetune, examples, tmp_path):
    folder, result = finetune(task, "seeds=[1,2]", "task.training.epochs=3")
    metric = {"class": "accuracy", "number": "mse"}[FLIP[task].label]
    linear = {"residue": "one-hot window", "protein": "one-hot ridge" if task == "gb1" else "composition"}
    assert list(result["results"]) == ["encoder", "constant", "one-hot", linear[FLIP[task].level]]
    for scores in result["results"].values():
        assert scores["all"][metric]["low"] <= scores["all"][metric]["mean"] <= scores["all"][metric]["high"]
    assert len(result["results"]["encoder"]["all"][metric]["seeds"]) == 2
    assert result["longer_than_512"]["test"] == (0 if task == "gb1" else 1)

    assert predict_file(folder, examples / "proteins.fasta", tmp_path / "out.csv") == 36
    rows = table(tmp_path / "out.csv")
    if FLIP[task].level == "residue":
        assert all(len(row["prediction"]) == len(row["confidence"]) == int(row["length"]) for row in rows)
    elif FLIP[task].label == "class":
        assert all(row["prediction"] in result["classes"] and 0 <= float(row["confidence"]) <= 1 for row in rows)
    else:
        assert all(np.isfinite(float(row["prediction"])) for row in rows)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["frozen", "lora", "full"])
@pytest.mark.parametrize("task", ["secondary_structure", "gb1"])
def test_every_mode_on_a_gpu(task, mode, finetune, examples, tmp_path):
    folder, _ = finetune(task, "--mode", mode, "seeds=[1]", "task.training.epochs=2", "model.device=cuda")
    assert predict_file(folder, examples / "proteins.fasta", tmp_path / "out.csv", device="cuda") == 36


@pytest.mark.slow
def test_heads_learn_what_depends_on_the_residue_alone(finetune):
    _, result = finetune("secondary_structure", "seeds=[1]", "task.training.lr=0.01", "task.training.batch_size=4")
    scores = {name: scores["all"]["accuracy"]["mean"] for name, scores in result["results"].items()}
    assert scores["one-hot"] > 0.95 and scores["encoder"] > scores["constant"] + 0.1  # the encoder is random


@pytest.mark.slow
def test_saved_predictor_reproduces_the_scored_predictions(finetune, flip_data):
    folder, _ = finetune("secondary_structure", "seeds=[1]", "task.training.epochs=2", "baselines=false")
    scored = {row["protein"]: row for row in table(folder / "predictions.csv")}
    rows = [row for row in table(flip_data / "secondary_structure" / "sampled.csv") if row["set"] == "test"]
    assert [row["id"] for row in rows] == list(scored)
    source = folder / "test.csv"
    source.write_text("id,sequence\n" + "".join(f"{row['id']},{row['sequence']}\n" for row in rows))
    predict_file(folder / "model.safetensors", source, folder / "again.csv")
    for row in table(folder / "again.csv"):
        same = np.mean([a == b for a, b in zip(row["prediction"], scored[row["protein"]]["prediction"], strict=True)])
        assert same > 0.99  # the cache stores float16
        assert scored[row["protein"]]["target"][0] == "-"  # masked


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_trained_encoder_is_stored_in_the_file(mode, finetune, flip_data):
    pytest.importorskip("peft", reason="needs the finetune extra")
    settings = ("seeds=[1]", "task.training.epochs=2", "baselines=false", "task.training.encoder_lr=0.01")
    folder, result = finetune("conservation", "--mode", mode, *settings)
    assert result["mode"] == mode
    scored = {row["protein"]: row["prediction"] for row in table(folder / "predictions.csv")}
    rows = [row for row in table(flip_data / "conservation" / "sampled.csv") if row["set"] == "test"]
    source = folder / "test.csv"
    source.write_text("id,sequence\n" + "".join(f"{row['id']},{row['sequence']}\n" for row in rows))
    predict_file(folder, source, folder / "again.csv", precision="fp32")  # as in training
    for row in table(folder / "again.csv"):
        assert np.mean([a == b for a, b in zip(row["prediction"], scored[row["protein"]], strict=True)]) > 0.99


@pytest.mark.slow
def test_the_same_seed_gives_the_same_scores(finetune):
    runs = [finetune("gb1", "seeds=[3]", "task.training.epochs=3", "baselines=false")[1] for _ in range(2)]
    assert runs[0]["results"] == runs[1]["results"] and runs[0]["history"] == runs[1]["history"]


@pytest.mark.parametrize("head", ["linear", "light_attention"])
def test_heads_that_no_task_uses_by_default(head, finetune):
    short = ("seeds=[1]", "task.training.epochs=2", "baselines=false")
    folder, result = finetune("scl", f"task.head.name={head}", "task.training.balanced=true", *short)
    assert Predictor(folder).head_settings["name"] == head
    assert set(result["history"]["1"][0]) == {"epoch", "loss", "macro_f1"}
    run_plots({**result, "folder": folder})


@pytest.mark.slow
def test_own_table(finetune, tmp_path):
    """Numbers for residues, columns with other names, and sets that have to be drawn at random."""
    rng = np.random.default_rng(0)
    lines = ["entry,aa,flexibility"]
    for number in range(40):
        sequence = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), size=20))
        lines.append(f"P{number},{sequence},{' '.join(str(float(letter in 'GP')) for letter in sequence)}")
    own = tmp_path / "own.csv"
    own.write_text("\n".join(lines))
    columns = ["--sequence-column", "aa", "--target-column", "flexibility", "task.id_column=entry"]
    folder, result = finetune(
        own, "--level", "residue", "--label", "number", *columns, "seeds=[1]", "task.training.batch_size=2"
    )
    assert result["note"] == "test set drawn at random; validation set drawn at random"
    assert result["results"]["one-hot"]["all"]["r2"]["mean"] > 0.5 > result["results"]["constant"]["all"]["r2"]["mean"]
    rows = table(folder / "predictions.csv")
    assert all(len(row["prediction"].split()) == 20 == len(row["target"].split()) for row in rows)


@pytest.mark.parametrize("name", ["model.safetensors", "model.h5"])
def test_a_file_that_is_no_predictor(name, tmp_path):
    (tmp_path / name).write_text("neither safetensors nor HDF5")
    with pytest.raises(ProtT5nvError, match="cannot be opened as a model of `prott5nv finetune`"):
        Predictor(tmp_path)


@pytest.mark.slow
def test_the_embeddings_of_an_own_tsv_are_kept_in_the_cache(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROTT5NV_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), size=20)) for _ in range(30)]
    lines = ["sequence\ttarget", *(f"{sequence}\t{sequence.count('A')}" for sequence in sequences)]
    (tmp_path / "own.tsv").write_text("\n".join(lines))
    options = ["--model", str(tiny_checkpoint), "--level", "protein", "--label", "number", "-o", "run"]
    settings = ["seeds=[1]", "task.training.epochs=1"]
    done = CliRunner().invoke(command, ["finetune", "own.tsv", *options, *settings], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "own.tsv", "run"]
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".npy"]  # baselines, rows
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    again = CliRunner().invoke(command, ["finetune", "own.tsv", *options, *settings], catch_exceptions=False)
    assert again.exit_code == 0 and again.output.splitlines()[-1] == done.output.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == files  # nothing was trained
    with open(tmp_path / "own.tsv", "a") as table:
        table.write("\nMKAAV\t2")
    for changed, other in (
        ([], "another table"),
        (["task.training.epochs=9"], r"task\.training\.epochs=\d, another table"),
    ):
        with pytest.raises(ProtT5nvError, match=f"run has the results of a run with {other}; choose another folder"):
            CliRunner().invoke(command, ["finetune", "own.tsv", *options, *settings, *changed], catch_exceptions=False)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_baselines_are_computed_once_for_all_runs(finetune, tmp_path):
    short = ("seeds=[1]", "task.training.epochs=1")
    _, first = finetune("meltome", *short)
    (cached,) = (tmp_path / "cache").glob("baselines-*.json")
    cached.write_text(cached.read_text().replace('"composition"', '"read from the cache"'))
    _, second = finetune("meltome", *short, "--mode", "lora")
    assert second["results"]["read from the cache"] == first["results"]["composition"]
    finetune("meltome", "seeds=[2]", "task.training.epochs=1")
    assert len(list((tmp_path / "cache").glob("baselines-*.json"))) == 2


def test_results_are_replaced_only_on_request(finetune, tiny_checkpoint, flip_data, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.safetensors").write_text("mine")
    short = ["gb1", "seeds=[1]", "task.training.epochs=1", "baselines=false", f"cache_dir={tmp_path}/cache"]
    options = ["--model", str(tiny_checkpoint), "--data", str(flip_data), "-o", str(folder)]
    with pytest.raises(ProtT5nvError, match=r"model\.safetensors: exists already"):
        CliRunner().invoke(command, ["finetune", *short, *options], catch_exceptions=False)
    assert (folder / "model.safetensors").read_text() == "mine" and not (tmp_path / "cache").exists()
    (folder / "notes.txt").write_text("mine")
    finetune(*short)
    files = ["model.safetensors", "notes.txt", "predictions.csv", "result.json"]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            "task.head.name=mlp,convnet",
            "the run with task.head.name='convnet': task.head.name=convnet: heads for a protein",
        ),
        ("task.split=sampled,missing", "the run with task.split='missing': "),
        ("task.training.lr=0.1,0.2", "run-1/result.json: exists already; choose another name"),
    ],
)
def test_a_sweep_finds_a_run_that_is_not_possible_before_the_first(values, message, flip_data, tmp_path, capsys):
    (tmp_path / "run-1").mkdir()
    (tmp_path / "run-1" / "result.json").touch()
    options = ["--multirun", "--data", str(flip_data), "-o", str(tmp_path / "run"), "seeds=[1]"]
    if "lr" not in values:
        options.append("--overwrite")
    with pytest.raises(SystemExit) as stopped:
        main(["finetune", "gb1", *options, values, f"hydra.sweep.dir={tmp_path}/sweep"])
    output = capsys.readouterr()
    assert stopped.value.code == 2 and message in output.err and output.err.count("\n") == 1
    assert not output.out and sorted(path.name for path in tmp_path.iterdir()) == ["run-1"]


def test_a_training_that_diverges_is_an_error_and_leaves_no_result(tiny_checkpoint, flip_data, tmp_path):
    options = ["--model", str(tiny_checkpoint), "--data", str(flip_data), "-o", str(tmp_path / "run")]
    settings = ["seeds=[1]", "baselines=false", "task.training.lr=1e30", f"cache_dir={tmp_path}/cache"]
    with pytest.raises(ProtT5nvError, match=r"NaN or infinity|lower the learning rate"):
        CliRunner().invoke(command, ["finetune", "meltome", *options, *settings], catch_exceptions=False)
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_replaced_during_the_run_leaves_no_result(tiny_checkpoint, flip_data, tmp_path, monkeypatch):
    model = tmp_path / "model.nemo"
    shutil.copy(tiny_checkpoint, model)

    def train_then_replace_the_model(*arguments):
        trained = _train(*arguments)
        shutil.copy(BUILTIN_MODEL, model)
        return trained

    monkeypatch.setattr("prott5nv.flip.finetune._train", train_then_replace_the_model)
    options = ["--data", str(flip_data), "--model", str(model), "-o", str(tmp_path / "run")]
    settings = ["seeds=[1]", "task.training.epochs=1", "baselines=false", f"cache_dir={tmp_path}/cache"]
    with pytest.raises(ProtT5nvError, match="has changed since the run began"):
        CliRunner().invoke(command, ["finetune", "gb1", *options, *settings], catch_exceptions=False)
    assert not (tmp_path / "run").exists()


def test_predict_checks_its_input_first_and_skips_on_request(finetune, tmp_path, monkeypatch):
    folder, _ = finetune("gb1", "seeds=[1]", "task.training.epochs=1", "baselines=false")
    source, output = tmp_path / "in.fasta", tmp_path / "out.csv"
    source.write_text(">P1\nMKV\n>P2\nMK1\n>P3\n>P/4\nMS\n")

    def run(*options):
        arguments = ["predict", str(folder), str(source), "-o", str(output), *options]
        return CliRunner().invoke(command, arguments, catch_exceptions=False)

    with monkeypatch.context() as patch:
        patch.setattr("prott5nv.flip.predict.Predictor.__init__", lambda *_, **__: pytest.fail("loaded"))
        with pytest.raises(ProtT5nvError, match=r"in\.fasta: line 3: P2: position 3: '1' is not a residue"):
            run()
    assert not output.exists()
    done = run("--on-error", "skip")
    assert done.exit_code == 3 and "skipped 2 records" in done.stderr
    assert [row["original_id"] for row in table(output)] == ["P1", "P/4"]
    listing = tmp_path / "out.csv.skipped.tsv"
    assert [line.split("\t")[:2] for line in listing.read_text().splitlines()[1:]] == [["3", "P2"], ["5", "P3"]]
    with pytest.raises(ProtT5nvError, match=r"out\.csv: exists already"):
        run("--on-error", "skip")

    source.write_text(">P1\nMKV\n>P2\nMKK\n")

    head = type(Predictor(folder)._head)
    forward = head.forward

    def overflow(self, rows, lengths):
        return forward(self, rows, lengths) * (np.nan if overflow.calls.pop() else 1)

    monkeypatch.setattr(head, "forward", overflow)
    overflow.calls = [0, 1]  # the first protein
    with pytest.raises(ProtT5nvError, match=r"in\.fasta: line 1: P1: the model computed NaN or infinity"):
        run("--overwrite")
    overflow.calls = [0, 1]
    assert run("--overwrite", "--on-error", "skip").exit_code == 3
    assert [row["original_id"] for row in table(output)] == ["P2"] and "P1" in listing.read_text()


ROWS = {part: ["MSLK,1", "MSLR,2", "MKLK,3"] for part in ("train", "val", "test")}


@pytest.mark.parametrize(
    ("label", "train", "message"),
    [
        ("number", ["MSLK,1", "MSLK,2", "MSLK,3"], "all proteins of the train set have the same sequence"),
        ("class", ["MSLK,1", "MSLR,1", "MKLK,1"], "all targets of the train set are '1'"),
        ("number", ["MSLK,1e20", "MSLR,1", "MKLK,1"], "line 2: row 1: a target of 1e+20 is larger than 1e+15"),
        ("number", ["MSLK,1e39", "MSLR,1", "MKLK,1"], "line 2: row 1: the target '1e39' is not a finite number"),
    ],
)
def test_a_table_from_which_nothing_can_be_learnt_is_one_line(label, train, message, tiny_checkpoint, tmp_path):
    rows = [f"{row},{part}" for part, lines in {**ROWS, "train": train}.items() for row in lines]
    (tmp_path / "own.csv").write_text("\n".join(["sequence,target,set", *rows]))
    options = ["--model", str(tiny_checkpoint), "-o", str(tmp_path / "run")]
    arguments = [str(tmp_path / "own.csv"), "--level", "protein", "--label", label, f"cache_dir={tmp_path}/cache"]
    with pytest.raises(ProtT5nvError) as caught:
        CliRunner().invoke(command, ["finetune", *arguments, *options], catch_exceptions=False)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != tiny_checkpoint.name) == ["own.csv"]


@pytest.mark.slow
def test_sequences_of_equal_composition_have_a_constant_baseline(finetune, tmp_path):
    train = ["MSLK,1", "MLSK,2", "MKSLMKSL,3"]
    rows = [f"{row},{part}" for part, lines in {**ROWS, "train": train}.items() for row in lines]
    (tmp_path / "own.csv").write_text("\n".join(["sequence,target,set", *rows]))
    settings = ["--level", "protein", "--label", "number", "task.training.epochs=1", "seeds=[1]"]
    _, result = finetune(tmp_path / "own.csv", *settings)
    results = result["results"]
    assert results["composition"]["all"]["mse"]["mean"] == results["constant"]["all"]["mse"]["mean"]


def test_a_second_run_into_the_same_folder_is_refused(tiny_checkpoint, flip_data, tmp_path):
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "mine").touch()
    options = ["--model", str(tiny_checkpoint), "--data", str(flip_data), "-o", str(tmp_path / "run")]
    settings = ["gb1", "seeds=[1]", "task.training.epochs=1", "baselines=false", f"cache_dir={tmp_path}/cache"]

    def run():
        return CliRunner().invoke(command, ["finetune", *settings, *options], catch_exceptions=False)

    message = r"another process is writing results to .*run; wait for it"
    other = exclusive_folder(tmp_path / "run.partial", "something", wait=False)
    with other, pytest.raises(ProtT5nvError, match=message):
        run()
    assert not (tmp_path / "run").exists()
    assert run().exit_code == 0
    assert (tmp_path / "run.partial" / "mine").exists()


def test_scores_that_mean_little_give_a_warning(finetune, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr("prott5nv.flip.finetune.logger.warning", lambda text, *values: warnings.append(text % values))
    train = ["MSLK,1", "MSLR,2", "MKVK,3"]
    rows = {"train": train, "val": ["MKLK,3", "MKLR,4"], "test": ["MSLR,2", "MKLK,3", "MAAK,1"]}
    lines = [f"{row},{part}" for part, rows_of_part in rows.items() for row in rows_of_part]
    (tmp_path / "own.csv").write_text("\n".join(["sequence,target,set", *lines]))
    short = ["seeds=[1]", "task.training.epochs=1", "baselines=false"]
    finetune(tmp_path / "own.csv", "--level", "protein", "--label", "number", *short)
    assert warnings[1:] == [  # the first is about the few steps
        "2 of 3 proteins in the test set, such as row 6, have the sequence of a training or validation protein, so the "
        "scores of this set are too good",
        "the test set has only 3 proteins, so its scores depend on chance",
    ]
