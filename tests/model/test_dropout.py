"""Dropout on a CPU has the right rate, mean and gradient, and follows PyTorch's random state."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from prott5nv.model.dropout import dropout


@pytest.mark.slow
@given(st.floats(0.01, 0.9), st.integers(0, 2**32))
def test_dropout_has_the_given_probability_and_keeps_the_mean(probability, seed):
    torch.manual_seed(seed)
    kept = dropout(torch.ones(100_001), probability)
    # The tolerance is six standard deviations of the dropped fraction of a hundred thousand values.
    assert abs((kept == 0).double().mean() - probability) < 6 * (probability * (1 - probability) / 1e5) ** 0.5
    assert torch.allclose(kept[kept != 0], torch.tensor(1 / (1 - probability)), rtol=1e-3)


def test_neighbouring_values_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(400_000), 0.5) == 0).double()
    for distance in (1, 2, 3, 4, 5):  # four values share one draw of the generator
        both = (dropped[:-distance] * dropped[distance:]).mean()
        assert abs(both - 0.25) < 0.005


def test_the_gradient_is_zero_where_a_value_was_dropped():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    y = dropout(x, 0.25)
    y.sum().backward()
    assert torch.allclose(x.grad, (y != 0).double() / (1 - 0.25))


def test_the_random_state_determines_the_result():
    x = torch.randn(1000)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = dropout(x, 0.1), dropout(x, 0.1)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.1), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_probability_zero_keeps_all_values_and_the_dtype_never_changes(dtype):
    x = torch.randn(10, dtype=dtype)
    assert torch.equal(dropout(x, 0.0), F.dropout(x, 0.0))
    assert dropout(x, 0.5).dtype == dtype
