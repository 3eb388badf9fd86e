"""Micro-batches of constant size hold the same proteins as others, and filler that has no targets."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prott5nv.data.corruption import corrupt_spans, max_targets
from prott5nv.data.micro_batch import IGNORED, BatchShape, PackedStep, choose_shape, cut_micro_batches
from prott5nv.errors import ProtT5nvError

SHAPE = BatchShape(1024, 384, 24, 512, max_targets(512, 0.15))


def corrupted(lengths):
    rng = np.random.default_rng(0)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return corrupt_spans(rng.integers(5, 25, cu_seqlens[-1]), cu_seqlens, np.arange(len(lengths)), seed=1)


@given(st.lists(st.integers(1, 512), min_size=1, max_size=40))
def test_a_constant_size_keeps_all_proteins_and_adds_filler_without_targets(lengths):
    batch, numbers = corrupted(lengths), np.arange(len(lengths))
    micro_batches = cut_micro_batches(batch, numbers, shape=SHAPE)
    for part in micro_batches:
        assert len(part["enc_tokens"]) == SHAPE.encoder_tokens
        assert len(part["dec_tokens"]) == len(part["dec_labels"]) == len(part["residue_mask"]) == SHAPE.decoder_tokens
        proteins = len(part["lengths"])
        for name, limit, column in (("enc", SHAPE.encoder_length, 0), ("dec", SHAPE.decoder_length, 1)):
            cu_seqlens = part[f"{name}_cu_seqlens"]
            assert len(cu_seqlens) == SHAPE.sequences + 1 and cu_seqlens[-1] == len(part[f"{name}_tokens"])
            sequence_lengths = cu_seqlens.diff().numpy()
            assert sequence_lengths.max() <= limit
            assert np.array_equal(sequence_lengths[:proteins], part["lengths"][:, column])
        empty = [part[f"{name}_cu_seqlens"].diff() == 0 for name in ("enc", "dec")]
        assert torch.equal(*empty)  # a sequence of the decoder has something to attend to
        _, targets = part["lengths"].sum(axis=0)
        assert (part["dec_labels"][targets:] == IGNORED).all() and not part["residue_mask"][targets:].any()
    [whole] = cut_micro_batches(batch, numbers)
    for name, column in (("enc_tokens", 0), ("dec_tokens", 1), ("dec_labels", 1), ("residue_mask", 1)):
        parts = [part[name][: part["lengths"][:, column].sum()] for part in micro_batches]
        assert torch.equal(torch.cat(parts), whole[name])
    assert torch.equal(torch.cat([part["sample_numbers"] for part in micro_batches]), whole["sample_numbers"])


@pytest.mark.parametrize("cut", [{"max_proteins": 2}, {"max_tokens": 700}, {"shape": SHAPE}, {}])
def test_a_packed_step_has_the_micro_batches_that_it_was_made_of(cut):
    lengths = [300, 1, 512, 20, 250, 77, 400]
    expected = cut_micro_batches(corrupted(lengths), np.arange(len(lengths)), **cut)
    found = PackedStep.of(expected).micro_batches()
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name, values in other.items():
            assert one[name].dtype == values.dtype and one[name].shape == values.shape
            assert bool((one[name] == values).all())


def test_a_protein_that_does_not_fit_is_an_error():
    with pytest.raises(ProtT5nvError, match="does not fit into a micro-batch"):
        cut_micro_batches(corrupted([500]), np.arange(1), shape=SHAPE._replace(decoder_tokens=100))


def test_a_step_of_real_lengths_has_little_filler():
    rng = np.random.default_rng(1)
    lengths = np.exp(rng.normal(np.log(230), 0.6, size=20 * 2688)).astype(int).clip(30, 512)
    longest = 512, max_targets(512, 0.15)
    shape = None
    filler = []
    for step in lengths.reshape(20, 2688):
        batch = corrupted(step)
        if shape is None:
            sizes = np.stack([np.diff(batch.enc_cu_seqlens), np.diff(batch.dec_cu_seqlens)], axis=1)[:1024]
            shape = choose_shape(sizes, 2688, 86016, *longest)
            assert shape.encoder_tokens + shape.decoder_tokens < 1.1 * 86016
        parts = cut_micro_batches(batch, np.arange(2688), shape=shape)
        used = sum(part["lengths"].sum() for part in parts)
        filler.append(1 - used / (len(parts) * (shape.encoder_tokens + shape.decoder_tokens)))
    assert np.mean(filler) < 0.06, filler
