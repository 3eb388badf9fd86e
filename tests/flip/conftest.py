"""Fixtures of the fine-tuning tests."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(scope="package", autouse=True)
def restored_logging():
    """The commands print what the package logs; undo this for the tests of other packages."""
    logger = logging.getLogger("prott5nv")
    before = logger.handlers, logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])
