"""Poolings: one dictionary that the embedder, the formats and the command line use."""

from __future__ import annotations

import numpy as np
import pytest

from prott5nv import Embedder, EmbeddingStore, ModelConfig, ProtT5, ProtT5nvError, seqs_to_embedding
from prott5nv.cli.embed import command
from prott5nv.embedding.formats import check_suffix
from prott5nv.embedding.job import embed_file
from prott5nv.embedding.pooling import POOLINGS, mean


def test_mean_averages_over_residues_without_loss_of_precision():
    rows_LD = np.full((100_000, 2), 0.1, dtype=np.float32)
    assert mean(rows_LD).dtype == np.float32
    np.testing.assert_array_equal(mean(rows_LD), np.full(2, 0.1, dtype=np.float32))


def test_a_function_in_the_dictionary_is_a_pooling(monkeypatch, tmp_path):
    monkeypatch.setitem(POOLINGS, "max", lambda rows_LD: rows_LD.max(axis=0))
    embedder = Embedder(ProtT5(ModelConfig.preset("tiny")), precision="fp32")
    [rows_LD] = seqs_to_embedding(["MSLKR"], embedder)
    np.testing.assert_allclose(seqs_to_embedding(["MSLKR"], embedder, pooling="max")[0], rows_LD.max(0), atol=1e-5)
    check_suffix(tmp_path / "out.npz", "max")
    (tmp_path / "p.fasta").write_text(">a\nMSLKR\n")
    embed_file(tmp_path / "p.fasta", tmp_path / "out.h5", embedder, pooling="max")
    store = EmbeddingStore(tmp_path / "out.h5")
    assert store.attributes["pooling"] == "max"
    np.testing.assert_allclose(store["a"], rows_LD.max(0), atol=1e-5)


def test_an_unknown_pooling_is_an_error_that_names_the_choices():
    with pytest.raises(ProtT5nvError, match=r"pooling='max': choose 'mean', or None"):
        seqs_to_embedding(["MSLKR"], ProtT5(ModelConfig.preset("tiny")), pooling="max")


def test_the_command_line_offers_every_pooling():
    [option] = [parameter for parameter in command.params if parameter.name == "pooling"]
    assert list(option.type.choices) == ["none", *POOLINGS]
    assert "mean: Average over the residues" in option.help
