"""The model: independence of proteins, causality, precision and length limits."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from prott5nv import ModelConfig, ProtT5, ProtT5nvError

CONFIG = ModelConfig.preset("tiny", hidden_dropout=0.0, attention_dropout=0.0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = ProtT5(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def packed(*proteins):
    lengths = torch.tensor([0, *(len(protein) for protein in proteins)])
    return torch.cat(proteins), lengths.cumsum(0).int()


def tokens(*lengths):
    return [torch.randint(5, 25, (length,)) for length in lengths]


def test_a_protein_does_not_depend_on_its_neighbours(model):
    proteins = tokens(1, 77, 512, 20)
    with torch.no_grad():
        together = model.encode(*packed(*proteins)).split([len(protein) for protein in proteins])
        for protein, hidden in zip(proteins, together, strict=True):
            torch.testing.assert_close(model.encode(*packed(protein)), hidden, atol=1e-5, rtol=0)


def test_the_order_of_residues_matters(model):
    protein = tokens(30)[0]
    with torch.no_grad():
        forward, backward = model.encode(*packed(protein)), model.encode(*packed(protein.flip(0)))
    assert (forward - backward.flip(0)).abs().max() > 1e-2


def test_the_decoder_sees_only_earlier_tokens_and_its_own_protein(model):
    proteins, targets = tokens(20, 30), tokens(7, 9)
    with torch.no_grad():
        hidden, cu_seqlens = model.encode(*packed(*proteins)), packed(*proteins)[1]

        def logits(targets, hidden):
            return model.logits(model.decode(*packed(*targets), hidden, cu_seqlens))

        before = logits(targets, hidden)
        targets[1][5] += 1  # token 7 + 5 of the packed decoder input
        later = logits(targets, hidden)
        torch.testing.assert_close(before[:12], later[:12], atol=1e-5, rtol=0)
        assert (before[12:] - later[12:]).abs().max() > 1e-3

        targets[1][5] -= 1
        hidden[20:] += 1.0  # the second protein's encoder output
        other = logits(targets, hidden)
        torch.testing.assert_close(before[:7], other[:7], atol=1e-5, rtol=0)
        assert (before[7:] - other[7:]).abs().max() > 1e-3


def test_the_configuration_selects_erf_or_tanh_gelu(model):
    erf = ProtT5(CONFIG.replace(bias_activation_fusion=False)).eval()
    erf.load_state_dict(model.state_dict())
    protein = packed(*tokens(40))
    with torch.no_grad():
        assert 1e-6 < (model.encode(*protein) - erf.encode(*protein)).abs().max() < 1e-1


def test_bf16_stays_close_to_fp32(model):
    protein = packed(*tokens(100, 3))
    half = ProtT5(CONFIG).eval().bfloat16()
    half.load_state_dict(model.state_dict())
    with torch.no_grad():
        cosine = F.cosine_similarity(model.encode(*protein), half.encode(*protein).float(), dim=-1)
    assert cosine.min() > 0.999


@pytest.mark.parametrize("fused", [True, False])
def test_bf16_feed_forward_is_the_same_with_and_without_gradients(fused):
    torch.manual_seed(0)
    config = ModelConfig.preset("tiny", bias_activation_fusion=fused, init_method_std=0.1)
    feed_forward = ProtT5(config).bfloat16().encoder.layers[0].mlp
    x_TD = torch.randn(50, config.hidden_size).bfloat16()
    trained = feed_forward(x_TD)
    with torch.no_grad():
        torch.testing.assert_close(feed_forward(x_TD), trained.detach(), atol=2e-2, rtol=2e-2)


def test_the_error_for_a_long_protein_names_the_limit(model):
    with pytest.raises(ProtT5nvError, match="513 residues; this model sees at most 512"):
        model.encode(*packed(*tokens(513)))


def test_dropout_is_active_only_in_training():
    model = ProtT5(ModelConfig.preset("tiny", hidden_dropout=0.5, attention_dropout=0.5))
    protein = packed(*tokens(50))
    assert not torch.equal(model.encode(*protein), model.encode(*protein))
    model.eval()
    assert torch.equal(model.encode(*protein), model.encode(*protein))


def test_the_checksum_depends_on_configuration_and_weights(model):
    copied = copy.deepcopy(model)
    assert copied.sha256() == model.sha256()
    with torch.no_grad():
        copied.tokens_head.bias[3] += 1
    assert copied.sha256() != model.sha256()
    torch.manual_seed(0)
    first = ProtT5(ModelConfig.preset("tiny"))
    other = ProtT5(ModelConfig.preset("tiny", bias_activation_fusion=not first.config.bias_activation_fusion))
    other.load_state_dict(first.state_dict())
    assert other.sha256() != first.sha256()
    assert copy.deepcopy(model).bfloat16().sha256() != model.sha256()
