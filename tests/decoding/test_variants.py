"""Scores of variants agree with brute force, which scores each mutant alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
from helpers.brute_force import AMINO_ACIDS, log_probability

from prott5nv import Embedder, ProtT5nvError, score_substitutions, score_variants
from prott5nv.decoding.variants import Variant, parse_variant

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
TOLERANCE = dict(rel=0, abs=2e-5)  # natural-log odds, in fp32


def random_variants(sequence: str, count: int) -> list[str]:
    rng = random.Random(0)
    variants = []
    for _ in range(count):
        indices = rng.sample(range(len(sequence)), rng.randint(1, 4))
        variants.append(":".join(f"{sequence[i]}{i + 1}{rng.choice(AMINO_ACIDS)}" for i in indices))
    # The same positions with other residues share one run of the encoder.
    return [*variants, "Q2A:F4G:K6L", "Q2A:F4G:K6W", "Q2V:F4G:K6L", "Q2Q", "Q2A", "Q2A"]


@pytest.mark.parametrize("max_tokens", [60, 4096], ids=["one protein per batch", "many proteins per batch"])
def test_scores_agree_with_brute_force(model, max_tokens):
    embedder = Embedder(model, device="cpu", precision="fp32", max_tokens=max_tokens)
    variants = random_variants(UBIQUITIN, 20)
    scores = score_variants(UBIQUITIN, variants, embedder)
    assert len(scores) == len(variants)
    for text, (variant, additive, joint) in zip(variants, scores, strict=True):
        assert variant == parse_variant(text, UBIQUITIN)
        indices, wild_type, mutant = variant
        joint_alone, additive_alone = (
            log_probability(model, UBIQUITIN, indices, mutant) - log_probability(model, UBIQUITIN, indices, wild_type),
            sum(
                log_probability(model, UBIQUITIN, [index], new) - log_probability(model, UBIQUITIN, [index], wild)
                for index, wild, new in zip(indices, wild_type, mutant, strict=True)
            ),
        )
        assert joint == pytest.approx(joint_alone, **TOLERANCE), text
        assert additive == pytest.approx(additive_alone, **TOLERANCE), text
    assert max(abs(score.joint) for score in scores) > 1
    assert max(abs(score.joint - score.additive) for score in scores) > 0.01  # the two scores differ


@pytest.mark.gpu
def test_scores_on_a_gpu_agree_with_the_cpu(model):
    variants = random_variants(UBIQUITIN, 20)
    expected, found = (
        score_variants(UBIQUITIN, variants, Embedder(model, device=device, precision="fp32"))
        for device in ("cpu", "cuda")
    )
    for one, other in zip(expected, found, strict=True):
        assert other.variant == one.variant
        assert (other.additive, other.joint) == pytest.approx((one.additive, one.joint), rel=0, abs=1e-4)


def test_a_query_with_more_hypotheses_than_fit_in_a_batch(model):
    embedder = Embedder(model, device="cpu", precision="fp32", max_tokens=40)
    variants = [f"S2{first}:K4{second}" for first in AMINO_ACIDS for second in "AR"]
    for text, score in zip(variants, score_variants("MSLKR", variants, embedder), strict=True):
        alone = log_probability(model, "MSLKR", [1, 3], text[2] + text[-1]) - log_probability(
            model, "MSLKR", [1, 3], "SK"
        )
        assert score.joint == pytest.approx(alone, **TOLERANCE)


@pytest.mark.slow
def test_all_single_substitutions_agree_with_brute_force(model, embedder):
    protein = UBIQUITIN[:9] + "X" + UBIQUITIN[9:12]
    scores_LA = score_substitutions(protein, embedder)
    assert scores_LA.shape == (13, 20)
    for index, wild in enumerate(protein):
        for column, new in enumerate(AMINO_ACIDS):
            score = scores_LA[index, column]
            if wild == "X":
                assert score != score
            else:
                alone = log_probability(model, protein, [index], new) - log_probability(model, protein, [index], wild)
                assert score == pytest.approx(alone, **TOLERANCE)


def test_the_model_sees_a_window_of_a_long_protein_around_the_substitutions(short_window):
    scores = score_variants(UBIQUITIN, ["M1A", "I44D", "Q40A:I44D", "G76W", "V5A:I36D"], short_window)
    windows = [slice(0, 32), slice(27, 59), slice(25, 57), slice(44, 76), slice(4, 36)]
    for score, window in zip(scores, windows, strict=True):
        indices = [index - window.start for index in score.variant.indices]
        mutant, wild_type = (
            log_probability(short_window.network, UBIQUITIN[window], indices, residues)
            for residues in (score.variant.mutant, score.variant.wild_type)
        )
        assert score.joint == pytest.approx(mutant - wild_type, **TOLERANCE)


def test_substitutions_that_do_not_fit_in_one_window_are_an_error(short_window):
    with pytest.raises(ProtT5nvError, match=r"residues 1 and 33 are too far apart; this model sees at most 32"):
        score_variants(UBIQUITIN, ["M1A:K33A"], short_window)
    with pytest.raises(ProtT5nvError, match=r"6 residues are masked; this model predicts at most 5 at once"):
        score_variants(UBIQUITIN, ["M1A:Q2A:I3A:F4A:V5A:K6A"], short_window)


@pytest.mark.parametrize(
    "text, message",
    [
        ("V2A", "V2A: residue 2 of hba is S, not V; positions count from 1"),
        ("S2A:V3A", "S2A:V3A: residue 3 of hba is L, not V"),
        ("R6A", "R6A: hba has no residue 6, only 1 to 5"),
        ("M0A", "M0A: hba has no residue 0"),
        ("S2J", "S2J: J is not one of the 20 amino acids"),
        ("S2X", "S2X: X is not one of the 20 amino acids"),
        ("S2A:S2G", "residue 2 is substituted twice"),
        ("Ser2Ala", "'Ser2Ala' is not a variant: write V39A"),
        ("", "'' is not a variant"),
    ],
)
def test_an_invalid_variant_is_explained(text, message):
    with pytest.raises(ProtT5nvError) as error:
        parse_variant(text, "MSLKR", "hba")
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["s2a:k4r", "K4R:S2A", "S2A,K4R", "S2A/K4R", " S2A + K4R ", "S2A; K4R"])
def test_accepted_notations_of_the_same_variant(text):
    assert str(parse_variant(text, "mslkr")) == "S2A:K4R"


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("S2A", "variants is a single variant: pass a list"),
        (parse_variant("S2A", "MSLKR"), "variants is a single variant: pass a list"),
        (None, "variants is a NoneType: pass a list of texts, such as V39A"),
        (np.array("S2A"), "variants is a ndarray: pass a list"),
        (b"S2A", "variants is a bytes: pass a list"),
        ({"S2A": 1}, "variants is a dict: pass a list"),
        ([None], "variant 1 is a NoneType: write it as a text, such as V39A"),
        (["S2A", float("nan")], "variant 2 is a float: write it as a text"),
        ([["S2A"]], "variant 1 is a list: write it as a text"),
        ([Variant((6,), "S", "A")], "S7A: the protein has no residue 7"),
        ([Variant((0,), "S", "A")], "S1A: residue 1 of the protein is M, not S"),
    ],
)
def test_what_is_not_a_list_of_variants_is_explained(embedder, variants, message):
    with pytest.raises(ProtT5nvError) as error:
        score_variants("MSLKR", variants, embedder)
    assert message in str(error.value)


def test_variants_can_come_from_any_iterable(embedder):
    expected = score_variants("MSLKR", ["S2A"], embedder)
    for variants in (np.array(["S2A"]), iter(["S2A"]), [parse_variant("S2A", "MSLKR")]):
        assert score_variants("MSLKR", variants, embedder) == expected
