"""The methods of BioNeMo v1's inference class: shapes, masked residues, samples, errors."""

from __future__ import annotations

import pytest
import torch

from prott5nv import ModelConfig, ProtT5, ProtT5nvError, ProtT5nvInference, fill, load
from prott5nv.embedding.embedder import LongProteinWarning

HBA = (
    "MVLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHFDLSHGSAQVKGHGKKVADALTNAVAHVDDMPNALSALSDLHAHKLRVDPVNFKLLSHCLLVTLAAHLPAEF"
    "TPAVHASLDKFLASVSTVLTSKYR"
)
SEQS = ["MK?AV??LGDE?", "M?LKR", "??"]
UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"


def make_model(**overrides) -> ProtT5nvInference:
    """Return a model with large random weights, so that predictions differ."""
    torch.manual_seed(0)
    network = ProtT5(ModelConfig.preset("tiny", init_method_std=0.2, **overrides)).eval()
    return ProtT5nvInference(network, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def model() -> ProtT5nvInference:
    return make_model()


@pytest.fixture(scope="module")
def short_model() -> ProtT5nvInference:
    """A model that accepts 32 residues at once, 5 of them masked."""
    return make_model(seq_length=32, max_position_embeddings=32, seq_length_dec=10)


def test_the_methods_agree_with_each_other(model):
    ids_BL, mask_BL = model.tokenize([HBA, "MSLKR"])
    assert ids_BL.shape == (2, len(HBA))
    assert ids_BL[1, :6].tolist() == [22, 7, 5, 16, 11, 3]
    hiddens_BLD, hiddens_mask_BL = model.seq_to_hiddens([HBA, "MSLKR"])
    assert torch.equal(mask_BL, hiddens_mask_BL)
    assert hiddens_BLD.shape == (2, len(HBA), 64)
    pooled_BD = model.hiddens_to_embedding(hiddens_BLD, mask_BL)
    torch.testing.assert_close(pooled_BD, model.seq_to_embeddings([HBA, "MSLKR"]), atol=1e-5, rtol=0)


def test_the_mean_of_hidden_states_is_never_silently_wrong(model):
    hiddens_BLD, mask_BL = model.seq_to_hiddens(["MSLKR", "M", "MS"])
    expected_BD = model.hiddens_to_embedding(hiddens_BLD, mask_BL)
    hiddens_BLD[1, 3] = torch.nan  # padding does not count
    assert torch.equal(model.hiddens_to_embedding(hiddens_BLD, mask_BL), expected_BD)
    mask_BL[1] = False  # as of a protein that was skipped
    assert model.hiddens_to_embedding(hiddens_BLD, mask_BL).isnan().all(1).tolist() == [False, True, False]
    for value in (torch.nan, torch.inf):
        hiddens_BLD[2, 1, 7] = value
        with pytest.raises(ProtT5nvError, match="sequence 3: the hidden states or their mean are NaN or infinite"):
            model.hiddens_to_embedding(hiddens_BLD, mask_BL)


def test_hidden_states_of_cut_proteins_come_with_a_warning(model):
    with pytest.warns(LongProteinWarning, match="truncated to their first 512 residues: 1"):
        _, mask = model.seq_to_hiddens(["M" * 600, "MSLKR"])
    assert mask.sum(1).tolist() == [512, 5]


def test_an_empty_list_gives_an_empty_tensor(model):
    assert model.seq_to_embeddings([]).shape == (0, 64)


def test_unchanged_hidden_states_give_the_result_of_fill(model):
    hiddens, mask = model.seq_to_hiddens(SEQS)
    assert hiddens.shape == (3, 12, model.config.hidden_size) and mask.sum(1).tolist() == [12, 5, 2]
    assert model.hiddens_to_seq(hiddens, mask, SEQS) == [fill(sequence, model)[0].sequence for sequence in SEQS]


def test_proteins_with_and_without_masked_residues_keep_their_order(model):
    mixed, mask = model.seq_to_hiddens(["MSLKR", "M?LKR", "MS"])
    whole, _ = model.seq_to_hiddens(["MSLKR", "MS"])
    torch.testing.assert_close(mixed[0], whole[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed[2], whole[1], rtol=0, atol=1e-5)
    assert not torch.allclose(mixed[1], whole[0], atol=1e-2) and mask.sum(1).tolist() == [5, 5, 2]


def test_predictions_depend_on_the_hidden_states(model):
    hiddens, mask = model.seq_to_hiddens(SEQS[:1])
    noise = torch.Generator().manual_seed(0)
    predictions = {
        model.hiddens_to_seq(hiddens + 3 * torch.randn(hiddens.shape, generator=noise), mask, SEQS[:1])[0]
        for _ in range(5)
    }
    assert len(predictions) > 1


def test_samples_keep_the_length_and_change_a_fraction_of_the_residues(model):
    [samples, two] = model.sample([UBIQUITIN, "MS?KR"], 8, scaled_radius=0.5, fraction=0.25, seed=1)
    assert len(samples) == len(two) == 8 and len(set(samples)) > 1
    for sample in samples:
        assert len(sample) == len(UBIQUITIN)
        assert sum(a != b for a, b in zip(sample, UBIQUITIN, strict=True)) <= 19
    assert {sample[:2] + sample[3:] for sample in two} == {"MSKR"}
    assert [samples, two] == model.sample([UBIQUITIN, "MS?KR"], 8, scaled_radius=0.5, fraction=0.25, seed=1)
    assert [samples, two] != model.sample([UBIQUITIN, "MS?KR"], 8, scaled_radius=0.5, fraction=0.25, seed=2)


def test_noise_changes_samples(model):
    """With temperature 0 and given masked residues, samples differ by the noise only."""
    [without_noise] = model.sample(SEQS[:1], 6, temperature=0)
    assert set(without_noise) == {fill(SEQS[0], model)[0].sequence}
    [with_noise] = model.sample(SEQS[:1], 6, temperature=0, scaled_radius=2)
    assert len(set(with_noise)) > 1


def test_the_decoder_of_a_file_is_loaded_when_it_is_needed(tiny_checkpoint):
    from_file = ProtT5nvInference(tiny_checkpoint, device="cpu", precision="fp32")
    in_memory = ProtT5nvInference(load(tiny_checkpoint), device="cpu", precision="fp32")
    assert fill(SEQS[0], from_file)[0].sequence == fill(SEQS[0], in_memory)[0].sequence


def test_errors_name_the_problem(model, short_model):
    with pytest.raises(ProtT5nvError, match="as the path of its file, not as a dict"):
        ProtT5nvInference({"model": "prott5nv.nemo"})
    hiddens, mask = model.seq_to_hiddens(SEQS)
    with pytest.raises(ProtT5nvError, match="not the hidden states of these proteins"):
        model.hiddens_to_seq(hiddens, mask, SEQS[::-1])
    with pytest.raises(ProtT5nvError, match="needs the proteins"):
        model.hiddens_to_seq(hiddens, mask)
    with pytest.raises(ProtT5nvError, match=r"sequence 1 has no \?"):
        model.hiddens_to_seq(*model.seq_to_hiddens(["MS"]), ["MS"])
    with pytest.raises(ProtT5nvError, match="pass a list"):
        model.sample("MS?")
    with pytest.raises(ProtT5nvError, match="scaled_radius=-1"):
        model.sample(["MS?"], scaled_radius=-1)
    with pytest.raises(ProtT5nvError, match="33 residues"):
        short_model.seq_to_hiddens(["?" + 32 * "A"])
