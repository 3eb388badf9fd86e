"""Span corruption: reversible, exact on average, and the same for a sample in any batch."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prott5nv.data.corruption import COUNT, SHUFFLE, corrupt_spans, restore_spans, sample_keys
from prott5nv.errors import ProtT5nvError
from prott5nv.model.tokenizer import BOS, EOS, FIRST_SENTINEL, NUM_SENTINELS, ProteinTokenizer

SEED = 1234


def proteins(lengths, seed=0):
    """Return random residues, some of them unknown (id 0)."""
    tokens = np.random.default_rng(seed).choice([0, *range(5, 30)], size=sum(lengths))
    return tokens, np.cumsum([0, *lengths]).astype(np.int32)


def split(packed, cu_seqlens):
    return np.split(packed, cu_seqlens[1:-1])


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 640), min_size=1, max_size=8),
    first=st.integers(0, 2**40),
    mean_span_length=st.sampled_from([1.0, 1.5, 3.0, 10.0]),
    masked_lm_prob=st.sampled_from([0.05, 0.15, 0.5]),
)
def test_targets_restore_the_protein(lengths, first, mean_span_length, masked_lm_prob):
    tokens, cu_seqlens = proteins(lengths)
    numbers = np.arange(first, first + len(lengths))
    batch = corrupt_spans(
        tokens, cu_seqlens, numbers, SEED, masked_lm_prob=masked_lm_prob, mean_span_length=mean_span_length
    )
    assert np.array_equal(restore_spans(batch.enc_tokens, batch.dec_labels), tokens)
    for protein, enc, dec, labels, is_residue in zip(
        split(tokens, cu_seqlens),
        split(batch.enc_tokens, batch.enc_cu_seqlens),
        split(batch.dec_tokens, batch.dec_cu_seqlens),
        split(batch.dec_labels, batch.dec_cu_seqlens),
        split(batch.residue_mask, batch.dec_cu_seqlens),
        strict=True,
    ):
        assert np.array_equal(restore_spans(enc, labels), protein)
        sentinels = enc[enc >= FIRST_SENTINEL]
        assert 1 <= len(sentinels) <= NUM_SENTINELS
        assert sentinels.tolist() == list(range(FIRST_SENTINEL, FIRST_SENTINEL + len(sentinels)))
        assert labels[0] == FIRST_SENTINEL and labels[-1] == EOS
        assert dec.tolist() == [BOS, *labels[:-1]]
        assert np.array_equal(is_residue, (labels < FIRST_SENTINEL) & (labels != EOS))
        follows_sentinel = np.flatnonzero(labels >= FIRST_SENTINEL) + 1
        assert is_residue[follows_sentinel].all()  # every sentinel replaces at least one residue


@pytest.mark.slow
def test_one_hundred_thousand_samples_at_span_length_one():
    lengths = np.random.default_rng(1).integers(1, 513, size=100_000)
    tokens, cu_seqlens = proteins(lengths)
    batch = corrupt_spans(tokens, cu_seqlens, np.arange(100_000), SEED)

    assert np.array_equal(restore_spans(batch.enc_tokens, batch.dec_labels), tokens)
    assert np.array_equal(batch.enc_cu_seqlens, cu_seqlens)
    masked = batch.enc_tokens >= FIRST_SENTINEL
    assert np.array_equal(batch.enc_tokens[~masked], tokens[~masked])
    # `s0 aa0 s1 aa1 ... </s>`: sentinels and residues alternate, and every protein has at least one.
    count = np.add.reduceat(masked, cu_seqlens[:-1])
    assert count.min() == 1 and count.max() <= NUM_SENTINELS
    assert np.array_equal(np.diff(batch.dec_cu_seqlens), 2 * count + 1)
    position = np.arange(len(batch.dec_labels)) - np.repeat(batch.dec_cu_seqlens[:-1], 2 * count + 1)
    last = np.zeros(len(position), dtype=bool)
    last[batch.dec_cu_seqlens[1:] - 1] = True
    assert (batch.dec_labels[last] == EOS).all()
    assert np.array_equal(batch.residue_mask, (position % 2 == 1))
    is_sentinel = (position % 2 == 0) & ~last
    assert np.array_equal(batch.dec_labels[is_sentinel], FIRST_SENTINEL + position[is_sentinel] // 2)
    assert masked.mean() == pytest.approx(0.15, abs=0.001)


@pytest.mark.parametrize("length", [10, 64, 333, 512])
def test_masked_fraction_is_exact_for_every_length(length):
    """Rounding to the nearest would mask 20 % of a protein of 10."""
    count = 500_000 // length
    tokens, cu_seqlens = proteins([length] * count)
    batch = corrupt_spans(tokens, cu_seqlens, np.arange(count), SEED)
    assert (batch.enc_tokens >= FIRST_SENTINEL).mean() == pytest.approx(0.15, abs=0.001)


def test_masked_fraction_of_real_proteins(shared):
    """With the lengths of UniRef50: 15 % within 0.1 percentage points."""
    sequences = []
    for path in sorted(shared.glob("data/sequences/uniref50_bionemo_csv/*/*.csv.gz")):
        with gzip.open(path, "rt") as file:
            sequences += [line.rstrip().split(",")[3][:512] for line in list(file)[1:]]
    tokens, cu_seqlens = ProteinTokenizer().encode_batch(sequences)
    masked = 0
    for epoch in range(20):
        numbers = np.arange(len(sequences)) + epoch * len(sequences)
        masked += (corrupt_spans(tokens, cu_seqlens, numbers, SEED).enc_tokens >= FIRST_SENTINEL).sum()
    assert masked / (20 * len(tokens)) == pytest.approx(0.15, abs=0.001)


def test_every_residue_is_masked_equally_often():
    tokens, cu_seqlens = proteins([40] * 40_000)
    masked = corrupt_spans(tokens, cu_seqlens, np.arange(40_000), SEED).enc_tokens >= FIRST_SENTINEL
    assert abs(masked.reshape(40_000, 40).mean(axis=0) - 0.15).max() < 0.01


def test_longer_spans_have_their_mean_length_and_mask_the_same_fraction():
    tokens, cu_seqlens = proteins([400] * 2_000)
    batch = corrupt_spans(tokens, cu_seqlens, np.arange(2_000), SEED, mean_span_length=3.0)
    spans = (batch.enc_tokens >= FIRST_SENTINEL).sum()
    assert batch.residue_mask.sum() / spans == pytest.approx(3.0, abs=0.01)
    assert batch.residue_mask.sum() / len(tokens) == pytest.approx(0.15, abs=0.001)
    assert len(batch.enc_tokens) == len(tokens) - batch.residue_mask.sum() + spans


@settings(deadline=None)
@given(order=st.permutations(range(6)), cut=st.integers(1, 5), mean_span_length=st.sampled_from([1.0, 3.0]))
def test_a_sample_does_not_depend_on_its_batch(order, cut, mean_span_length):
    lengths = [1, 7, 512, 60, 333, 13]
    tokens, cu_seqlens = proteins(lengths)
    rows = split(tokens, cu_seqlens)

    def corrupted(chosen):
        """Return input and target of each sample."""
        cumulative = np.cumsum([0, *(lengths[i] for i in chosen)]).astype(np.int32)
        packed = np.concatenate([rows[i] for i in chosen])
        batch = corrupt_spans(packed, cumulative, np.array(chosen) + 100, SEED, mean_span_length=mean_span_length)
        inputs = split(batch.enc_tokens, batch.enc_cu_seqlens)
        targets = split(batch.dec_labels, batch.dec_cu_seqlens)
        return {i: (a.tolist(), b.tolist()) for i, a, b in zip(chosen, inputs, targets, strict=True)}

    assert corrupted(list(range(6))) == corrupted(order[:cut]) | corrupted(order[cut:])


def test_masks_differ_between_epochs_and_seeds():
    tokens, cu_seqlens = proteins([300] * 100)
    number = np.arange(100)
    first = corrupt_spans(tokens, cu_seqlens, number, SEED).enc_tokens
    assert np.array_equal(first, corrupt_spans(tokens, cu_seqlens, number, SEED).enc_tokens)
    for numbers, seed in ((number + 100, SEED), (number, SEED + 1000)):
        other = corrupt_spans(tokens, cu_seqlens, numbers, seed).enc_tokens
        both = ((first >= FIRST_SENTINEL) & (other >= FIRST_SENTINEL)).mean()
        assert both == pytest.approx(0.15**2, abs=0.006)  # as for independent masks


def test_there_are_no_more_spans_than_sentinels():
    tokens, cu_seqlens = proteins([2000])
    one = corrupt_spans(tokens, cu_seqlens, np.array([0]), SEED)
    assert (one.enc_tokens >= FIRST_SENTINEL).sum() == NUM_SENTINELS
    three = corrupt_spans(tokens, cu_seqlens, np.array([0]), SEED, mean_span_length=3.0)
    assert (three.enc_tokens >= FIRST_SENTINEL).sum() == NUM_SENTINELS
    assert three.residue_mask.sum() == 3 * NUM_SENTINELS


def test_an_empty_batch_stays_empty():
    batch = corrupt_spans(np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int32), np.zeros(0, dtype=np.int64), SEED)
    assert batch.enc_tokens.size == batch.dec_labels.size == 0
    assert batch.dec_cu_seqlens.tolist() == [0]


def test_the_target_of_another_protein_is_an_error():
    tokens, cu_seqlens = proteins([100, 300])
    batch = corrupt_spans(tokens, cu_seqlens, np.arange(2), SEED)
    inputs = split(batch.enc_tokens, batch.enc_cu_seqlens)
    targets = split(batch.dec_labels, batch.dec_cu_seqlens)
    with pytest.raises(ProtT5nvError, match="not the same proteins"):
        restore_spans(inputs[0], targets[1])


@pytest.mark.parametrize("stream", [COUNT, SHUFFLE])
def test_neighbouring_seeds_share_no_random_numbers(stream):
    numbers = np.arange(2000)
    keys = [sample_keys(seed, numbers, stream) for seed in (-1, 0, 1, 1234, 1235, 2**63)]
    assert len(np.unique(keys)) == 6 * 2000
