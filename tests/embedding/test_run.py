"""A run from the command line in this process: when it compiles the layers."""

import pytest
import torch
from helpers.embedding_files import random_fasta

from prott5nv import Embedder, ModelConfig, ProtT5
from prott5nv.embedding import embedder as module
from prott5nv.embedding.run import Listener, Request, run


class Compilations(Listener):
    """Counts compilations."""

    count = 0

    def on_compile(self):
        self.count += 1


@pytest.fixture
def compiled(monkeypatch):
    """List of the embedders that were compiled, without compiling them."""
    embedders = []
    monkeypatch.setattr(Embedder, "compile_layers", lambda self: embedders.append(self))
    return embedders


@pytest.mark.parametrize(("choice", "large", "expected"), [(None, True, 1), (None, False, 0), (False, True, 0)])
def test_a_run_compiles_for_a_large_input(tiny_checkpoint, tmp_path, monkeypatch, compiled, choice, large, expected):
    monkeypatch.setattr(Embedder, "gains_from_compiling", lambda self, residues: large and residues > 0)
    random_fasta(tmp_path / "p.fasta", 3)
    request = Request(str(tmp_path / "p.fasta"), tmp_path / "p.h5", str(tiny_checkpoint), device="cpu", compile=choice)
    listener = Compilations()
    run(request, listener)
    assert len(compiled) == listener.count == expected


def test_only_a_large_input_on_a_gpu_gains_from_compiling(monkeypatch):
    embedder = Embedder(ProtT5(ModelConfig.preset("tiny")), device="cpu", precision="bf16")
    assert not embedder.gains_from_compiling(10**12)
    monkeypatch.setattr(module, "can_compile", lambda device: device == torch.device("cpu"))
    assert embedder.gains_from_compiling(10**9) and not embedder.gains_from_compiling(10**6)
    assert not Embedder(ProtT5(ModelConfig.preset("tiny")), device="cpu", precision="fp32").gains_from_compiling(10**12)
