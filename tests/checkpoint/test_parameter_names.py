"""The three naming schemes have the same parameters."""

from __future__ import annotations

import pytest
import torch

from prott5nv import ModelConfig, ProtT5, ProtT5nvError
from prott5nv.checkpoint.parameter_names import (
    megatron_to_prott5,
    nemo_to_prott5,
    parameter_shapes,
    prott5_to_megatron,
    prott5_to_nemo,
)


def test_shapes_are_those_of_the_model():
    config = ModelConfig.preset("tiny", num_layers=3, decoder_num_layers=1)
    found = {name: tuple(tensor.shape) for name, tensor in ProtT5(config).state_dict().items()}
    assert dict(parameter_shapes(config)) == found
    with torch.device("meta"):
        assert sum(p.numel() for p in ProtT5(ModelConfig()).parameters()) == ModelConfig().num_parameters == 198_970_496


def test_renaming_there_and_back_gives_the_same_names():
    state = dict(parameter_shapes(ModelConfig.preset("tiny")))
    state = {name: torch.tensor(i) for i, name in enumerate(state)}
    nemo = prott5_to_nemo(state)
    assert len(nemo) == len(state) + 2
    assert nemo_to_prott5(nemo) == state
    megatron = prott5_to_megatron(state)
    assert len(megatron) == len(state) and not megatron.keys() & {name for name in state if "dense" in name}
    assert megatron_to_prott5({**megatron, "encoder.layers.0.mlp._extra_state": None}) == state


@pytest.mark.parametrize(
    "name", ["enc_dec_model.encoder.model.final_layernorm.weight", "model.language_model.weight", "tokens_head.bias"]
)
def test_unknown_names_are_refused(name):
    with pytest.raises(ProtT5nvError, match=name):
        nemo_to_prott5({name: 0})


def test_different_copies_of_a_shared_table_are_refused():
    state = prott5_to_nemo({"embedding.word_embeddings.weight": torch.zeros(2, 2)})
    state["enc_dec_model.decoder_embedding.word_embeddings.weight"] = torch.ones(2, 2)
    with pytest.raises(ProtT5nvError, match="decoder_embedding"):
        nemo_to_prott5(state)
