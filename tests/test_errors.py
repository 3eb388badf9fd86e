"""Warnings that name the user's line."""

from __future__ import annotations

import pytest

from prott5nv import ModelConfig, ProtT5, seqs_to_embedding
from prott5nv.embedding.embedder import LongProteinWarning


def test_a_warning_names_the_line_that_called_the_package():
    model = ProtT5(ModelConfig.preset("tiny"))
    with pytest.warns(LongProteinWarning) as warned:
        seqs_to_embedding(["M" * (model.config.max_residues + 1)], model)
    assert [warning.filename for warning in warned] == [__file__]
