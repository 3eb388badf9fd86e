"""Descriptions of stored tensors are complete before any weights are read."""

from __future__ import annotations

import io

import pytest
import torch
from helpers.crafting import saved

from prott5nv import ProtT5nvError
from prott5nv.checkpoint.weights import Weights


def weights(state: dict) -> Weights:
    return Weights(io.BufferedReader(io.BytesIO(saved(state))), "weights")


def test_tensors_are_described_and_read():
    state = {
        "matrix": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "half": torch.ones(2, 1, 5, dtype=torch.bfloat16),
        "scalar": torch.tensor(7.0, dtype=torch.float64),
        "_extra_state": None,
    }
    stored = weights(state)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in stored.tensors.items()} == {
        "matrix": ("float32", (3, 4)),
        "half": ("bfloat16", (2, 1, 5)),
        "scalar": ("float64", ()),
    }
    tensors = stored.read(["scalar", "matrix"])
    assert list(tensors) == ["scalar", "matrix"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in tensors.items())


def test_tensors_with_one_storage_share_memory():
    buffer = torch.arange(10.0)
    tensors = weights({"first": buffer[:6].view(2, 3), "last": buffer[6:]}).read(["first", "last"])
    assert torch.equal(tensors["first"], buffer[:6].view(2, 3)) and torch.equal(tensors["last"], buffer[6:])
    assert tensors["first"].untyped_storage().data_ptr() == tensors["last"].untyped_storage().data_ptr()


def test_only_the_named_tensors_are_checked_for_nan():
    stored = weights({"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")])})
    assert torch.equal(stored.read(["good"])["good"], torch.ones(2))
    with pytest.raises(ProtT5nvError, match="'bad' contains NaN or infinity"):
        stored.read(["bad"])
