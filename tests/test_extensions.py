"""Heads, poolings and optimizers of other packages."""

import re
import runpy
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from prott5nv import ProtT5nvError, extras, finetune, register_head, register_optimizer, register_pooling
from prott5nv.cli import main
from prott5nv.embedding.pooling import POOLINGS
from prott5nv.flip import config
from prott5nv.flip.head_base import MeanHead
from prott5nv.flip.heads import HEADS, MLP, ConvNet


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    monkeypatch.setitem(HEADS, "protein", dict(HEADS["protein"]))
    monkeypatch.setattr(config, "REGISTERED_HEADS", config.REGISTERED_HEADS)
    before = set(config.REGISTERED_HEADS)
    yield
    config.REGISTERED_HEADS.intersection_update(before)
    POOLINGS.pop("mine", None)


def test_a_name_is_given_once():
    class Mine(MeanHead):
        pass

    register_head("mine", level="protein")(Mine)
    register_head("mine", level="protein")(Mine)  # a cell of a notebook that is run again
    assert "mine" in config.head_names()
    with pytest.raises(ProtT5nvError, match="a head called 'mlp' exists already"):
        register_head("mlp", level="protein")(Mine)
    with pytest.raises(ProtT5nvError, match="a pooling called 'mean' exists already"):
        register_pooling("mean")(lambda rows_LD: rows_LD[0])


def test_a_head_must_fit_its_level():
    with pytest.raises(ProtT5nvError, match="MLP: a head for a residue must derive from ResidueHead"):
        register_head("mine", level="residue")(MLP)
    with pytest.raises(ProtT5nvError, match="ConvNet: a head for a protein must derive from ProteinHead"):
        register_head("mine", level="protein")(ConvNet)


def test_an_optimizer_is_built_by_its_function():
    torch = pytest.importorskip("torch")
    pytest.importorskip("hydra", reason="needs the train extra")
    from prott5nv.pretraining.optimizer_names import OPTIMIZERS
    from prott5nv.pretraining.optimizers import make_optimizer

    @register_optimizer("mine")
    def mine(groups, lr, betas, eps):
        return torch.optim.SGD(groups, lr=lr, momentum=betas[0])

    try:
        groups = [[torch.nn.Parameter(torch.zeros(2, 2))], [torch.nn.Parameter(torch.zeros(2))]]
        settings = {"name": "mine", "lr": 0.1, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.01, "fused": False}
        optimizer = make_optimizer(groups, **settings)
    finally:
        del OPTIMIZERS["mine"]
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]


@pytest.fixture
def broken_extension(monkeypatch):
    broken = EntryPoint("mine", "no_such_module", "prott5nv.extensions")
    monkeypatch.setattr(extras, "entry_points", lambda group: [broken])
    return r"extension mine .no_such_module.: ModuleNotFoundError"


def test_an_extension_that_cannot_be_imported_is_named(broken_extension):
    with pytest.raises(ProtT5nvError, match=broken_extension):
        extras.load_extensions()


def test_every_way_to_fine_tune_loads_the_extensions(broken_extension, monkeypatch, capsys, tmp_path):
    pytest.importorskip("hydra", reason="needs the finetune extra")
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "own.csv"
    table.touch()
    with pytest.raises(ProtT5nvError, match=broken_extension):
        finetune(table, level="protein", label="number")
    script = Path(__file__).parents[1] / "scripts" / "finetune.py"
    for start in (
        lambda: main(["finetune", "own.csv", "--level", "protein", "--label", "number"]),
        lambda: runpy.run_path(str(script), run_name="__main__"),
    ):
        monkeypatch.setattr("sys.argv", ["finetune.py"])
        with pytest.raises(SystemExit):
            start()
        assert re.match(f"prott5nv: error: {broken_extension}", capsys.readouterr().err)
