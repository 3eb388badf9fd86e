"""Scores of variants are what one gets by asking for each mutant alone."""

from __future__ import annotations

import random

import pytest
from helpers.brute_force import AMINO_ACIDS, log_probability

from prott5nv import ProtT5nvError, ProtT5nvInference, score_substitutions, score_variants
from prott5nv.decoding.variants import parse_variant

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
TOLERANCE = dict(rel=0, abs=2e-5)  # natural-log odds, in fp32


def random_variants(sequence: str, count: int) -> list[str]:
    rng = random.Random(0)
    variants = []
    for _ in range(count):
        places = rng.sample(range(len(sequence)), rng.randint(1, 4))
        variants.append(":".join(f"{sequence[p]}{p + 1}{rng.choice(AMINO_ACIDS)}" for p in places))
    # The same positions with other residues, which share what is computed.
    return [*variants, "Q2A:F4G:K6L", "Q2A:F4G:K6W", "Q2V:F4G:K6L", "Q2Q", "Q2A", "Q2A"]


@pytest.mark.parametrize("max_tokens", [60, 4096], ids=["every protein alone", "many proteins in a batch"])
def test_scores_are_those_of_brute_force(model, max_tokens):
    inference = ProtT5nvInference(model, device="cpu", precision="fp32", max_tokens=max_tokens)
    variants = random_variants(UBIQUITIN, 20)
    scores = score_variants(UBIQUITIN, variants, inference)
    assert len(scores) == len(variants)
    for text, (variant, additive, joint) in zip(variants, scores, strict=True):
        assert variant == parse_variant(text, UBIQUITIN)
        places, wild_type, mutant = variant
        joint_alone, additive_alone = (
            log_probability(model, UBIQUITIN, places, mutant) - log_probability(model, UBIQUITIN, places, wild_type),
            sum(
                log_probability(model, UBIQUITIN, [place], new) - log_probability(model, UBIQUITIN, [place], wild)
                for place, wild, new in zip(places, wild_type, mutant, strict=True)
            ),
        )
        assert joint == pytest.approx(joint_alone, **TOLERANCE), text
        assert additive == pytest.approx(additive_alone, **TOLERANCE), text
    assert max(abs(score.joint) for score in scores) > 1
    assert max(abs(score.joint - score.additive) for score in scores) > 0.01  # the two are not the same thing


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives(model):
    variants = random_variants(UBIQUITIN, 20)
    expected, found = (
        score_variants(UBIQUITIN, variants, ProtT5nvInference(model, device=device, precision="fp32"))
        for device in ("cpu", "cuda")
    )
    for one, other in zip(expected, found, strict=True):
        assert other.variant == one.variant
        assert (other.additive, other.joint) == pytest.approx((one.additive, one.joint), rel=0, abs=1e-3)


def test_one_protein_with_more_readings_than_fit_a_batch(model):
    inference = ProtT5nvInference(model, device="cpu", precision="fp32", max_tokens=40)
    variants = [f"S2{first}:K4{second}" for first in AMINO_ACIDS for second in "AR"]
    for text, score in zip(variants, score_variants("MSLKR", variants, inference), strict=True):
        alone = log_probability(model, "MSLKR", [1, 3], text[2] + text[-1]) - log_probability(
            model, "MSLKR", [1, 3], "SK"
        )
        assert score.joint == pytest.approx(alone, **TOLERANCE)


def test_every_substitution_is_that_of_brute_force(model, inference):
    protein = UBIQUITIN[:9] + "X" + UBIQUITIN[9:12]
    scores_LA = score_substitutions(protein, inference)
    assert scores_LA.shape == (13, 20)
    for place, wild in enumerate(protein):
        for column, new in enumerate(AMINO_ACIDS):
            score = scores_LA[place, column]
            if wild == "X":
                assert score != score
            else:
                alone = log_probability(model, protein, [place], new) - log_probability(model, protein, [place], wild)
                assert score == pytest.approx(alone, **TOLERANCE)


def test_a_long_protein_is_seen_through_a_window_round_what_changes(short_sighted):
    scores = score_variants(UBIQUITIN, ["M1A", "I44D", "Q40A:I44D", "G76W", "V5A:I36D"], short_sighted)
    windows = [slice(0, 32), slice(27, 59), slice(25, 57), slice(44, 76), slice(4, 36)]
    for score, window in zip(scores, windows, strict=True):
        places = [place - window.start for place in score.variant.places]
        mutant, wild_type = (
            log_probability(short_sighted.network, UBIQUITIN[window], places, residues)
            for residues in (score.variant.mutant, score.variant.wild_type)
        )
        assert score.joint == pytest.approx(mutant - wild_type, **TOLERANCE)


def test_what_the_model_cannot_see_at_once_is_an_error(short_sighted):
    with pytest.raises(ProtT5nvError, match=r"residues 1 and 33 lie too far apart; this model sees at most 32"):
        score_variants(UBIQUITIN, ["M1A:K33A"], short_sighted)
    with pytest.raises(ProtT5nvError, match=r"6 residues are hidden; this model can be asked for 5 at once"):
        score_variants(UBIQUITIN, ["M1A:Q2A:I3A:F4A:V5A:K6A"], short_sighted)


@pytest.mark.parametrize(
    "text, message",
    [
        ("V2A", "V2A: residue 2 of hba is S, not V; positions count from 1"),
        ("S2A:V3A", "S2A:V3A: residue 3 of hba is L, not V"),
        ("R6A", "R6A: hba has no residue 6, only 1 to 5"),
        ("M0A", "M0A: hba has no residue 0"),
        ("S2J", "S2J: J is none of the 20 amino acids"),
        ("S2X", "S2X: X is none of the 20 amino acids"),
        ("S2A:S2G", "residue 2 is changed twice"),
        ("Ser2Ala", "'Ser2Ala' is not a variant: write V39A"),
        ("", "'' is not a variant"),
    ],
)
def test_what_does_not_fit_is_named(text, message):
    with pytest.raises(ProtT5nvError) as error:
        parse_variant(text, "MSLKR", "hba")
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["s2a:k4r", "K4R:S2A", "S2A,K4R", "S2A/K4R", " S2A + K4R ", "S2A; K4R"])
def test_ways_to_write_the_same_variant(text):
    assert str(parse_variant(text, "mslkr")) == "S2A:K4R"


def test_one_string_is_not_a_list(inference):
    with pytest.raises(ProtT5nvError, match="pass a list"):
        score_variants("MSLKR", "S2A", inference)
