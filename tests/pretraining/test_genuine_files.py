"""Files of NeMo 1.x load into the Megatron model, and compute the same numbers.

Shapes: B proteins, L residues of the longest, T packed tokens, S packed decoder tokens.
"""

import numpy as np
import pytest
import torch
from helpers.genuine import FILES, packed

pytest.importorskip("nemo", reason="needs the train extra")

from prott5nv.checkpoint import read_nemo
from prott5nv.model.attention import Packing
from prott5nv.pretraining.model import ProtT5nvModel


@pytest.mark.parametrize("name", FILES)
def test_hidden_states_and_logits(nemo1, truth, name):
    model = ProtT5nvModel.restore_from(nemo1 / name).eval()
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


def test_saving_keeps_the_weights(nemo1, tmp_path):
    ProtT5nvModel.restore_from(nemo1 / "prott5nv.nemo").save_to(tmp_path / "ours.nemo")
    theirs, ours = read_nemo(nemo1 / "prott5nv.nemo"), read_nemo(tmp_path / "ours.nemo")
    assert ours.config == theirs.config
    assert all(torch.equal(ours.state_dict[name], weight) for name, weight in theirs.state_dict.items())
