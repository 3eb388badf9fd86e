"""A minimal checkpoint to modify, and a temporary folder that must be empty after the test."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from helpers.crafting import read_members

from prott5nv import ModelConfig, ProtT5
from prott5nv.checkpoint import save_nemo


@pytest.fixture(scope="session")
def minute_model() -> ProtT5:
    """A model of a few kilobytes with random values in all parameters."""
    torch.manual_seed(0)
    widths = dict(hidden_size=8, ffn_hidden_size=16, num_attention_heads=2)
    config = ModelConfig(num_layers=1, seq_length=16, max_position_embeddings=16, **widths)
    model = ProtT5(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


@pytest.fixture(scope="session")
def minute_members(minute_model, tmp_path_factory) -> dict[str, bytes]:
    """Members of that model's ``.nemo`` file, by name."""
    path = tmp_path_factory.mktemp("minute") / "minute.nemo"
    save_nemo(path, minute_model.config, minute_model.state_dict())
    return read_members(path)


@pytest.fixture
def temporary_folder(tmp_path, monkeypatch) -> Path:
    """Folder for temporary files during the test, which must be empty at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert [path.name for path in folder.iterdir()] == []
