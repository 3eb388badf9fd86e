"""Written files have the layout of NeMo 1.x, are reproducible, and are complete or absent."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile

import pytest
import torch
import yaml
from helpers.crafting import CONFIG, WEIGHTS, read_members

from prott5nv import ModelConfig, ProtT5, ProtT5nvError
from prott5nv.checkpoint import load, read_nemo, save_nemo


def test_keys_shapes_and_dtypes_are_those_of_nemo(nemo1, tmp_path):
    model = load(nemo1 / "prott5nv.nemo")
    save_nemo(tmp_path / "ours.nemo", model.config, model.state_dict())
    state = torch.load(io.BytesIO(read_members(tmp_path / "ours.nemo")[WEIGHTS]), weights_only=True)
    ours = [f"{key}\t{tuple(tensor.shape)}\t{tensor.dtype}" for key, tensor in state.items()]
    theirs = (nemo1 / "state_dict_keys.txt").read_text().splitlines()
    assert sorted(ours) == sorted(theirs)


def test_members_and_config_are_those_of_nemo(nemo1, tmp_path):
    genuine_file = read_nemo(nemo1 / "prott5nv.nemo")
    save_nemo(tmp_path / "ours.nemo", genuine_file.config, genuine_file.state_dict)
    with tarfile.open(tmp_path / "ours.nemo") as tar:
        names = tar.getnames()
    artifacts = [rf"\./[0-9a-f]{{32}}_protein_sequence_sentencepiece\.{end}" for end in ("model", "vocab")]
    assert len(names) == 5 and names[0] == "." and {CONFIG, WEIGHTS} < set(names)
    assert all(any(re.fullmatch(pattern, name) for name in names) for pattern in artifacts)

    ours, theirs = yaml.safe_load(read_members(tmp_path / "ours.nemo")[CONFIG]), genuine_file.raw_config
    assert f"./{ours['tokenizer']['model'].removeprefix('nemo:')}" in names
    assert f"./{ours['tokenizer']['vocab_file'].removeprefix('nemo:')}" in names
    of_training = {"optim", "data", "precision", "nemo_version", "tokenizer"}
    for section in (None, "encoder", "decoder"):
        mine, genuine_section = (values if section is None else values[section] for values in (ours, theirs))
        expected = {key: genuine_section[key] for key in genuine_section.keys() - of_training - {"encoder", "decoder"}}
        assert {key: mine.get(key) for key in expected} == expected


def test_round_trip_keeps_every_bit(minute_model, tmp_path):
    save_nemo(tmp_path / "a.nemo", minute_model.config, minute_model.state_dict(), settings={"optim": {"lr": 1e-4}})
    file = read_nemo(tmp_path / "a.nemo")
    assert file.config == minute_model.config and file.raw_config["optim"] == {"lr": 1e-4}
    assert file.sha256 == hashlib.sha256((tmp_path / "a.nemo").read_bytes()).hexdigest()
    state = minute_model.state_dict()
    assert file.state_dict.keys() == state.keys()
    assert all(torch.equal(file.state_dict[name], state[name]) for name in state)
    save_nemo(tmp_path / "b.nemo", file.config, file.state_dict, settings={"optim": {"lr": 1e-4}})
    assert (tmp_path / "b.nemo").read_bytes() == (tmp_path / "a.nemo").read_bytes()


def test_weights_can_be_written_in_half_precision(minute_model, tmp_path):
    save_nemo(tmp_path / "half.nemo", minute_model.config, minute_model.state_dict(), dtype=torch.bfloat16)
    assert read_nemo(tmp_path / "half.nemo", weights=False).dtypes == {"bfloat16"}
    loaded = load(tmp_path / "half.nemo", dtype=torch.bfloat16)
    name = "decoder.layers.0.inter_attention.key_value.weight"
    assert torch.equal(loaded.get_parameter(name), minute_model.get_parameter(name).bfloat16())


def test_a_view_is_written_without_the_rest_of_its_storage(minute_model, tmp_path):
    state = dict(minute_model.state_dict())
    name = "tokens_head.bias"
    state[name] = torch.cat([state[name], torch.zeros(10**6)])[: len(state[name])]
    save_nemo(tmp_path / "view.nemo", minute_model.config, state)
    save_nemo(tmp_path / "plain.nemo", minute_model.config, minute_model.state_dict())
    assert (tmp_path / "view.nemo").read_bytes() == (tmp_path / "plain.nemo").read_bytes()


def test_wrong_parameters_are_refused_and_leave_no_file(minute_model, tmp_path):
    state = dict(minute_model.state_dict())
    del state["tokens_head.bias"]
    with pytest.raises(ProtT5nvError, match=r"tokens_head\.bias"):
        save_nemo(tmp_path / "wrong.nemo", minute_model.config, state)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "dtype"), [(float("nan"), None), (float("inf"), torch.bfloat16), (1e39, None), (1e6, torch.float16)]
)
def test_weights_that_are_not_finite_are_never_written(value, dtype, minute_model, tmp_path):
    state = {name: tensor.double() for name, tensor in minute_model.state_dict().items()}
    state["tokens_head.bias"][3] = value
    with pytest.raises(ProtT5nvError, match=r"'tokens_head\.bias' contains NaN or infinity as (float|bfloat)"):
        save_nemo(tmp_path / "model.nemo", minute_model.config, state, dtype=dtype)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_failed_write_keeps_the_older_file(minute_model, tmp_path):
    """The process may write at most 4 kB to a file, as on a full disk."""
    path = tmp_path / "model.nemo"
    save_nemo(path, minute_model.config, minute_model.state_dict())
    before = path.read_bytes()
    code = f"""
import resource, signal
from prott5nv.checkpoint import read_nemo, save_nemo
file = read_nemo({str(path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
save_nemo({str(path)!r}, file.config, file.state_dict)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.nemo"]


def test_written_presets_have_the_right_number_of_parameters(tmp_path):
    for name in ("builtin", "small", "tiny"):
        model = ProtT5(ModelConfig.preset(name))
        save_nemo(tmp_path / "preset.nemo", model.config, model.state_dict(), dtype=torch.bfloat16)
        file = read_nemo(tmp_path / "preset.nemo", weights=False)
        assert file.config == model.config
        assert sum(torch.Size(shape).numel() for shape in file.shapes.values()) == model.config.num_parameters
