"""``hiddens_to_seq`` and ``sample``: proteins from hidden states."""

from __future__ import annotations

import pytest
import torch

from prott5nv import ProtT5nvError, ProtT5nvInference, fill

SEQS = ["MK?AV??LGDE?", "M?LKR", "??"]
UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"


def test_hidden_states_as_they_are_give_what_fill_gives(inference):
    hiddens, mask = inference.seq_to_hiddens(SEQS)
    assert hiddens.shape == (3, 12, inference.config.hidden_size) and mask.sum(1).tolist() == [12, 5, 2]
    assert inference.hiddens_to_seq(hiddens, mask, SEQS) == [fill(sequence, inference)[0].sequence for sequence in SEQS]


def test_proteins_with_and_without_gaps_keep_their_order(inference):
    mixed, mask = inference.seq_to_hiddens(["MSLKR", "M?LKR", "MS"])
    whole, _ = inference.seq_to_hiddens(["MSLKR", "MS"])
    torch.testing.assert_close(mixed[0], whole[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed[2], whole[1], rtol=0, atol=1e-5)
    assert not torch.allclose(mixed[1], whole[0], atol=1e-2) and mask.sum(1).tolist() == [5, 5, 2]


def test_what_is_decoded_depends_on_the_hidden_states(inference):
    hiddens, mask = inference.seq_to_hiddens(SEQS[:1])
    noise = torch.Generator().manual_seed(0)
    others = {
        inference.hiddens_to_seq(hiddens + 3 * torch.randn(hiddens.shape, generator=noise), mask, SEQS[:1])[0]
        for _ in range(5)
    }
    assert len(others) > 1


def test_samples_are_proteins_of_the_same_length_with_a_share_hidden(inference):
    [samples, two] = inference.sample([UBIQUITIN, "MS?KR"], 8, scaled_radius=0.5, fraction=0.25, seed=1)
    assert len(samples) == len(two) == 8 and len(set(samples)) > 1
    for sample in samples:
        assert len(sample) == len(UBIQUITIN)
        assert sum(a != b for a, b in zip(sample, UBIQUITIN, strict=True)) <= 19
    assert {sample[:2] + sample[3:] for sample in two} == {"MSKR"}
    assert [samples, two] == inference.sample([UBIQUITIN, "MS?KR"], 8, scaled_radius=0.5, fraction=0.25, seed=1)
    assert [samples, two] != inference.sample([UBIQUITIN, "MS?KR"], 8, scaled_radius=0.5, fraction=0.25, seed=2)


def test_the_radius_is_what_perturbs(inference):
    """Without temperature and with given gaps, nothing but the noise can make samples differ."""
    [still] = inference.sample(SEQS[:1], 6, temperature=0)
    assert set(still) == {fill(SEQS[0], inference)[0].sequence}
    [moved] = inference.sample(SEQS[:1], 6, temperature=0, scaled_radius=2)
    assert len(set(moved)) > 1


def test_the_decoder_of_a_file_is_read_when_it_is_needed(tiny_checkpoint):
    loaded = ProtT5nvInference(tiny_checkpoint, device="cpu", precision="fp32")
    assert not hasattr(loaded._encoder, "decoder")
    from prott5nv import load

    whole = ProtT5nvInference(load(tiny_checkpoint), device="cpu", precision="fp32")
    assert fill(SEQS[0], loaded)[0].sequence == fill(SEQS[0], whole)[0].sequence


def test_mistakes_are_named(inference, short_sighted):
    hiddens, mask = inference.seq_to_hiddens(SEQS)
    with pytest.raises(ProtT5nvError, match="not the hidden states of these proteins"):
        inference.hiddens_to_seq(hiddens, mask, SEQS[::-1])
    with pytest.raises(ProtT5nvError, match=r"sequence 1 has no \?"):
        inference.hiddens_to_seq(*inference.seq_to_hiddens(["MS"]), ["MS"])
    with pytest.raises(ProtT5nvError, match="pass a list"):
        inference.sample("MS?")
    with pytest.raises(ProtT5nvError, match="scaled_radius=-1"):
        inference.sample(["MS?"], scaled_radius=-1)
    with pytest.raises(ProtT5nvError, match="33 residues"):
        short_sighted.seq_to_hiddens(["?" + 32 * "A"])
