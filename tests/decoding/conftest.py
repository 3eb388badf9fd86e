"""Random models whose weights have a large standard deviation, so that their probabilities differ clearly."""

from __future__ import annotations

import pytest
import torch

from prott5nv import Embedder, ModelConfig, ProtT5


def make_model(**overrides) -> ProtT5:
    torch.manual_seed(0)
    return ProtT5(ModelConfig.preset("tiny", init_method_std=0.2, **overrides)).eval()


@pytest.fixture(scope="session")
def model() -> ProtT5:
    return make_model()


@pytest.fixture(scope="session")
def embedder(model) -> Embedder:
    return Embedder(model, device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def short_window() -> Embedder:
    """A model that sees 32 residues at once and predicts at most 5 masked ones."""
    model = make_model(seq_length=32, max_position_embeddings=32, seq_length_dec=10)
    return Embedder(model, device="cpu", precision="fp32")
