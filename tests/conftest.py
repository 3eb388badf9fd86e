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
