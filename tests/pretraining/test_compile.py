"""Compiled layers and micro-batches of constant size compute what others compute."""

from functools import partial

import pytest
import torch

pytest.importorskip("nemo", reason="needs the train extra")

from helpers.fitting import Losses, fit
from omegaconf import OmegaConf
from torch._dynamo.utils import counters

from prott5nv import ModelConfig, ProtT5nvError
from prott5nv.data.micro_batch import BatchShape
from prott5nv.model import attention
from prott5nv.pretraining import megatron
from prott5nv.pretraining.config import checked
from prott5nv.pretraining.megatron import MegatronProtT5, initialize_parallel
from prott5nv.pretraining.trainer import build_trainer


@pytest.fixture
def eager_backend(monkeypatch):
    """Let torch.compile trace the layers and their gradients, but generate no code, which takes minutes on a CPU."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def trained(cfg, **model_settings):
    """Return the losses and the weights of a run."""
    losses = Losses()
    _, model = fit(OmegaConf.merge(cfg, {"model": model_settings}), callbacks=[losses])
    return losses.values, {name: weight.detach() for name, weight in model.megatron.named_parameters()}


def assert_equal_runs(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for name, weight in expected[1].items():
        torch.testing.assert_close(found[1][name], weight, atol=2e-5, rtol=0, msg=name)


@pytest.mark.slow
def test_constant_sizes_do_not_change_a_step(cfg, monkeypatch):
    expected = trained(cfg)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    for limit in ({"micro_batch_size": 3}, {"data": {"tokens_per_micro_batch": 1000}}):
        assert_equal_runs(trained(cfg, compile=True, **limit), expected)


@pytest.mark.slow
def test_compiled_layers_train_as_others(cfg, eager_backend):
    cfg.trainer.max_steps, cfg.model.num_layers, cfg.model.decoder_num_layers = 2, 1, 1
    assert_equal_runs(trained(cfg, compile=True), trained(cfg))


def random_batch(shape, device):
    generator = torch.Generator().manual_seed(0)

    def draw(tokens):
        boundaries = torch.linspace(0, tokens, shape.sequences + 1).int()
        return torch.randint(0, 128, (tokens,), generator=generator).to(device), boundaries.to(device)

    (encoder, encoder_starts), (decoder, decoder_starts) = draw(shape.encoder_tokens), draw(shape.decoder_tokens)
    return {
        "enc_tokens": encoder,
        "enc_cu_seqlens": encoder_starts,
        "dec_tokens": decoder,
        "dec_cu_seqlens": decoder_starts,
    }


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_on_a_gpu_a_layer_is_one_graph_that_serves_all_layers(monkeypatch, eager_backend, recompute):
    """The device "meta" stands for a GPU. The first layer of each stack gets a tensor of other strides."""
    for module in (attention, megatron):
        monkeypatch.setattr(module, "has_flash_attention", lambda query: True)
    initialize_parallel()
    config = ModelConfig.preset("tiny", num_layers=6, decoder_num_layers=6, hidden_dropout=0.1, attention_dropout=0.1)
    model = MegatronProtT5(config, compiled=True, recompute=recompute).train().to("meta")
    counters.clear()
    for _ in range(2):
        model(random_batch(BatchShape(96, 32, 4, 512, 155), "meta")).sum().backward()
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] <= 4


def test_compilation_is_checked(cfg):
    assert "compile" not in vars(build_trainer(cfg))
    for changes, message in (
        ({"trainer": {"compile": "sometimes"}}, "trainer.compile=sometimes: choose one of true, false, auto"),
        ({"model": {"compile": True, "tensor_model_parallel_size": 2}}, "trainer.compile=true needs"),
    ):
        with pytest.raises(ProtT5nvError, match=message):
            checked(OmegaConf.merge(cfg, changes))
