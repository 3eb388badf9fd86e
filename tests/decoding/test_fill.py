"""Filling gaps: the result is a protein of the same length, with the probabilities that brute force computes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from helpers.brute_force import AMINO_ACIDS, expected, log_probability
from helpers.genuine import packed
from hypothesis import given, settings
from hypothesis import strategies as st

from prott5nv import ProtT5nvError, fill, load
from prott5nv.decoding.kv_cache import CachedDecoder
from prott5nv.model.tokenizer import RESIDUES

GAPPED = "MK?AV??LGDE?"
TOLERANCE = dict(rtol=0, atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(
    sequence=st.text(RESIDUES + "??????", min_size=1, max_size=40).filter(lambda text: "?" in text),
    n=st.integers(1, 4),
    temperature=st.sampled_from([0, 0.5, 2]),
    seed=st.integers(0, 100),
)
def test_given_residues_and_the_length_stay(embedder, sequence, n, temperature, seed):
    results = fill(sequence, embedder, n=n, temperature=temperature, seed=seed)
    assert len(results) == n
    for filled in results:
        assert len(filled.sequence) == len(sequence)
        for given_letter, letter in zip(sequence, filled.sequence, strict=True):
            assert letter in AMINO_ACIDS if given_letter == "?" else letter == given_letter
        assert [sequence[position - 1] for position in filled.positions] == ["?"] * sequence.count("?")
        assert filled.residues == "".join(filled.sequence[position - 1] for position in filled.positions)
        assert filled.log_probability == pytest.approx(float(np.log(filled.probabilities).sum()), abs=1e-3)


@pytest.mark.parametrize("temperature", [0, 1])
def test_the_cached_decoder_agrees_with_the_whole_decoder(model, embedder, temperature):
    indices = [2, 5, 6, 11]
    for filled in fill(GAPPED, embedder, n=5, temperature=temperature):
        alone = expected(model, GAPPED.replace("?", "A"), indices, filled.residues)
        np.testing.assert_allclose(filled.expected, alone, **TOLERANCE)


def test_the_single_result_has_the_most_likely_residue_at_each_gap(embedder):
    [filled] = fill(GAPPED, embedder)
    assert filled.residues == "".join(AMINO_ACIDS[row_A.argmax()] for row_A in filled.expected)


@pytest.mark.slow
def test_a_wide_beam_search_finds_the_best_combinations(model, embedder):
    results = fill("MS?KR?", embedder, n=5, beams=400)
    log_probabilities = {
        "".join(residues): log_probability(model, "MSAKRA", [2, 5], "".join(residues))
        for residues in product(AMINO_ACIDS, repeat=2)
    }
    best = sorted(log_probabilities, key=log_probabilities.get, reverse=True)[:5]
    assert [filled.residues for filled in results] == best
    best_log_probabilities = [log_probabilities[pair] for pair in best]
    np.testing.assert_allclose([f.log_probability for f in results], best_log_probabilities, **TOLERANCE)


def test_a_search_returns_all_combinations_if_there_are_fewer_than_n(embedder):
    assert len(fill("M?", embedder, n=30)) == 20


def test_samples_follow_the_probabilities(embedder):
    samples = fill("MS?KR", embedder, n=4000, temperature=1, seed=3)
    probabilities_A = np.exp(samples[0].expected[0])
    counts_A = np.array([sum(filled.residues == letter for filled in samples) for letter in AMINO_ACIDS])
    deviations_A = np.sqrt(4000 * probabilities_A * (1 - probabilities_A))
    assert (np.abs(counts_A - 4000 * probabilities_A) < 5 * deviations_A + 1).all()


def test_top_p_samples_among_the_fewest_residues_that_reach_it(embedder):
    probabilities_A = np.exp(fill("MS?KR", embedder)[0].expected[0])
    order_A = np.argsort(-probabilities_A)
    kept = int((probabilities_A[order_A].cumsum() < 0.6).sum()) + 1
    sampled = {filled.residues for filled in fill("MS?KR", embedder, n=500, temperature=1, top_p=0.6)}
    assert sampled == {AMINO_ACIDS[column] for column in order_A[:kept]}


def test_samples_depend_on_the_seed_only(embedder):
    first, again, other = (fill(GAPPED, embedder, n=20, temperature=1, seed=seed) for seed in (1, 1, 2))
    assert [f.sequence for f in first] == [f.sequence for f in again] != [f.sequence for f in other]


def test_a_very_low_temperature_gives_the_most_likely_residues(embedder):
    assert fill(GAPPED, embedder, temperature=1e-6)[0].residues == fill(GAPPED, embedder)[0].residues


def test_the_model_sees_a_window_of_a_long_protein_around_its_gaps(short_window):
    protein = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRL"
    gapped = protein[:29] + "?" + protein[30:]
    [filled] = fill(gapped, short_window)
    start = len(protein) - 32
    alone = expected(short_window.network, protein[start:], [29 - start], "A")
    np.testing.assert_allclose(filled.expected, alone, **TOLERANCE)
    assert filled.sequence[:29] == protein[:29] and filled.sequence[30:] == protein[30:]


def test_decoding_several_hypotheses_of_several_proteins_agrees_with_decoding_each_alone(model):
    torch.manual_seed(1)
    lengths, hypotheses = [7, 4, 9], [2, 1, 3]
    hidden_TD = torch.randn(sum(lengths), model.config.hidden_size)
    cu_seqlens = torch.tensor([0, 7, 11, 20], dtype=torch.int32)
    tokens_RN = torch.randint(5, 25, (6, 8))
    with torch.no_grad():
        decoder = CachedDecoder(model, hidden_TD, cu_seqlens, hypotheses)
        parts = slice(0, 3), slice(3, 4), slice(4, 8)
        decoded_RND = torch.cat([decoder.append(tokens_RN[:, part]) for part in parts], 1)
        protein_of_R = [0, 0, 1, 2, 2, 2]
        for row_ND, tokens_N, protein in zip(decoded_RND, tokens_RN, protein_of_R, strict=True):
            own_TD = hidden_TD[cu_seqlens[protein] : cu_seqlens[protein + 1]]
            ends = [torch.tensor([0, len(part)], dtype=torch.int32) for part in (tokens_N, own_TD)]
            torch.testing.assert_close(row_ND, model.decode(tokens_N, ends[0], own_TD, ends[1]), rtol=0, atol=2e-5)


def test_logits_agree_with_nemo_1(nemo1, truth):
    """NeMo 1.x decoded the whole input at once; here it is decoded in two parts."""
    model = load(nemo1 / "prott5nv.nemo")
    largest = np.abs(truth["dec_logits"]).max()
    for number in range(len(truth["dec_ids"])):
        tokens_T, cu_seqlens = packed(truth["dec_enc_ids"][number, None], truth["dec_enc_mask"][number, None])
        mask_S = truth["dec_mask"][number]
        tokens_1S = torch.from_numpy(truth["dec_ids"][number][mask_S])[None]
        with torch.inference_mode():
            decoder = CachedDecoder(model, model.encode(tokens_T, cu_seqlens), cu_seqlens, [1])
            decoded_SD = torch.cat([decoder.append(tokens_1S[:, :3]), decoder.append(tokens_1S[:, 3:])], 1)[0]
            difference = np.abs(model.logits(decoded_SD).numpy() - truth["dec_logits"][number][mask_S]).max()
        assert difference <= 1e-5 * largest


@pytest.mark.parametrize(
    "sequence, settings, message",
    [
        ("MSLKR", {}, r"hba has no \?"),
        ("MS?1", {}, "position 4: '1' is not a residue"),
        ("MS?", {"n": 0}, "n must be at least 1"),
        ("MS?", {"n": 3, "beams": 2}, "beams at least n"),
        ("MS?", {"temperature": -1}, "temperature=-1"),
        ("MS?", {"temperature": 1, "top_p": 0}, "top_p=0"),
        ("MS?", {"top_p": 0.5}, "sampling needs a temperature"),
        ("MS?", {"temperature": 1, "beams": 3}, "sampled, not searched for"),
        ("?" * 6, {}, "6 residues are masked; this model predicts at most 5 at once"),
        ("?" + 31 * "A" + "?", {}, "residues 1 and 33 are too far apart"),
    ],
)
def test_errors_name_the_cause(short_window, sequence, settings, message):
    with pytest.raises(ProtT5nvError, match=message):
        fill(sequence, short_window, name="hba", **settings)
