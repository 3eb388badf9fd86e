"""Presets, parameter counts and validation of the model configuration."""

from __future__ import annotations

import math

import pytest

from prott5nv import ModelConfig, ProtT5, ProtT5nvError


@pytest.mark.parametrize("positions, parameters", [(512, 198_970_496), (256, 198_773_888), (1024, 199_363_712)])
def test_published_parameter_counts(positions, parameters):
    config = ModelConfig.preset("prott5nv", seq_length=min(512, positions), max_position_embeddings=positions)
    assert config.num_parameters == parameters


def test_layers_per_stack():
    assert ModelConfig(num_layers=3).layers_per_stack == {"encoder": 3, "decoder": 3}
    assert ModelConfig(num_layers=3, decoder_num_layers=1).layers_per_stack == {"encoder": 3, "decoder": 1}


@pytest.mark.parametrize("name", ["builtin", "small", "tiny"])
def test_parameter_count_equals_that_of_the_built_model(name):
    config = ModelConfig.preset(name)
    assert sum(p.numel() for p in ProtT5(config).parameters()) == config.num_parameters <= 16_000_000


def test_nested_nemo_config_round_trips():
    config = ModelConfig.preset("tiny", decoder_num_layers=1, masked_lm_prob=0.1, bias_activation_fusion=False)
    assert ModelConfig.from_nemo(config.to_nemo()) == config


def test_flat_nemo_config_equals_the_nested_one():
    config = ModelConfig.preset("tiny")
    flat = {key: value for key, value in config.to_nemo().items() if key not in ("encoder", "decoder")}
    assert ModelConfig.from_nemo(flat) == config


def test_the_older_name_of_the_gelu_flag_is_read():
    assert not ModelConfig.from_nemo({"bias_gelu_fusion": False}).bias_activation_fusion


def test_numbers_written_as_text_become_numbers():
    assert ModelConfig.from_nemo({"layernorm_epsilon": "1e-5"}).layernorm_epsilon == 1e-5


@pytest.mark.parametrize(
    "values, message",
    [
        ({"hidden_size": 10}, "num_attention_heads=12"),
        ({"hidden_size": "wide"}, "hidden_size='wide'"),
        ({"hidden_size": -768}, "hidden_size=-768|hidden_size='-768'"),
        ({"num_layers": 1.5}, "num_layers"),
        ({"num_layers": 2**40}, "num_layers"),
        ({"hidden_dropout": 1.0}, "hidden_dropout"),
        ({"layernorm_epsilon": math.nan}, "layernorm_epsilon"),
        ({"seq_length": 513}, "max_position_embeddings"),
        ({"bias_activation_fusion": "yes"}, "bias_activation_fusion"),
        ({"normalization": "rmsnorm"}, "another architecture"),
        ({"encoder": {"position_embedding_type": "relative"}}, "another architecture"),
        ({"encoder": [1]}, "not a mapping"),
        ({"kv_channels": 32}, "kv_channels"),
        ({"hidden_size": 768, "decoder": {"hidden_size": 512}}, "differ in hidden_size"),
    ],
)
def test_errors_name_the_invalid_value(values, message):
    with pytest.raises(ProtT5nvError, match=message):
        ModelConfig.from_nemo(values)


def test_pretraining_refuses_lengths_that_need_more_sentinels():
    ModelConfig(seq_length=640, max_position_embeddings=640).check_pretraining()
    with pytest.raises(ProtT5nvError, match="the limit is seq_length=640"):
        ModelConfig(seq_length=641, max_position_embeddings=641).check_pretraining()
    # Longer spans need fewer sentinels.
    ModelConfig(masked_lm_prob=0.3).check_pretraining(mean_span_length=1.6)
    with pytest.raises(ProtT5nvError, match="the limit is seq_length=480"):
        ModelConfig(masked_lm_prob=0.3).check_pretraining(mean_span_length=1.5)


def test_an_unknown_preset_lists_all_presets():
    with pytest.raises(ProtT5nvError, match="prott5nv, small, builtin, tiny"):
        ModelConfig.preset("huge")
