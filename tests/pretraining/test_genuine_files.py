"""Files that NeMo 1.x wrote load into the Megatron model, compute the same numbers, and can be trained on.

Shapes: B proteins, L residues of the longest, T packed tokens, S packed decoder tokens.
"""

import numpy as np
import pytest
import torch

pytest.importorskip("nemo", reason="needs the train extra")

from prott5nv.attention import Packing
from prott5nv.checkpoint import read_nemo
from prott5nv.pretraining.model import ProtT5nvModel


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "fixtures" / "nemo1_tiny"


@pytest.fixture(scope="module")
def truth(folder):
    with np.load(folder / "groundtruth.npz") as file:
        return dict(file)


def packed(ids_BL, mask_BL):
    cu_seqlens_B1 = torch.from_numpy(np.concatenate([[0], np.cumsum(mask_BL.sum(1))]).astype(np.int32))
    return torch.from_numpy(ids_BL[mask_BL]), cu_seqlens_B1


@pytest.mark.parametrize("name", ["prott5nv.nemo", "variant_flatcfg.nemo", "variant_gz.nemo"])
def test_hidden_states_and_logits(folder, truth, name):
    model = ProtT5nvModel.restore_from(folder / name).eval()
    tokens_T, cu_seqlens_B1 = packed(truth["token_ids"], truth["mask"])
    enc_tokens_T, enc_cu_seqlens_B1 = packed(truth["dec_enc_ids"], truth["dec_enc_mask"])
    dec_tokens_S, dec_cu_seqlens_B1 = packed(truth["dec_ids"], truth["dec_mask"])
    with torch.no_grad():
        hidden = model.megatron.encode(tokens_T, Packing(cu_seqlens_B1)).squeeze(1).numpy()
        logits = model(
            {
                "enc_tokens": enc_tokens_T,
                "enc_cu_seqlens": enc_cu_seqlens_B1,
                "dec_tokens": dec_tokens_S,
                "dec_cu_seqlens": dec_cu_seqlens_B1,
            }
        ).numpy()
    assert np.abs(hidden - truth["hidden"][truth["mask"]]).max() <= 1e-5
    expected = truth["dec_logits"][truth["dec_mask"]]
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_save_to_gives_the_weights_back(folder, tmp_path):
    ProtT5nvModel.restore_from(folder / "prott5nv.nemo").save_to(tmp_path / "ours.nemo")
    theirs, ours = read_nemo(folder / "prott5nv.nemo"), read_nemo(tmp_path / "ours.nemo")
    assert ours.config == theirs.config
    assert all(torch.equal(ours.state_dict[name], weight) for name, weight in theirs.state_dict.items())
