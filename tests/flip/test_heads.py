"""Heads on packed proteins, their features, and the encoder in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from prott5nv import ProtT5nvError, load
from prott5nv.embedding.embedder import Embedder
from prott5nv.flip.features import LiveEncoder, OneHot, stored_embeddings
from prott5nv.flip.heads import HEADS, ConvNet, make_head

LENGTHS = [5, 1, 30]
SETTINGS = yaml.safe_load((Path(__file__).parents[2] / "conf/task.yaml").read_text())["head"]
KINDS = [(level, name) for level, names in HEADS.items() for name in names]
SEQUENCES = ["MSLKR", "A", "MKVLAWQXBZ" * 60]  # the last one is longer than the position table
NAMES = ["P1", "P2", "P3"]


@pytest.mark.parametrize(("level", "name"), KINDS)
def test_scores_of_a_protein_do_not_depend_on_its_neighbours(level, name):
    torch.manual_seed(0)
    head = make_head(level, 8, 3, name, **SETTINGS[name]).eval()
    rows = torch.randn(sum(LENGTHS), 8)
    together = head(rows, LENGTHS)
    alone = torch.cat([head(each, [len(each)]) for each in rows.split(LENGTHS)])
    assert together.shape == (sum(LENGTHS) if level == "residue" else len(LENGTHS), 3)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_convnet_equals_two_convolutions_of_a_padded_protein():
    """As in BioNeMo v1, but with the padding set to zero between the convolutions."""
    torch.manual_seed(0)
    head = ConvNet(8, 3, **SETTINGS["convnet"]).eval()
    rows = torch.randn(sum(LENGTHS), 8)
    for protein, scores in zip(rows.split(LENGTHS), head(rows, LENGTHS).split(LENGTHS), strict=True):
        hidden = nn.functional.conv1d(protein.T[None], head.first.weight, head.first.bias, padding=3).relu()
        expected = nn.functional.conv1d(hidden, head.second.weight, head.second.bias, padding=3)[0].T
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", HEADS["residue"])
def test_residue_heads_see_whitened_features(name):
    """The scores do not depend on the mean of the features or on the scale of their directions."""
    torch.manual_seed(0)
    rows = torch.randn(500, 8) * torch.logspace(1, 0, 8) @ torch.linalg.qr(torch.randn(8, 8)).Q + 5
    head = make_head("residue", 8, 3, name, **SETTINGS[name]).eval()
    plain = make_head("residue", 8, 3, name, **SETTINGS[name]).eval()
    plain.load_state_dict(head.state_dict())
    head.standardize(rows)
    white = (rows - rows.mean(0)) @ head.whitening
    torch.testing.assert_close(white.T.cov(correction=0), torch.eye(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(head(rows, [500]), plain(white, [500]), atol=1e-4, rtol=1e-4)


def test_a_direction_that_barely_varies_is_not_amplified():
    head = make_head("residue", 3, 2, "linear")
    rows = torch.randn(500, 3) * torch.tensor([1.0, 1.0, 1e-5])
    rows[:, 0] = 2  # and one that does not vary at all
    head.standardize(rows)
    white = (rows - rows.mean(0)) @ head.whitening
    assert white.isfinite().all() and sorted(white.std(0).round(decimals=1).tolist()) == [0, 0, 1]


def test_unknown_head_or_setting():
    with pytest.raises(ProtT5nvError, match="heads for a protein are mlp, linear, light_attention"):
        make_head("protein", 8, 3, "convnet")
    with pytest.raises(ProtT5nvError, match="unexpected keyword argument 'depth'"):
        make_head("residue", 8, 3, "convnet", depth=3)


def test_one_hot_composition():
    rows, lengths = OneHot(["AAC", "J"], pooled=True).batch([0, 1])
    assert lengths == [1, 1] and sorted(rows[0].tolist())[-2:] == pytest.approx([1 / 3, 2 / 3])
    assert not rows[1].any()  # a letter without a token of its own


@pytest.mark.parametrize("pooled", [False, True])
def test_cache_contains_embeddings_by_windows(pooled, tiny_checkpoint, tmp_path):
    counted = []
    settings = {"pooled": pooled, "precision": "fp32", "on_progress": counted.append}
    rows, lengths = stored_embeddings(NAMES, SEQUENCES, tiny_checkpoint, tmp_path, **settings).batch([2, 0])
    embedder = Embedder(tiny_checkpoint, precision="fp32")
    embedded = [
        protein_rows for _, protein_rows in embedder.embed(SEQUENCES, long="window", pooling="mean" if pooled else None)
    ]
    expected = np.concatenate([np.atleast_2d(embedded[2]), np.atleast_2d(embedded[0])])
    np.testing.assert_allclose(rows.numpy(), expected, rtol=2e-3, atol=2e-3)
    assert lengths == ([1, 1] if pooled else [600, 5]) and counted == [5, 1, 600]
    stored_embeddings(NAMES, SEQUENCES, tiny_checkpoint, tmp_path, **settings)
    assert len(counted) == 3 and len(list(tmp_path.iterdir())) == 1  # read from the cache


def test_cache_distinguishes_inputs(tiny_checkpoint, tmp_path):
    for sequences, pooled in ((["MS"], True), (["MS"], False), (["M", "S"], False), (["SM"], False)):
        stored_embeddings(sequences, sequences, tiny_checkpoint, tmp_path, pooled=pooled)
    assert len(list(tmp_path.iterdir())) == 4


def test_encoder_in_training_equals_inference(tiny_checkpoint):
    encoder = LiveEncoder(load(tiny_checkpoint), SEQUENCES).eval()
    rows, lengths = encoder.batch([2, 1])
    embedded = list(Embedder(tiny_checkpoint, precision="fp32").embed(SEQUENCES, long="window"))
    expected = np.concatenate([embedded[2][1], embedded[1][1]])
    assert lengths == [600, 1] and rows.requires_grad
    np.testing.assert_allclose(rows.detach().numpy(), expected, atol=1e-4)
