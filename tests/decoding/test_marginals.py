"""Masked marginals: every residue is masked once, and its probabilities agree with brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.brute_force import AMINO_ACIDS, expected
from hypothesis import given, settings
from hypothesis import strategies as st

from prott5nv import ModelConfig, ProtT5nvError, pseudo_perplexity, score_substitutions
from prott5nv.data.corruption import corrupt_spans
from prott5nv.decoding.marginals import masking_groups
from prott5nv.decoding.masking import decoder_input, mask_residues, max_masked, window_around
from prott5nv.model.tokenizer import FIRST_RESIDUE, LAST_RESIDUE

PROTEIN = "MQIFVKTLTGKTITLEVEPSDT"


@settings(deadline=None)
@given(length=st.integers(1, 1500), fraction=st.floats(0, 0.5), limit=st.integers(8, 512), sentinels=st.integers(1, 96))
def test_every_residue_is_masked_once(length, fraction, limit, sentinels):
    config = ModelConfig.preset("tiny", max_position_embeddings=limit, seq_length=limit, num_sentinel_tokens=sentinels)
    groups = masking_groups(length, fraction, config)
    assert sorted(np.concatenate(groups).tolist()) == list(range(length))
    for indices in groups:
        assert 1 <= len(indices) <= max_masked(config)
        window = window_around(indices, length, limit)
        assert 0 <= window.start <= indices[0] and indices[-1] < window.stop <= length
        assert window.stop - window.start == min(length, limit)
    if fraction and length <= limit and length / sentinels <= 2:
        assert len(groups) <= max(round(min(1 / fraction, length)), 2)


@settings(deadline=None)
@given(st.lists(st.integers(FIRST_RESIDUE, LAST_RESIDUE), min_size=1, max_size=80), st.integers(0, 1000))
def test_masked_input_looks_like_pretraining_input(residues, number):
    tokens_L, config = np.array(residues), ModelConfig.preset("tiny")
    trained = corrupt_spans(tokens_L, np.array([0, len(residues)]), np.array([number]), seed=7)
    indices = np.flatnonzero(trained.enc_tokens != tokens_L)
    np.testing.assert_array_equal(mask_residues(tokens_L, indices, config, ""), trained.enc_tokens)
    # In pretraining, the last masked residue and </s> are only targets.
    np.testing.assert_array_equal(decoder_input(tokens_L[None, indices[:-1]])[0], trained.dec_tokens[:-1])


def test_perplexity_agrees_with_brute_force(model, embedder):
    result = pseudo_perplexity(PROTEIN, embedder)
    alone = [expected(model, PROTEIN, [index], residue)[0] for index, residue in enumerate(PROTEIN)]
    np.testing.assert_allclose(result.expected, np.stack(alone), rtol=0, atol=2e-5)
    own = [row[AMINO_ACIDS.index(residue)] for row, residue in zip(result.expected, PROTEIN, strict=True)]
    np.testing.assert_array_equal(result.log_probabilities, own)
    assert result.perplexity == pytest.approx(math.exp(-sum(map(float, own)) / len(PROTEIN)))


def test_masking_many_residues_at_once_agrees_with_brute_force(model, embedder):
    result = pseudo_perplexity(PROTEIN, embedder, fraction=0.25)
    for first in range(4):
        indices = range(first, len(PROTEIN), 4)
        alone = expected(model, PROTEIN, indices, PROTEIN[first::4])
        np.testing.assert_allclose(result.expected[first::4], alone, rtol=0, atol=2e-5)
    scores_LA = score_substitutions(PROTEIN, embedder, fraction=0.25)
    np.testing.assert_array_equal(scores_LA, result.expected - result.log_probabilities[:, None])


def test_the_model_sees_a_window_of_a_long_protein(short_window):
    protein = PROTEIN * 3
    result = pseudo_perplexity(protein, short_window)
    np.testing.assert_allclose(
        result.expected[40], expected(short_window.network, protein[24:56], [16], "P")[0], atol=1e-4
    )
    assert not np.isnan(pseudo_perplexity(protein, short_window, fraction=0.2).expected).any()


def test_residues_outside_the_20_amino_acids_do_not_count(embedder):
    result = pseudo_perplexity("MKXU", embedder)
    assert np.isnan(result.log_probabilities).tolist() == [False, False, True, True]
    assert result.perplexity == pytest.approx(np.exp(-result.log_probabilities[:2].mean()))
    assert np.isnan(pseudo_perplexity("XX", embedder).perplexity)


def test_errors_name_the_cause(embedder):
    with pytest.raises(ProtT5nvError, match="hba: there is no sequence"):
        pseudo_perplexity("", embedder, name="hba")
    with pytest.raises(ProtT5nvError, match=r"hba\), position 3: '1' is not a residue"):
        pseudo_perplexity("MK1", embedder, name="hba")
    with pytest.raises(ProtT5nvError, match=r"fraction=0\.6"):
        pseudo_perplexity("MK", embedder, fraction=0.6)
