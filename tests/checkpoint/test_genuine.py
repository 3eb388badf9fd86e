"""Files that NeMo 1.x wrote give the results that NeMo 1.x computed.

Shapes: B proteins, L residues of the longest, T packed tokens, S packed decoder tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from helpers.crafting import CONFIG, WEIGHTS, read_members, rewrite_zip, saved, write_tar
from helpers.genuine import FILES, packed

from prott5nv.checkpoint import load, read_nemo
from prott5nv.checkpoint.parameter_names import nemo_to_prott5


@pytest.fixture(scope="module")
def members(nemo1):
    return read_members(nemo1 / "prott5nv.nemo")


def largest_difference(model, ids_BL, mask_BL, expected_BLD) -> float:
    tokens_T, cu_seqlens_B1 = packed(ids_BL, mask_BL)
    with torch.inference_mode():
        hidden_TD = model.encode(tokens_T.to(device_of(model)), cu_seqlens_B1)
    return np.abs(hidden_TD.cpu().numpy() - expected_BLD[mask_BL]).max()


def device_of(model) -> torch.device:
    return next(model.parameters()).device


@pytest.mark.parametrize("name", FILES)
def test_hidden_states_and_logits_are_those_of_nemo(nemo1, truth, name, device):
    model = load(nemo1 / name).to(device)
    ids_BL, mask_BL = truth["token_ids"], truth["mask"]
    assert largest_difference(model, ids_BL, mask_BL, truth["hidden"]) <= 1e-5
    for i, length in enumerate(truth["lengths"]):
        one = np.ones((1, length), dtype=bool)
        assert largest_difference(model, ids_BL[i : i + 1, :length], one, truth[f"single_{i}"][None]) <= 1e-5
    raw = truth["raw_ids"]
    assert largest_difference(model, raw, np.ones_like(raw, dtype=bool), truth["raw_hidden"]) <= 1e-5

    with torch.inference_mode():
        tokens_T, cu_seqlens_B1 = packed(truth["dec_enc_ids"], truth["dec_enc_mask"])
        hidden_TD = model.encode(tokens_T.to(device), cu_seqlens_B1)
        tokens_S, targets_B1 = packed(truth["dec_ids"], truth["dec_mask"])
        hidden_SD = model.decode(tokens_S.to(device), targets_B1, hidden_TD, cu_seqlens_B1)
        logits_SV = model.logits(hidden_SD).cpu().numpy()
    expected_SV = truth["dec_logits"][truth["dec_mask"]]
    assert np.abs(logits_SV - expected_SV).max() <= 1e-5 * np.abs(expected_SV).max()


def test_weights_equal_those_of_torch_load(nemo1, members):
    expected = nemo_to_prott5(torch.load(io.BytesIO(members[WEIGHTS]), map_location="cpu", weights_only=True))
    for name in FILES:
        found = read_nemo(nemo1 / name).state_dict
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def variant(members, tmp_path, weights: bytes):
    return load(write_tar(tmp_path / "variant.nemo", {**members, WEIGHTS: weights}))


def state_dict(members) -> dict[str, torch.Tensor]:
    return dict(torch.load(io.BytesIO(members[WEIGHTS]), weights_only=True))


def test_storages_on_a_gpu_and_a_missing_byte_order_are_read(members, truth, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    weights = saved(state_dict(members))
    assert b"cuda:0" in weights
    weights = rewrite_zip(weights, lambda name, content: None if name == "byteorder" else content)
    model = variant(members, tmp_path, weights)
    assert largest_difference(model, truth["token_ids"], truth["mask"], truth["hidden"]) <= 1e-5


@pytest.mark.parametrize("copies", ["once", "shared", "twice"])
def test_shared_tables_may_be_stored_once_or_twice(members, truth, tmp_path, copies):
    state = state_dict(members)
    for key in [key for key in state if "decoder_embedding" in key]:
        table = state.pop(key)
        if copies == "twice":
            state[key] = table.clone()
        elif copies == "shared":
            state[key] = state[key.replace("decoder_embedding", "encoder_embedding")]
    model = variant(members, tmp_path, saved(state))
    assert largest_difference(model, truth["token_ids"], truth["mask"], truth["hidden"]) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_converted_to_fp32(members, tmp_path, dtype):
    state = {key: tensor.to(dtype) for key, tensor in state_dict(members).items()}
    model = variant(members, tmp_path, saved(state))
    key = "encoder.layers.1.mlp.dense_4h_to_h.weight"
    assert model.get_parameter(key).dtype == torch.float32
    assert torch.equal(model.get_parameter(key), state[f"enc_dec_model.enc_dec_model.encoder.model.{key[8:]}"].float())


def test_parameters_are_read_and_extra_state_is_ignored(members, truth, tmp_path):
    state = {key: torch.nn.Parameter(tensor) for key, tensor in state_dict(members).items()}
    state["enc_dec_model.enc_dec_model.encoder.model.layers.0.self_attention._extra_state"] = None
    state["enc_dec_model.enc_dec_model.encoder.model.layers.0.mlp._extra_state"] = torch.empty(0, dtype=torch.uint8)
    model = variant(members, tmp_path, saved(state))
    assert largest_difference(model, truth["token_ids"], truth["mask"], truth["hidden"]) <= 1e-5


def test_weights_in_one_flat_buffer_are_read(members, truth, tmp_path):
    """Distributed optimizers store all parameters in one buffer, and torch.save writes this buffer."""
    state = state_dict(members)
    buffer = torch.cat([tensor.flatten() for tensor in state.values()])
    position = 0
    for key, tensor in state.items():
        state[key] = buffer[position : position + tensor.numel()].view(tensor.shape)
        position += tensor.numel()
    model = variant(members, tmp_path, saved(state))
    assert largest_difference(model, truth["token_ids"], truth["mask"], truth["hidden"]) <= 1e-5


def test_the_erf_form_of_gelu_is_used_if_configured(members, truth, tmp_path):
    config = members[CONFIG].replace(b"bias_activation_fusion: true", b"bias_activation_fusion: false")
    model = load(write_tar(tmp_path / "erf.nemo", {**members, CONFIG: config}))
    difference = largest_difference(model, truth["token_ids"], truth["mask"], truth["hidden"])
    assert 1e-4 < difference < 1e-2
