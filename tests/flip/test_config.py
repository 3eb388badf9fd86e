"""The configuration of fine-tuning: every YAML file fits the types, and wrong settings are refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hydra", reason="needs the finetune extra")
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from prott5nv import ProtT5nvError, finetune
from prott5nv.assets import config_folder
from prott5nv.cli import main
from prott5nv.flip.config import FinetuneConfig, finetune_config, head_names, register_configs
from prott5nv.flip.heads import HEADS
from prott5nv.flip.prepare import FLIP
from prott5nv.settings import describe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("task", FLIP)
def test_every_task_fits_the_schema(task):
    register_configs()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = finetune_config(compose("finetune", [f"task={task}"]))
    assert config.task.name == task and config.task.split == next(iter(FLIP[task].splits))
    assert config.task.head.name in HEADS[FLIP[task].level]


def test_every_option_of_task_is_a_task():
    register_configs()
    with initialize_config_dir(str(config_folder()), version_base="1.3"), pytest.raises(HydraException) as caught:
        compose("finetune")
    names = ", ".join(sorted([*FLIP, "custom"]))
    assert describe(caught.value, FinetuneConfig) == f"task has no value: add task=NAME, where NAME is one of {names}"


def test_every_head_has_settings():
    assert set(head_names()) == {name for heads in HEADS.values() for name in heads}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.training.epochs=many", "error: task.training.epochs=many: must be an integer\n"),
        ("task.training.epochs=2.5", "error: task.training.epochs=2.5: must be an integer\n"),
        ("task.training.epochs=1e1", "error: task.training.epochs=1e1: must be an integer, such as 10\n"),
        ("task.training.lr=true", "error: task.training.lr=true: must be a number\n"),
        ("task.training.lr=${mode}", "error: task.training.lr=frozen: must be a number\n"),
        ("task.training.lr=1,2", "error: task.training.lr=1,2: several values need --multirun, and a text with a c"),
        ("task.training=3", "task.training is a section of settings; set one of them, such as task.training.epochs=V"),
        ("task.head.custom=3", "task.head.custom=3: must be a dictionary, such as 'task.head.custom={key: value}'\n"),
        ("baselines=maybe", "error: baselines=maybe: must be true or false\n"),
        ("mode=[lora]", "error: mode=[lora]: must be text\n"),
        ("proteins_per_set=few", "error: proteins_per_set=few: must be an integer or null\n"),
        ("seeds=1", "error: seeds=1: must be a list of integers: write 'seeds=[1]'\n"),
        ("seeds=1,2", "error: seeds=1,2: must be a list of integers: write 'seeds=[1,2]'\n"),
        ("seeds=[1,a]", "error: seeds=[1,a]: must be a list of integers, such as 'seeds=[1,2]'\n"),
        ("seeds=null", "error: seeds=null: must be a list of integers, such as 'seeds=[1,2]'\n"),
        ("seeds=[1", "error: seeds=[1: cannot be parsed"),
        ("task.training.epoch=3", "no setting task.training.epoch; did you mean task.training.epochs?"),
        ("task.head.custom.size=3", "no setting task.head.custom.size; to add it, write +task.head.custom.size=VALUE"),
        ("+task.training.epoch=3", "task.training.epoch"),
        ("task.training.epochs=0", "task.training.epochs=0: must be at least 1"),
        ("task.training.lr=-1", "task.training.lr=-1.0: must be at least 0"),
        ("task.training.lr=inf", "task.training.lr=inf: must be at least 0 and finite"),
        ("task.training.warmup=2", "task.training.warmup=2.0: must be a fraction"),
        ("task.head.mlp.dropout=1", "task.head.mlp.dropout=1.0: must be at least 0 and below 1"),
        ("task.head.light_attention.kernel=0", "task.head.light_attention.kernel=0: must be at least 1"),
        ("task.head.name=attention", "task.head.name=attention: must be one of convnet, window, linear, mlp"),
        ("mode=half", "mode=half: must be one of frozen, lora, full"),
        ("seeds=[]", "seeds is empty"),
        ("seeds=[1,1]", "seeds=[1, 1]: must be different numbers"),
        ("proteins_per_set=1", "proteins_per_set=1: must be at least 2"),
        ("lora.rank=0", "lora.rank=0: must be at least 1"),
        ("lora.target_modules=[]", "lora.target_modules is empty"),
        ("task.name=???", "task.name has no value: add task.name=VALUE"),
        ("task=conservatism", "task=conservatism: must be one of conservation, custom, gb1, meltome, scl, secondary_"),
    ],
)
def test_wrong_setting_is_one_line_that_names_it(override, message, capsys):
    pytest.importorskip("peft", reason="needs the finetune extra")
    with pytest.raises(SystemExit) as exit:
        main(["finetune", "gb1", override])
    output = capsys.readouterr()
    assert exit.value.code == 2 and output.out == ""
    assert output.err.count("\n") == 1 and message in output.err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 1}, r"finetune: seeds=1: must be a list of integers: write 'seeds=\[1\]'"),
        ({"task.training.epochs": 2.0}, "finetune: task.training.epochs=2.0: must be an integer, such as 2"),
        ({"seeds": {"a": 1}}, "finetune: seeds: must be a list of integers"),
        ({"task.training.epoch": 1}, "finetune: there is no setting task.training.epoch; did you mean"),
    ],
)
def test_a_wrong_setting_from_python_is_described_in_the_same_way(settings, message):
    with pytest.raises(ProtT5nvError, match=message):
        finetune("gb1", settings=settings)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "gb2",
            "no task 'gb2': choose conservation, gb1, meltome, scl, secondary_structure, or a table whose name ends",
        ),
        ("melting.xlsx", "melting.xlsx: this is a file of a spreadsheet program; save the table as CSV"),
    ],
)
def test_an_unknown_task_is_one_line_that_lists_the_tasks(task, message, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["finetune", task])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and message in error


@pytest.mark.parametrize("table", ["melting.csv", "melting.tsv"])
def test_a_missing_table_of_ones_own_is_not_explained_by_flip(table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["finetune", table, "--level", "protein", "--label", "number"])
    assert capsys.readouterr().err == f"prott5nv: error: {table}: no such file\n"
    with pytest.raises(SystemExit):
        main(["finetune", "gb1", "--data", "data"])
    assert "; `prott5nv prepare flip gb1 --from DIR -o data` makes it\n" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # nor is there an empty folder for results


@pytest.mark.slow
def test_the_script_refuses_settings_like_the_command():
    script = [sys.executable, ROOT / "scripts" / "finetune.py", "task=gb1", "task.training.epochs=0"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "prott5nv: error: task.training.epochs=0: must be at least 1 and finite\n"


def test_a_lora_target_that_does_not_exist(tiny_checkpoint, flip_data, tmp_path, capsys):
    pytest.importorskip("peft", reason="needs the finetune extra")
    arguments = ["finetune", "gb1", "--model", str(tiny_checkpoint), "--data", str(flip_data), "--mode", "lora"]
    with pytest.raises(SystemExit) as exit:
        main([*arguments, "-o", str(tmp_path / "run"), "lora.target_modules=[attention]"])
    assert exit.value.code == 2
    assert "lora.target_modules=['attention']" in capsys.readouterr().err
