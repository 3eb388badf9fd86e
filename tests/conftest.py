"""Fixtures that more than one test module uses."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of genuine files beside the repository; tests that need it are skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder of genuine checkpoints and corpora beside the repository")
    return folder


@pytest.fixture(scope="session")
def examples() -> Path:
    """The repository's own small proteins."""
    return REPOSITORY / "examples"


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of random weights, small enough to be used anywhere."""
    import torch

    from prott5nv import ModelConfig, ProtT5
    from prott5nv.checkpoint import save_nemo

    torch.manual_seed(0)
    model = ProtT5(ModelConfig.preset("tiny", init_method_std=0.2))
    path = tmp_path_factory.mktemp("tiny_checkpoint") / "tiny.nemo"
    save_nemo(path, model.config, model.state_dict())
    return path
