"""Mimetic weights: where attention looks before training, and training from there."""

import math

import pytest
import torch
from helpers.fitting import Losses, fit

pytest.importorskip("nemo", reason="needs the train extra")

import prott5nv.model.prott5
from prott5nv import ModelConfig, ProtT5
from prott5nv.checkpoint.parameter_names import megatron_to_prott5
from prott5nv.errors import ProtT5nvError
from prott5nv.model.tokenizer import BOS, FIRST_SENTINEL
from prott5nv.pretraining.config import checked
from prott5nv.pretraining.initialization import mimetic
from prott5nv.pretraining.model import ProtT5nvModel

CONFIG = ModelConfig.preset("small", num_layers=2, decoder_num_layers=1, hidden_size=96, num_attention_heads=3)
LENGTH, MASKED = 120, (3, 40, 77, 119)


@pytest.fixture
def start():
    """A model before training, and a protein with some masked residues."""
    torch.manual_seed(0)
    model = ProtT5(CONFIG).eval()
    model.load_state_dict(mimetic(model.state_dict(), CONFIG, seed=1))
    tokens = torch.randint(5, 25, (LENGTH,))
    tokens[list(MASKED)] = torch.arange(len(MASKED)) + FIRST_SENTINEL
    return model, tokens


@pytest.fixture
def weights_of_attention(start):
    """Attention weights of each call, shape=(H, queries, keys)."""
    model, tokens = start
    targets = torch.tensor([BOS, *(token for i in range(len(MASKED)) for token in (FIRST_SENTINEL + i, 5 + i))])
    seen = []

    def attend(query, key, value, *packings, causal=False, **_unused):
        scores = torch.einsum("thc,shc->hts", query, key) / query.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
        seen.append(scores.softmax(-1))
        return torch.einsum("hts,shc->thc", seen[-1], value)

    ends = [torch.tensor([0, len(ids)], dtype=torch.int32) for ids in (tokens, targets)]
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(prott5nv.model.prott5, "packed_attention", attend)
        model.decode(targets, ends[1], model.encode(tokens, ends[0]), ends[0])
    return seen


@pytest.mark.parametrize("layer, head, offset", [(0, 0, -1), (0, 1, 1), (1, 0, -2), (1, 1, 2)])
def test_heads_look_at_neighbours(weights_of_attention, layer, head, offset):
    assert weights_of_attention[layer][head].diagonal(offset).mean() > 0.5


def test_one_head_is_not_set(weights_of_attention):
    assert weights_of_attention[0][2].max() < 0.5


def test_the_encoder_does_not_change_the_columns_of_position_and_sentinel(start):
    model, tokens = start
    rows = []
    for module in (model.encoder.layers[0], model.encoder.final_layernorm):
        module.register_forward_pre_hook(lambda _module, inputs: rows.append(inputs[0].clone()))
    with torch.no_grad():
        model.encode(tokens, torch.tensor([0, LENGTH], dtype=torch.int32))
    first_of_residue = 2 * CONFIG.hidden_size // CONFIG.num_attention_heads
    change_TD = rows[1] - rows[0]
    assert not change_TD[:, :first_of_residue].any()
    assert change_TD[:, first_of_residue:].std() > 0.5


def test_the_decoder_looks_at_its_sentinel(weights_of_attention):
    of_sentinels = weights_of_attention[-1][:, 1::2]
    for i, position in enumerate(MASKED):
        assert of_sentinels[:, i, position].mean() > 0.8


@pytest.mark.parametrize("width, heads", [(96, 3), (256, 8), (448, 14)])
def test_the_loss_starts_near_that_of_equal_probabilities(width, heads):
    config = ModelConfig.preset("builtin", num_layers=2, hidden_size=width, num_attention_heads=heads)
    torch.manual_seed(0)
    model = ProtT5(config).eval()
    model.load_state_dict(mimetic(model.state_dict(), config, seed=1))
    tokens = torch.randint(5, 25, (LENGTH,))
    residues = tokens[list(MASKED)].clone()
    sentinels = torch.arange(len(MASKED)) + FIRST_SENTINEL
    tokens[list(MASKED)] = sentinels
    targets = torch.stack([sentinels, residues], dim=1).flatten()
    inputs = torch.cat([torch.tensor([BOS]), targets[:-1]])
    ends = [torch.tensor([0, len(ids)], dtype=torch.int32) for ids in (tokens, targets)]
    with torch.no_grad():
        decoded_SD = model.decode(inputs, ends[1], model.encode(tokens, ends[0]), ends[0])
        loss = torch.nn.functional.cross_entropy(model.logits(decoded_SD), targets)
    assert abs(loss - math.log(config.padded_vocab_size)) < 1


def test_the_input_is_not_changed_and_the_seed_determines_the_weights():
    torch.manual_seed(0)
    fresh = ProtT5(CONFIG).state_dict()
    kept = {name: weight.clone() for name, weight in fresh.items()}
    first, again, other = (mimetic(fresh, CONFIG, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(fresh[name], kept[name]) for name in kept)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in ("embedding.position_embeddings.weight", "encoder.layers.1.self_attention.dense.weight"):
        assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize("method", ["normal", "mimetic"])
def test_initial_weights_do_not_depend_on_the_device(cfg, method):
    """Lightning builds models under the device of the run; the device "meta" stands for a GPU."""
    cfg.model.init_method = method
    expected, built = (ProtT5nvModel(cfg.model) for _ in range(2))
    expected.configure_model()
    with torch.device("meta"):
        built.configure_model()
    weights = dict(expected.named_parameters())
    assert all(torch.equal(parameter, weights[name]) for name, parameter in built.named_parameters())


@pytest.mark.slow
def test_a_run_starts_from_mimetic_weights_and_learns(cfg):
    cfg.model.init_method, cfg.model.optim.sched.warmup_steps, cfg.trainer.max_steps = "mimetic", 1, 8
    losses = Losses()
    _, model = fit(cfg, callbacks=[losses])
    positions = megatron_to_prott5(model.megatron.state_dict())["embedding.position_embeddings.weight"]
    assert positions.std() > 0.5  # normal initialization has 0.015
    assert losses.values[-1] < losses.values[0] - 0.05


@pytest.mark.parametrize(
    "setting, message",
    [({"init_method": "xavier"}, "normal, mimetic"), ({"num_attention_heads": 2}, "three attention")],
)
def test_settings_without_mimetic_weights_are_refused(cfg, setting, message):
    cfg.model.init_method = "mimetic"
    cfg.model.update(setting)
    with pytest.raises(ProtT5nvError, match=message):
        checked(cfg)
