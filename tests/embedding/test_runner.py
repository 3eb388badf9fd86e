"""What a GPU computes in another way gives what NumPy gives: here on a CPU, with the code of the GPU."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from prott5nv import Embedder, ModelConfig, ProtT5, ProtT5nvError
from prott5nv.embedding.runner import started_ahead

LARGE = 100_000.0  # too large for float16


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ProtT5(ModelConfig.preset("tiny", init_method_std=0.2))


def embedder_like_on_a_gpu(network, **options) -> Embedder:
    """An embedder on the CPU that pools and converts with PyTorch, and starts one batch before it uses another."""
    embedder = Embedder(network, device="cpu", precision="fp32", **options)
    embedder._runner.ahead = 1
    embedder._runner.makes = lambda form: True
    return embedder


def proteins(count: int) -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=rng.randint(1, 700))) for _ in range(count)]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("pooling", [None, "mean"])
@pytest.mark.parametrize("long", ["truncate", "window", "skip"])
@pytest.mark.filterwarnings("ignore:proteins longer than")
def test_the_rows_are_those_of_the_cpu(network, pooling, dtype, long):
    options = {"pooling": pooling, "dtype": dtype, "long": long}
    expected = list(Embedder(network, device="cpu", precision="fp32", max_tokens=600).embed(proteins(40), **options))
    actual = list(embedder_like_on_a_gpu(network, max_tokens=600).embed(proteins(40), **options))
    assert [sequence for sequence, _ in actual] == proteins(40)
    for (_, rows), (_, expected_rows) in zip(actual, expected, strict=True):
        if expected_rows is None:
            assert rows is None
            continue
        assert rows.dtype == dtype and rows.shape == expected_rows.shape
        tolerance = 1e-6 if dtype == "float32" else 2e-3
        np.testing.assert_allclose(rows, expected_rows, rtol=tolerance, atol=tolerance if pooling else 0)


@pytest.mark.parametrize("on_a_gpu", [True, False])
@pytest.mark.parametrize("pooling", [None, "mean"])
@pytest.mark.parametrize("value, message", [(np.nan, "NaN or infinity in fp32"), (LARGE, "too large for float16")])
def test_faults_are_errors_of_their_protein_alone(network, on_a_gpu, pooling, value, message):
    embedder = (embedder_like_on_a_gpu if on_a_gpu else Embedder)(network)
    encode = embedder._network.encode
    [tryptophan] = embedder.tokenizer.encode("W")

    def encode_with_fault(tokens_T, cu_seqlens_B1):
        hidden_TD = encode(tokens_T, cu_seqlens_B1)
        hidden_TD[tokens_T == tryptophan] = value
        return hidden_TD

    embedder._network.encode = encode_with_fault
    sequences = ["MSLKR", "W", "MK", "WW" if value == LARGE else "MSWKR", "M"]
    failed = {}
    embedded = embedder.embed(
        sequences,
        pooling=pooling,
        dtype="float16",
        on_error=lambda sequence, error: failed.update({sequence: str(error)}),
    )
    assert [rows is None for _, rows in embedded] == [False, True, False, True, False]
    assert list(failed) == [sequences[1], sequences[3]]
    assert failed[sequences[1]].startswith("sequence 2: ") and all(message in text for text in failed.values())


def test_a_batch_that_does_not_fit_is_halved_while_another_is_computed(network, monkeypatch):
    embedder = embedder_like_on_a_gpu(network, max_tokens=40)
    forward = embedder._runner._forward

    def limited(windows, form):
        if sum(window.length for window in windows) > 12:
            raise MemoryError
        return forward(windows, form)

    monkeypatch.setattr(embedder._runner, "_forward", limited)
    failed = []
    sequences = ["MSLKR"] * 6 + ["MSLKRMSLKRMSLKR", "MS"]
    embedded = list(embedder.embed(sequences, on_error=lambda sequence, error: failed.append(str(error))))
    assert [None if rows is None else len(rows) for _, rows in embedded] == [5] * 6 + [None, 2]
    assert failed == ["sequence 7: not enough memory for its 15 residues alone"]


def test_one_more_item_is_started_than_used():
    started = []
    for item in started_ahead((started.append(number) or number for number in range(4)), 1):
        assert len(started) == min(item + 2, 4)
    assert list(started_ahead(iter(range(3)), 0)) == [0, 1, 2]


def test_the_data_type_must_exist(network):
    with pytest.raises(ProtT5nvError, match="dtype='int8': choose float32 or float16"):
        list(Embedder(network).embed(["MSLKR"], dtype="int8"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("pooling", [None, "mean"])
def test_a_gpu_gives_the_rows_of_the_cpu(network, pooling, dtype):
    options = {"pooling": pooling, "dtype": dtype, "long": "window"}
    expected = Embedder(network, device="cpu", precision="fp32").embed(proteins(100), **options)
    actual = Embedder(network, device="cuda", precision="fp32", max_tokens=2000).embed(proteins(100), **options)
    for (_, rows), (_, expected_rows) in zip(actual, expected, strict=True):
        assert rows.dtype == dtype
        np.testing.assert_allclose(rows, expected_rows, rtol=0, atol=1e-5 if dtype == "float32" else 5e-3)
