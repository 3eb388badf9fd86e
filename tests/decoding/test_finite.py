"""NaN and infinity are errors that name the protein and a precision that avoids them."""

from __future__ import annotations

import numpy as np
import pytest

from prott5nv import (
    Embedder,
    ModelConfig,
    ProtT5,
    ProtT5nvError,
    fill,
    pseudo_perplexity,
    score_substitutions,
    score_variants,
)
from prott5nv.model.finite import check_finite

PROTEIN = "MQIFVKTLTGKTI"
CALLS = {
    "variants": lambda embedder: score_variants(PROTEIN, ["Q2A", "Q2A:F4G"], embedder, name="P0CG47"),
    "substitutions": lambda embedder: score_substitutions(PROTEIN, embedder, name="P0CG47"),
    "perplexity": lambda embedder: pseudo_perplexity(PROTEIN, embedder, fraction=0.2, name="P0CG47"),
    "fill": lambda embedder: fill("MQI??KT", embedder, n=3, name="P0CG47"),
    "sample": lambda embedder: fill("MQI??KT", embedder, n=3, temperature=1, name="P0CG47"),
}


def overflowing(precision: str) -> Embedder:
    """A model whose hidden states are beyond the range of float16."""
    model = ProtT5(ModelConfig.preset("tiny"))
    model.encoder.final_layernorm.weight.data.fill_(60000.0)
    return Embedder(model, device="cpu", precision=precision)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_overflow_is_an_error_that_names_protein_and_remedy(call):
    with pytest.raises(ProtT5nvError) as caught:
        call(overflowing("fp16"))
    assert str(caught.value) == "P0CG47: the model computed NaN or infinity in fp16; choose --precision bf16 or fp32"
    for precision in ("fp32", "bf16"):
        assert call(overflowing(precision)) is not None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_is_enough(value):
    values = np.zeros((3, 4), dtype=np.float32)
    check_finite(values, "P1", "fp32")
    values[1, 2] = value
    with pytest.raises(ProtT5nvError, match=r"P1: .* in bf16; choose --precision fp32"):
        check_finite(values, "P1", "bf16")
    with pytest.raises(ProtT5nvError, match="weights of the model are probably damaged"):
        check_finite(values, "P1", "fp32")
