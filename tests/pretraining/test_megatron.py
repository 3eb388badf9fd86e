"""The Megatron-Core model and ProtT5 compute the same numbers from the same weights."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("nemo", reason="needs the train extra")
pytest.importorskip("megatron.core", reason="needs the train extra")

from prott5nv import ModelConfig, ProtT5
from prott5nv.checkpoint.parameter_names import megatron_to_prott5, prott5_to_megatron
from prott5nv.model.attention import Packing
from prott5nv.pretraining.megatron import MegatronProtT5, initialize_parallel

LENGTHS = (31, 1, 64, 7)
TARGETS = (11, 3, 21, 5)


@pytest.fixture(scope="module")
def models(device):
    initialize_parallel()
    torch.manual_seed(0)
    config = ModelConfig.preset("tiny", hidden_dropout=0.0, attention_dropout=0.0, decoder_num_layers=1)
    plain = ProtT5(config)
    with torch.no_grad():
        for (
            parameter
        ) in plain.parameters():  # change the initial biases and norms, with which an omission would have no effect
            parameter.add_(0.05 * torch.randn_like(parameter))
    megatron = MegatronProtT5(config)
    missing, unexpected = megatron.load_state_dict(prott5_to_megatron(plain.state_dict()), strict=False)
    assert not unexpected and all(name.endswith("_extra_state") for name in missing)
    return plain.to(device), megatron.to(device)


@pytest.fixture(scope="module")
def batch(device):
    generator = torch.Generator().manual_seed(1)

    def draw(lengths):
        cu_seqlens = torch.tensor((0, *lengths), dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return torch.randint(0, 128, (sum(lengths),), generator=generator), cu_seqlens

    enc_tokens, enc_cu_seqlens = draw(LENGTHS)
    dec_tokens, dec_cu_seqlens = draw(TARGETS)
    labels = torch.randint(0, 128, (sum(TARGETS),), generator=generator)
    tensors = {
        "enc_tokens": enc_tokens,
        "enc_cu_seqlens": enc_cu_seqlens,
        "dec_tokens": dec_tokens,
        "dec_cu_seqlens": dec_cu_seqlens,
        "dec_labels": labels,
    }
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def test_the_parameters_have_the_same_names_and_number(models):
    plain, megatron = models
    assert megatron_to_prott5(megatron.state_dict()).keys() == plain.state_dict().keys()
    assert sum(p.numel() for p in megatron.parameters()) == plain.config.num_parameters


def test_hidden_states_agree(models, batch):
    plain, megatron = models
    with torch.no_grad():
        ours = plain.encode(batch["enc_tokens"], batch["enc_cu_seqlens"])
        theirs = megatron.encode(batch["enc_tokens"], Packing(batch["enc_cu_seqlens"])).squeeze(1)
    assert (ours - theirs).abs().max() <= 1e-5


def test_logits_and_gradients_agree(models, batch):
    plain, megatron = models
    hidden = plain.encode(batch["enc_tokens"], batch["enc_cu_seqlens"])
    decoded = plain.decode(batch["dec_tokens"], batch["dec_cu_seqlens"], hidden, batch["enc_cu_seqlens"])
    ours = plain.logits(decoded)
    theirs = megatron(batch)
    assert (ours - theirs).abs().max() <= 1e-5 * ours.abs().max()

    F.cross_entropy(ours, batch["dec_labels"]).backward()
    F.cross_entropy(theirs, batch["dec_labels"]).backward()
    gradients = megatron_to_prott5({name: p.grad for name, p in megatron.named_parameters()})
    for name, parameter in plain.named_parameters():
        difference = (parameter.grad - gradients[name]).abs().max()
        assert difference <= 1e-5 * parameter.grad.abs().max(), name
