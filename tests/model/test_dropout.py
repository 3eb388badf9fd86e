import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from prott5nv.model.dropout import dropout


@given(st.floats(0.01, 0.9), st.integers(0, 2**32))
def test_as_many_values_are_dropped_as_asked_and_the_mean_stays(probability, seed):
    torch.manual_seed(seed)
    kept = dropout(torch.ones(100_001), probability)
    # Six standard deviations of the share that a hundred thousand draws drop.
    assert abs((kept == 0).double().mean() - probability) < 6 * (probability * (1 - probability) / 1e5) ** 0.5
    assert torch.allclose(kept[kept != 0], torch.tensor(1 / (1 - probability)), rtol=1e-3)


def test_neighbouring_values_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(400_000), 0.5) == 0).double()
    for distance in (1, 2, 3, 4, 5):  # four values share one draw of the generator
        both = (dropped[:-distance] * dropped[distance:]).mean()
        assert abs(both - 0.25) < 0.005


def test_the_gradient_passes_where_a_value_passed():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    y = dropout(x, 0.25)
    y.sum().backward()
    assert torch.allclose(x.grad, (y != 0).double() / (1 - 0.25))


def test_the_generators_state_decides():
    x = torch.randn(1000)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = dropout(x, 0.1), dropout(x, 0.1)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.1), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_without_probability_nothing_happens(dtype):
    x = torch.randn(10, dtype=dtype)
    assert torch.equal(dropout(x, 0.0), F.dropout(x, 0.0))
    assert dropout(x, 0.5).dtype == dtype
