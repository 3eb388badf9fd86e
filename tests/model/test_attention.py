"""Packed attention equals attention over the whole score matrix with a mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prott5nv.model.attention import Packing, _nested_attention, packed_attention

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


def test_nested_tensors_equal_the_reference():
    query_lengths, key_lengths = (3, 9, 1), (20, 4, 7)
    query, key, value = random_heads(query_lengths), random_heads(key_lengths), random_heads(key_lengths)
    arguments = query, key, value, packing(query_lengths), packing(key_lengths)
    torch.testing.assert_close(_nested_attention(*arguments, False, 0.0), reference(*arguments), atol=1e-5, rtol=1e-5)


def test_positions_restart_in_every_protein():
    assert packing((3, 1, 2)).positions_T.tolist() == [0, 1, 2, 0, 0, 1]
