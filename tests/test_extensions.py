"""Heads, poolings and optimizers of other packages."""

import pytest

from prott5nv import ProtT5nvError, extras, register_head, register_optimizer, register_pooling
from prott5nv.embedding.pooling import POOLINGS
from prott5nv.flip import config
from prott5nv.flip.heads import HEADS, MLP, ConvNet, MeanHead


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
    from prott5nv.pretraining.config import OPTIMIZERS
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


def test_an_extension_that_cannot_be_imported_is_named(monkeypatch):
    entry = extras.entry_points(group="console_scripts")
    broken = type(next(iter(entry)))("mine", "no_such_module", "prott5nv.extensions")
    monkeypatch.setattr(extras, "entry_points", lambda group: [broken])
    with pytest.raises(ProtT5nvError, match=r"extension mine .no_such_module.: ModuleNotFoundError"):
        extras.load_extensions()
