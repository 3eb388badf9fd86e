"""Packed attention equals attention over the whole score matrix with a mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prott5nv.model.attention import Packing, _flash_attention, packed_attention

HEADS, CHANNELS = 2, 8
LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6)


def packing(lengths):
    return Packing(torch.tensor((0, *lengths)).cumsum(0).int())


def random_heads(lengths):
    return torch.randn(sum(lengths), HEADS, CHANNELS)


def reference(query, key, value, query_packing, key_packing, causal=False):
    """Softmax over the whole score matrix, with a mask that separates the proteins."""
    scores = torch.einsum("thc,shc->hts", query, key) / CHANNELS**0.5
    protein_t = torch.repeat_interleave(torch.tensor(query_packing.lengths))
    protein_s = torch.repeat_interleave(torch.tensor(key_packing.lengths))
    allowed = protein_t[:, None] == protein_s[None]
    if causal:
        allowed &= torch.arange(len(protein_t))[:, None] >= torch.arange(len(protein_s))[None]
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    return torch.einsum("hts,shc->thc", weights, value)


@settings(max_examples=30, deadline=None)
@given(LENGTHS)
def test_cross_attention_stays_within_each_protein(lengths):
    query_lengths, key_lengths = zip(*lengths, strict=True)
    query, key, value = random_heads(query_lengths), random_heads(key_lengths), random_heads(key_lengths)
    arguments = query, key, value, packing(query_lengths), packing(key_lengths)
    torch.testing.assert_close(packed_attention(*arguments), reference(*arguments), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [(5, 5, 5), (1,), (7, 7, 3, 3, 7), (1, 30, 2)])
def test_self_attention_and_gradients_equal_the_reference(lengths, causal):
    ours = packing(lengths)
    query, key, value = (random_heads(lengths).requires_grad_() for _ in range(3))
    out = packed_attention(query, key, value, ours, ours, causal=causal)
    expected = reference(query, key, value, ours, ours, causal)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(out)
    gradients = torch.autograd.grad((out * weights).sum(), (query, key, value))
    for gradient, expected_gradient in zip(
        gradients, torch.autograd.grad((expected * weights).sum(), (query, key, value)), strict=True
    ):
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_bf16_training_equals_the_reference_and_bf16_inference(causal):
    ours = packing((9, 9, 4))
    query, key, value = (random_heads((9, 9, 4)).bfloat16().requires_grad_() for _ in range(3))
    out = packed_attention(query, key, value, ours, ours, causal=causal)
    expected = reference(query.float(), key.float(), value.float(), ours, ours, causal)
    torch.testing.assert_close(out.float(), expected, atol=2e-2, rtol=2e-2)
    with torch.no_grad():
        fused = packed_attention(query, key, value, ours, ours, causal=causal)
    torch.testing.assert_close(out.float(), fused.float(), atol=2e-2, rtol=2e-2)


def test_dropout_keeps_the_mean_of_attention_weights():
    lengths = packing((2000,))
    query = torch.zeros(2000, 1, CHANNELS, dtype=torch.bfloat16, requires_grad=True)
    value = torch.ones(2000, 1, CHANNELS, dtype=torch.bfloat16)
    out = packed_attention(query, query, value, lengths, lengths, dropout=0.5).float()
    assert out.std() > 0.01 and abs(out.mean() - 1) < 0.02


def test_the_operator_for_gpus_exists_and_is_differentiable():
    """The device "meta" computes shapes only; the tests marked with "gpu" compare the values."""
    query, key, value = (
        torch.empty(tokens, HEADS, CHANNELS, dtype=torch.bfloat16, device="meta", requires_grad=True)
        for tokens in (13, 31, 31)
    )
    out = _flash_attention(query, key, value, packing((3, 9, 1)), packing((20, 4, 7)), False, 0.1)
    out.sum().backward()
    assert out.shape == query.grad.shape == query.shape and key.grad.shape == value.grad.shape == key.shape


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
def test_a_gpu_computes_the_values_and_gradients_of_the_reference(causal):
    ours = packing((5, 300, 1, 44))
    query, key, value = (random_heads((5, 300, 1, 44)).bfloat16().requires_grad_() for _ in range(3))
    on_gpu = [x.detach().cuda().requires_grad_() for x in (query, key, value)]
    packed = Packing(ours.cu_seqlens.cuda())
    out = packed_attention(*on_gpu, packed, packed, causal=causal)
    expected = reference(query.float(), key.float(), value.float(), ours, ours, causal)
    torch.testing.assert_close(out.float().cpu(), expected, atol=2e-2, rtol=2e-2)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((out.float() * weights.cuda()).sum(), on_gpu)
    for gradient, expected_gradient in zip(
        gradients, torch.autograd.grad((expected * weights).sum(), (query, key, value)), strict=True
    ):
        torch.testing.assert_close(gradient.float().cpu(), expected_gradient.float(), atol=5e-2, rtol=5e-2)


@pytest.mark.gpu
def test_dropout_on_a_gpu_has_its_probability_and_its_seed():
    lengths = Packing(torch.tensor([0, 2000], dtype=torch.int32, device="cuda"))
    query = torch.zeros(2000, 1, CHANNELS, dtype=torch.bfloat16, device="cuda")
    value = torch.ones_like(query)

    def drop(seed):
        torch.manual_seed(seed)
        return packed_attention(query, query, value, lengths, lengths, dropout=0.5).float()

    out = drop(1)
    assert out.std() > 0.01 and abs(out.mean() - 1) < 0.02
    assert torch.equal(out, drop(1)) and not torch.equal(out, drop(2))


@pytest.mark.gpu
def test_gradients_of_dropout_on_a_gpu_belong_to_its_mask():
    """With values and weights of one protein as unit vectors, the output is the attention matrix after dropout."""
    length, probability = 64, 0.5
    lengths = Packing(torch.tensor([0, length], dtype=torch.int32, device="cuda"))
    query, key = (torch.randn(length, 1, length, device="cuda").bfloat16().requires_grad_() for _ in range(2))
    value = torch.eye(length, device="cuda").bfloat16()[:, None].requires_grad_()
    torch.manual_seed(0)
    out = packed_attention(query, key, value, lengths, lengths, dropout=probability)
    mask = (out.detach() != 0).float().squeeze(1)
    assert abs(mask.mean() - (1 - probability)) < 0.05
    q, k, v = (x.detach().float().squeeze(1).requires_grad_() for x in (query, key, value))
    weights = (q @ k.T / length**0.5).softmax(-1) * mask / (1 - probability)
    upstream = torch.randn(length, length, device="cuda")
    gradients = torch.autograd.grad((out.squeeze(1).float() * upstream).sum(), (query, key, value))
    expected = torch.autograd.grad(((weights @ v) * upstream).sum(), (q, k, v))
    for gradient, expected_gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient.squeeze(1).float(), expected_gradient, atol=5e-2, rtol=5e-2)


def test_positions_restart_in_every_protein():
    assert packing((3, 1, 2)).positions_T.tolist() == [0, 1, 2, 0, 0, 1]
