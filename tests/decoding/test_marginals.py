"""Every residue is hidden once, and what is expected of it is what the model expects of it alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.brute_force import AMINO_ACIDS, expected
from hypothesis import given
from hypothesis import strategies as st

from prott5nv import ModelConfig, ProtT5nvError, pseudo_perplexity
from prott5nv.data.corruption import corrupt_spans
from prott5nv.decoding.marginals import masked_together
from prott5nv.decoding.masking import decoder_input, mask_residues, max_masked, window_round
from prott5nv.model.tokenizer import FIRST_RESIDUE, LAST_RESIDUE

PROTEIN = "MQIFVKTLTGKTITLEVEPSDT"


@given(length=st.integers(1, 1500), fraction=st.floats(0, 0.5), limit=st.integers(8, 512), sentinels=st.integers(1, 96))
def test_every_residue_is_hidden_once(length, fraction, limit, sentinels):
    config = ModelConfig.preset("tiny", max_position_embeddings=limit, seq_length=limit, num_sentinel_tokens=sentinels)
    together = masked_together(length, fraction, config)
    assert sorted(np.concatenate(together).tolist()) == list(range(length))
    for places in together:
        assert 1 <= len(places) <= max_masked(config)
        window = window_round(places, length, limit)
        assert 0 <= window.start <= places[0] and places[-1] < window.stop <= length
        assert window.stop - window.start == min(length, limit)
    if fraction and length <= limit and length / sentinels <= 2:
        assert len(together) <= max(round(min(1 / fraction, length)), 2)


@given(st.lists(st.integers(FIRST_RESIDUE, LAST_RESIDUE), min_size=1, max_size=80), st.integers(0, 1000))
def test_what_the_model_is_given_is_what_it_was_trained_on(residues, number):
    tokens_L, config = np.array(residues), ModelConfig.preset("tiny")
    trained = corrupt_spans(tokens_L, np.array([0, len(residues)]), np.array([number]), seed=7)
    places = np.flatnonzero(trained.enc_tokens != tokens_L)
    np.testing.assert_array_equal(mask_residues(tokens_L, places, config, ""), trained.enc_tokens)
    # The last hidden residue and </s> are only targets.
    np.testing.assert_array_equal(decoder_input(tokens_L[None, places[:-1]])[0], trained.dec_tokens[:-1])


def test_perplexity_is_that_of_brute_force(model, inference):
    found = pseudo_perplexity(PROTEIN, inference)
    alone = [expected(model, PROTEIN, [place], residue)[0] for place, residue in enumerate(PROTEIN)]
    np.testing.assert_allclose(found.expected, np.stack(alone), rtol=0, atol=2e-5)
    true = [row[AMINO_ACIDS.index(residue)] for row, residue in zip(found.expected, PROTEIN, strict=True)]
    np.testing.assert_array_equal(found.log_probabilities, true)
    assert found.perplexity == pytest.approx(math.exp(-sum(map(float, true)) / len(PROTEIN)))


def test_perplexity_of_many_residues_hidden_at_once(model, inference):
    found = pseudo_perplexity(PROTEIN, inference, fraction=0.25)
    for first in range(4):
        places = range(first, len(PROTEIN), 4)
        alone = expected(model, PROTEIN, places, PROTEIN[first::4])
        np.testing.assert_allclose(found.expected[first::4], alone, rtol=0, atol=2e-5)


def test_a_protein_longer_than_the_model_sees(short_sighted):
    protein = PROTEIN * 3
    found = pseudo_perplexity(protein, short_sighted)
    np.testing.assert_allclose(
        found.expected[40], expected(short_sighted.network, protein[24:56], [16], "P")[0], atol=1e-4
    )
    assert not np.isnan(pseudo_perplexity(protein, short_sighted, fraction=0.2).expected).any()


def test_letters_that_are_no_amino_acid_do_not_count(inference):
    found = pseudo_perplexity("MKXU", inference)
    assert np.isnan(found.log_probabilities).tolist() == [False, False, True, True]
    assert found.perplexity == pytest.approx(np.exp(-found.log_probabilities[:2].mean()))
    assert np.isnan(pseudo_perplexity("XX", inference).perplexity)


def test_mistakes_are_named(inference):
    with pytest.raises(ProtT5nvError, match="hba has no residues"):
        pseudo_perplexity("", inference, name="hba")
    with pytest.raises(ProtT5nvError, match=r"hba\), position 3: '1' is not a residue"):
        pseudo_perplexity("MK1", inference, name="hba")
    with pytest.raises(ProtT5nvError, match=r"fraction=0\.6"):
        pseudo_perplexity("MK", inference, fraction=0.6)
