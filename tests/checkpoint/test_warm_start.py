"""Training can start from a text model, or from a model for another length."""

from __future__ import annotations

import re

import pytest
import torch
from helpers.crafting import CONFIG, WEIGHTS, saved, write_tar

from prott5nv import ProtT5, ProtT5nvError
from prott5nv.checkpoint import read_nemo, warm_start_weights
from prott5nv.checkpoint.parameter_names import prott5_to_nemo


def resized(model: ProtT5, words: int, positions: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = dict(model.state_dict())
    width = model.config.hidden_size
    state["embedding.word_embeddings.weight"] = torch.randn(words, width)
    state["embedding.position_embeddings.weight"] = torch.randn(positions, width)
    state["tokens_head.bias"] = torch.randn(words)
    return state


@pytest.mark.parametrize(("words", "positions"), [(30_000, 40), (100, 5)])
def test_tables_of_a_text_model_are_resized(minute_model, minute_members, tmp_path, words, positions):
    """The tokenizer is not SentencePiece. Longer tables are truncated, and rows of shorter tables are repeated."""
    state = resized(minute_model, words, positions)
    config = re.sub(rb"nemo:\S+\.model", b"null", minute_members[CONFIG])
    config = re.sub(rb"max_position_embeddings: 16", b"max_position_embeddings: %d" % positions, config)
    config = re.sub(rb"(?m)^( *)seq_length: 16", rb"\1seq_length: %d" % positions, config)
    members = {name: content for name, content in minute_members.items() if not name.endswith(".model")}
    path = write_tar(tmp_path / "t5.nemo", {**members, CONFIG: config, WEIGHTS: saved(prott5_to_nemo(state))})

    with pytest.raises(ProtT5nvError, match="SentencePiece"):
        read_nemo(path)
    with pytest.warns(UserWarning) as caught:
        weights = warm_start_weights(path, minute_model.config)
    messages = "\n".join(str(warning.message) for warning in caught)
    change = "truncated" if words > 128 else "repeated"
    assert "ignores the tokenizer" in messages and f"{words} rows, {change} to 128" in messages
    assert f"{positions} rows, {change} to 16" in messages

    ProtT5(minute_model.config).load_state_dict(weights)
    table = "embedding.position_embeddings.weight"
    assert torch.equal(weights[table], torch.cat([state[table]] * 4)[:16])
    layer = "decoder.layers.0.mlp.dense_h_to_4h.weight"
    assert torch.equal(weights[layer], minute_model.get_parameter(layer))


def test_other_widths_are_refused(minute_model, minute_members, tmp_path):
    path = write_tar(tmp_path / "minute.nemo", minute_members)
    with pytest.raises(ProtT5nvError, match=r"num_layers=1, but this run has 2"):
        warm_start_weights(path, minute_model.config.replace(num_layers=2))
