"""Settings on the command line: any path without quoting for Hydra, a folder and a result for each job of a sweep."""

import signal
import sys
from typing import ClassVar

import pytest

pytest.importorskip("hydra", reason="needs the train extra")

from hydra import compose, initialize_config_dir
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from prott5nv import ProtT5nvError
from prott5nv.cli import finetune, hydra_app, main
from prott5nv.cli.hydra_app import Program, Score
from prott5nv.cli.overrides import quote_texts, text_settings
from prott5nv.flip.config import FinetuneConfig, finetune_config, register_configs
from prott5nv.flip.finetune import FinetuneRun
from prott5nv.pretraining.config import PretrainConfig
from prott5nv.pretraining.presets import register

PATHS = [
    "runs (2), new/a=1.nemo",
    "größe/ö{x}[000..049]~",
    "it's/back\\slash",
    "a\\\\b\\",
    'say "hi" #1 & $HOME; 50%',
    " leading: space",
    "[2026] data/x",
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_are_taken_literally(path):
    register()
    names = ("restore_from_path", "exp_manager.exp_dir", "model.data.dataset_path", "model.data.dataset.train")
    arguments = quote_texts([f"{name}={path}" for name in names], text_settings(PretrainConfig))
    with initialize_config_dir(str(hydra_app.config_folder()), version_base="1.3"):
        cfg = compose("pretrain", arguments)
    assert [OmegaConf.select(cfg, name) for name in names] == [path] * 4


def test_special_values_keep_their_meaning(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    register()
    arguments = [
        "restore_from_path=null",
        "exp_manager.exp_dir=~/runs",
        "model.data.dataset.train=[a,b]",
        "model.data.dataset.val='c d'",
        "model.data.dataset_path=${name}/data",
        "model.optim.lr=0.5",
        "+trainer.fast_dev_run=true",
    ]
    with initialize_config_dir(str(hydra_app.config_folder()), version_base="1.3"):
        cfg = compose("pretrain", quote_texts(arguments, text_settings(PretrainConfig)))
    assert cfg.restore_from_path is None and cfg.exp_manager.exp_dir == "/home/me/runs"
    assert cfg.model.data.dataset.train == ["a", "b"] and cfg.model.data.dataset.val == "c d"
    assert cfg.model.data.dataset_path == "prott5nv_pretraining/data"
    assert cfg.model.optim.lr == 0.5 and cfg.trainer.fast_dev_run is True


def test_the_settings_of_text_include_paths_and_names_but_no_numbers():
    settings = text_settings(FinetuneConfig)
    assert {"model.restore_encoder_path", "data_dir", "cache_dir", "output_dir", "task.file", "task.level"} <= settings
    assert not {"seeds", "proteins_per_set", "task.training.lr", "task.head.mlp"} & settings


class Results(Callback):
    """Records what the jobs of a sweep return to Hydra's sweepers."""

    values: ClassVar[list[float]] = []

    def on_job_end(self, config, job_return, **kwargs):
        self.values.append(job_return.return_value)


def sweep(monkeypatch, tmp_path, *arguments):
    """Return the output folders of the jobs, and what they returned; the job of a test returns its learning rate."""
    folders = []

    def job(cfg):
        folders.append(cfg.output_dir)
        return Score("score", cfg.task.training.lr, cfg.task.training.lr)

    monkeypatch.setattr(Results, "values", [])
    monkeypatch.setitem(sys.modules, "results_of_jobs", sys.modules[__name__])
    fixed = [
        "task=gb1",
        f"hydra.sweep.dir={tmp_path}/sweep (1)",
        "+hydra.callbacks.results._target_=results_of_jobs.Results",
    ]
    command = ["--multirun", *fixed, *arguments]
    program = Program(job, finetune_config, "finetune", register_configs, FinetuneConfig, "output_dir")
    hydra_app.run(program, command)
    return folders, Results.values


def test_each_job_has_its_own_folder_and_returns_its_result(monkeypatch, tmp_path):
    folders, values = sweep(monkeypatch, tmp_path, "task.training.lr=0.1,0.2")
    assert folders == ["results/finetune/gb1-two_vs_rest-frozen-0", "results/finetune/gb1-two_vs_rest-frozen-1"]
    assert values == [0.1, 0.2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("0.1,0.2,-1", "the run with task.training.lr=-1: task.training.lr=-1.0: must be at least 0 and finite\n"),
        ("0.1,fast", "task.training.lr=fast: must be a number\n"),
    ],
)
def test_all_values_are_checked_before_the_first_job(values, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("prott5nv.flip.finetune.finetune", lambda config: pytest.fail("started"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        sweep(monkeypatch, tmp_path, f"task.training.lr={values}", "seeds=[1]")
    assert stopped.value.code == 2 and not Results.values
    assert capsys.readouterr().err == f"prott5nv: error: {message}"
    assert not (tmp_path / "sweep (1)").exists()


def test_the_table_of_a_sweep_has_a_column_for_each_metric_and_keeps_finished_jobs(tmp_path, capsys):
    def job(cfg):
        if cfg.seeds == [3]:
            raise ProtT5nvError("the disk is full")
        metric = "macro_f1" if cfg.task.training.balanced else "accuracy"
        return Score(f"validation {metric}", 0.5, 0.5)

    program = Program(job, finetune_config, "finetune", register_configs, FinetuneConfig, "output_dir")
    arguments = ["--multirun", "task=scl", "seeds=[1],[3]", "task.training.balanced=true,false", "data_dir=a (1)"]
    with pytest.raises(SystemExit):
        hydra_app.run(program, [*arguments, f"hydra.sweep.dir={tmp_path}"])
    output = capsys.readouterr()
    assert output.err == "prott5nv: error: the run with seeds=[3] task.training.balanced=True: the disk is full\n"
    assert output.out.splitlines()[-1] == f"table of the runs: {tmp_path}/runs.csv"
    folder = "results/finetune/scl-mixed_soft-frozen"
    assert (tmp_path / "runs.csv").read_text().splitlines() == [
        "run,validation_macro_f1,validation_accuracy,task,seeds,task.training.balanced,data_dir",
        f"{folder}-0,0.5,,scl,[1],True,a (1)",
        f"{folder}-1,,0.5,scl,[1],False,a (1)",
    ]


@pytest.mark.slow
def test_a_folder_that_differs_by_itself_stays(monkeypatch, tmp_path):
    lr = "task.training.lr=0.1,0.2"
    folders, _ = sweep(monkeypatch, tmp_path, lr, "output_dir=out (x)/lr ${task.training.lr}")
    assert folders == ["out (x)/lr 0.1", "out (x)/lr 0.2"]
    folders, _ = sweep(monkeypatch, tmp_path, "output_dir='a, b',c (d)")
    assert folders == ["a, b", "c (d)"]


def test_fine_tuning_returns_its_validation_score(monkeypatch):
    finished = FinetuneRun(folder="out", result={"results": {}}, validation=-0.25, metric="mse")
    monkeypatch.setattr("prott5nv.flip.finetune.finetune", lambda config: finished)
    register_configs()
    with initialize_config_dir(str(hydra_app.config_folder()), version_base="1.3"):
        cfg = compose("finetune", ["task=gb1"])
    assert finetune.run(cfg) == Score("validation mse", 0.25, objective=-0.25)
    assert repr(finished) == "FinetuneRun(folder='out', validation_mse=0.2500)"


def test_sigterm_ends_fine_tuning_like_ctrl_c(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("prott5nv.flip.finetune.finetune", lambda config: signal.raise_signal(signal.SIGTERM))
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        main(["finetune", "gb1"])
    assert stopped.value.code == 130 and "finished embeddings are kept" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_command_trains_one_run_for_each_value(monkeypatch, tmp_path, capsys):
    def finished(config):
        score = -config.task.training.lr
        return FinetuneRun(folder=config.output_dir, result={"results": {}}, validation=score, metric="mse")

    monkeypatch.setattr("prott5nv.flip.finetune.finetune", finished)
    monkeypatch.setattr("prott5nv.flip.finetune.check_run", lambda config: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        main(["finetune", "gb1", "--multirun", "-o", "a (1)", "--mode", "lora", "task.training.lr=0.5,0.25"])
    assert not done.value.code
    printed = capsys.readouterr().out.splitlines()[-4:]
    assert printed[:3] == [
        "validation mse  run      settings",
        "         0.500  a (1)-0  task.training.lr=0.5",
        "         0.250  a (1)-1  task.training.lr=0.25",
    ]
    (table,) = tmp_path.rglob("runs.csv")
    assert printed[3] == f"table of the runs: {table.relative_to(tmp_path)}"
    assert table.read_text().splitlines() == [
        "run,validation_mse,task,mode,task.training.lr",
        "a (1)-0,0.5,gb1,lora,0.5",
        "a (1)-1,0.25,gb1,lora,0.25",
    ]
    assert sorted(path.name for path in table.parent.iterdir()) == ["multirun.yaml", "runs.csv"]
