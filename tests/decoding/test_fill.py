"""Filled gaps: always a protein of the same length, chosen by probabilities that brute force confirms."""

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
def test_the_result_is_a_protein_that_keeps_what_was_given(inference, sequence, n, temperature, seed):
    results = fill(sequence, inference, n=n, temperature=temperature, seed=seed)
    assert len(results) == n
    for filled in results:
        assert len(filled.sequence) == len(sequence)
        for given_letter, letter in zip(sequence, filled.sequence, strict=True):
            assert letter in AMINO_ACIDS if given_letter == "?" else letter == given_letter
        assert [sequence[position - 1] for position in filled.positions] == ["?"] * sequence.count("?")
        assert filled.residues == "".join(filled.sequence[position - 1] for position in filled.positions)
        assert filled.log_probability == pytest.approx(float(np.log(filled.probabilities).sum()), abs=1e-3)


@pytest.mark.parametrize("temperature", [0, 1])
def test_what_the_cached_decoder_expects_is_what_the_whole_decoder_expects(model, inference, temperature):
    places = [2, 5, 6, 11]
    for filled in fill(GAPPED, inference, n=5, temperature=temperature):
        alone = expected(model, GAPPED.replace("?", "A"), places, filled.residues)
        np.testing.assert_allclose(filled.expected, alone, **TOLERANCE)


def test_the_first_result_takes_the_most_likely_residue_at_each_gap(inference):
    [filled] = fill(GAPPED, inference)
    assert filled.residues == "".join(AMINO_ACIDS[row_A.argmax()] for row_A in filled.expected)


def test_a_wide_search_finds_the_best_of_all_combinations(model, inference):
    found = fill("MS?KR?", inference, n=5, beams=400)
    everything = {
        "".join(residues): log_probability(model, "MSAKRA", [2, 5], "".join(residues))
        for residues in product(AMINO_ACIDS, repeat=2)
    }
    best = sorted(everything, key=everything.get, reverse=True)[:5]
    assert [filled.residues for filled in found] == best
    np.testing.assert_allclose([f.log_probability for f in found], [everything[pair] for pair in best], **TOLERANCE)


def test_fewer_results_than_asked_for_where_there_are_no_more(inference):
    assert len(fill("M?", inference, n=30)) == 20


def test_draws_follow_the_probabilities(inference):
    draws = fill("MS?KR", inference, n=4000, temperature=1, seed=3)
    probabilities_A = np.exp(draws[0].expected[0])
    counts_A = np.array([sum(filled.residues == letter for filled in draws) for letter in AMINO_ACIDS])
    deviations_A = np.sqrt(4000 * probabilities_A * (1 - probabilities_A))
    assert (np.abs(counts_A - 4000 * probabilities_A) < 5 * deviations_A + 1).all()


def test_top_p_keeps_the_fewest_that_suffice(inference):
    probabilities_A = np.exp(fill("MS?KR", inference)[0].expected[0])
    order_A = np.argsort(-probabilities_A)
    enough = int((probabilities_A[order_A].cumsum() < 0.6).sum()) + 1
    drawn = {filled.residues for filled in fill("MS?KR", inference, n=500, temperature=1, top_p=0.6)}
    assert drawn == {AMINO_ACIDS[column] for column in order_A[:enough]}


def test_a_seed_gives_the_same_draws_and_another_gives_others(inference):
    first, again, other = (fill(GAPPED, inference, n=20, temperature=1, seed=seed) for seed in (1, 1, 2))
    assert [f.sequence for f in first] == [f.sequence for f in again] != [f.sequence for f in other]


def test_low_temperature_comes_to_the_most_likely(inference):
    assert fill(GAPPED, inference, temperature=1e-6)[0].residues == fill(GAPPED, inference)[0].residues


def test_a_long_protein_is_seen_through_a_window_round_its_gaps(short_sighted):
    protein = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRL"
    gapped = protein[:29] + "?" + protein[30:]
    [filled] = fill(gapped, short_sighted)
    start = len(protein) - 32
    alone = expected(short_sighted.network, protein[start:], [29 - start], "A")
    np.testing.assert_allclose(filled.expected, alone, **TOLERANCE)
    assert filled.sequence[:29] == protein[:29] and filled.sequence[30:] == protein[30:]


def test_several_readings_of_several_proteins_are_what_each_is_alone(model):
    torch.manual_seed(1)
    lengths, readings = [7, 4, 9], [2, 1, 3]
    hidden_TD = torch.randn(sum(lengths), model.config.hidden_size)
    cu_seqlens = torch.tensor([0, 7, 11, 20], dtype=torch.int32)
    tokens_RN = torch.randint(5, 25, (6, 8))
    with torch.no_grad():
        together = CachedDecoder(model, hidden_TD, cu_seqlens, readings)
        in_parts = torch.cat([together.read(tokens_RN[:, part]) for part in (slice(0, 3), slice(3, 4), slice(4, 8))], 1)
        protein_of_R = [0, 0, 1, 2, 2, 2]
        for row_ND, tokens_N, protein in zip(in_parts, tokens_RN, protein_of_R, strict=True):
            own_TD = hidden_TD[cu_seqlens[protein] : cu_seqlens[protein + 1]]
            ends = [torch.tensor([0, len(part)], dtype=torch.int32) for part in (tokens_N, own_TD)]
            torch.testing.assert_close(row_ND, model.decode(tokens_N, ends[0], own_TD, ends[1]), rtol=0, atol=2e-5)


def test_logits_are_those_of_nemo(nemo1, truth):
    """NeMo 1.x computed them from the whole decoder input; here it is read in two parts."""
    model = load(nemo1 / "prott5nv.nemo")
    largest = np.abs(truth["dec_logits"]).max()
    for number in range(len(truth["dec_ids"])):
        tokens_T, cu_seqlens = packed(truth["dec_enc_ids"][number, None], truth["dec_enc_mask"][number, None])
        mask_S = truth["dec_mask"][number]
        tokens_1S = torch.from_numpy(truth["dec_ids"][number][mask_S])[None]
        with torch.inference_mode():
            decoder = CachedDecoder(model, model.encode(tokens_T, cu_seqlens), cu_seqlens, [1])
            read_SD = torch.cat([decoder.read(tokens_1S[:, :3]), decoder.read(tokens_1S[:, 3:])], 1)[0]
            difference = np.abs(model.logits(read_SD).numpy() - truth["dec_logits"][number][mask_S]).max()
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
        ("MS?", {"top_p": 0.5}, "only with a temperature"),
        ("MS?", {"temperature": 1, "beams": 3}, "drawn, not searched for"),
        ("?" * 6, {}, "6 residues are hidden; this model can be asked for 5 at once"),
        ("?" + 31 * "A" + "?", {}, "residues 1 and 33 lie too far apart"),
    ],
)
def test_mistakes_are_named(short_sighted, sequence, settings, message):
    with pytest.raises(ProtT5nvError, match=message):
        fill(sequence, short_sighted, name="hba", **settings)
