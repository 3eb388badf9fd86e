"""Files of fine-tuned models: what is written is read back, and everything else is refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

pytest.importorskip("safetensors", reason="needs the finetune extra")
from safetensors.torch import load_file, save_file

from prott5nv import ModelConfig, ProtT5, ProtT5nvError
from prott5nv.flip.heads import make_head
from prott5nv.flip.predictor import Predictor
from prott5nv.flip.predictor_file import MAX_METADATA, read_predictor, save_predictor
from prott5nv.flip.tasks import OutputSpec
from prott5nv.io.record import Record

PROTEIN = Record("P1", "MSLKRAGHKVLAWQDEYNPTMSLKRAGHKV", "P1", 1)  # longer than the models' 16 positions
HEAD = {"name": "mlp", "hidden_size": 4, "dropout": 0.1}
SPEC = OutputSpec("scl", "mixed_soft", "protein", "class", ("Nucleus", "Membrane"))
SHA256 = 64 * "a"

# Written by the version of prott5nv that introduced format 1, which also computed these probabilities.
FORMAT_1 = Path(__file__).parent / "data" / "predictor_format_1.h5"
FORMAT_1_FIRST = [0.2975156009197235, 0.34797942638397217, 0.3545050024986267]
FORMAT_1_LAST = [0.3480294644832611, 0.2977675795555115, 0.35420286655426025]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A predictor file, and the model and the head in it."""
    torch.manual_seed(0)
    config = ModelConfig(
        num_layers=1,
        hidden_size=8,
        ffn_hidden_size=16,
        num_attention_heads=2,
        seq_length=16,
        max_position_embeddings=16,
    )
    model, head = ProtT5(config).eval(), make_head("protein", 8, 2, **HEAD)
    path = tmp_path_factory.mktemp("predictor") / "model.safetensors"
    save_predictor(path, model, head, HEAD, SPEC, SHA256)
    return path, model, head


def test_the_file_has_the_permissions_of_a_new_file(saved, tmp_path):
    (tmp_path / "new").touch()
    assert saved[0].stat().st_mode == (tmp_path / "new").stat().st_mode


@pytest.fixture
def changed(saved, tmp_path):
    """Write the predictor file again with changed tensors and metadata."""
    path, _, _ = saved

    def write(change):
        tensors = load_file(path)
        metadata = stored_metadata(path)
        change(tensors, metadata)
        file = tmp_path / "model.safetensors"
        save_file(tensors, file, metadata={"prott5nv": json.dumps(metadata)})
        return file

    return write


def stored_metadata(path):
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["prott5nv"])


def refused(path, message):
    with pytest.raises(ProtT5nvError, match="cannot be opened as a model of `prott5nv finetune`") as caught:
        Predictor(path, device="cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_what_is_written_is_read_back(saved):
    path, model, head = saved
    parts = read_predictor(path)
    assert (parts.config, parts.head_settings, parts.output_spec) == (model.config, HEAD, SPEC)
    assert parts.encoder_sha256 == SHA256
    expected = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("decoder.")}
    for state, stored in ((expected, parts.encoder), (head.state_dict(), parts.head)):
        assert state.keys() == stored.keys()
        assert all(torch.equal(tensor, stored[name]) for name, tensor in state.items())


def test_predictor_states_what_it_was_trained_for(saved):
    predictor = Predictor(saved[0].parent, device="cpu", precision="fp32")
    assert (predictor.output_spec, predictor.head_settings, predictor.encoder_sha256) == (SPEC, HEAD, SHA256)
    (prediction,) = predictor.predict([PROTEIN])
    assert prediction.length == 30 and prediction.rows.shape == (1, 2)
    assert prediction.rows.sum() == pytest.approx(1)


def test_metadata_document_the_file(saved):
    metadata = stored_metadata(saved[0])
    assert set(metadata) == {"format", "architecture", "head", "output", "encoder_sha256"}
    assert metadata["architecture"]["hidden_size"] == 8
    assert metadata["output"]["classes"] == ["Nucleus", "Membrane"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, metadata: metadata.pop("head"), "its metadata: 'head' is missing"),
        (lambda tensors, metadata: metadata.update(script="x"), "its metadata: 'script' is unknown"),
        (lambda tensors, metadata: metadata.update(format=3), "its format is 3; this version reads 2"),
        (lambda tensors, metadata: metadata.update(encoder_sha256="x"), "encoder_sha256 must be 64 hexadecimal digits"),
        (lambda tensors, metadata: metadata.update(head=[]), "head.name must be one of"),
        (lambda tensors, metadata: metadata["head"].update(name="rnn"), "head.name must be one of"),
        (lambda tensors, metadata: metadata["head"].update(name="convnet"), "head: 'channels' is missing"),
        (lambda tensors, metadata: metadata["head"].update(depth=3), "head: 'depth' is unknown"),
        (lambda tensors, metadata: metadata["head"].update(hidden_size="4"), "head.hidden_size must be int"),
        (lambda tensors, metadata: metadata["head"].update(hidden_size=True), "head.hidden_size must be int"),
        (lambda tensors, metadata: metadata["head"].update(hidden_size=10**12), "head.hidden_size must be at most"),
        (
            lambda tensors, metadata: metadata["head"].update(hidden_size=5),
            "head.layers.0.weight is float32 with shape",
        ),
        (lambda tensors, metadata: metadata["head"].update(dropout=float("nan")), "dropout=nan: must be at least 0"),
        (lambda tensors, metadata: metadata["architecture"].pop("num_layers"), "architecture: 'num_layers' is missing"),
        (lambda tensors, metadata: metadata["architecture"].update(x=1), "architecture: 'x' is unknown"),
        (lambda tensors, metadata: metadata["architecture"].update(num_layers=-1), "num_layers=-1 is not"),
        (lambda tensors, metadata: metadata["architecture"].update(num_layers=2**20), "encoder.encoder.layers.1."),
        (lambda tensors, metadata: metadata["architecture"].update(hidden_size=16), "expected float32 with shape"),
        (lambda tensors, metadata: metadata["output"].update(level="atom"), "output.level must be residue or protein"),
        (lambda tensors, metadata: metadata["output"].update(level=[]), "output.level must be residue or protein"),
        (lambda tensors, metadata: metadata["output"].update(label="number"), "output.classes must be different names"),
        (lambda tensors, metadata: metadata["output"].update(classes=["a", "a"]), "output.classes must be different"),
        (lambda tensors, metadata: metadata["output"].update(classes=[1, 2]), "output.classes must be a list of names"),
        (lambda tensors, metadata: metadata["output"].update(classes=["a"]), "expected float32 with shape"),
        (lambda tensors, metadata: metadata["output"].update(task=1), "output.task must be text"),
        (lambda tensors, metadata: metadata["output"].pop("split"), "output: 'split' is missing"),
        (lambda tensors, metadata: tensors.pop("head.target_std"), "head.target_std is missing"),
        (lambda tensors, metadata: tensors.update(other=torch.zeros(1)), "'other' is not a tensor of this model"),
        (lambda tensors, metadata: tensors.update({"head.target_std": torch.zeros(2)}), "head.target_std is float32"),
        (lambda tensors, metadata: tensors.update({"head.target_std": torch.zeros(()).half()}), "target_std is F16"),
        (lambda tensors, metadata: tensors["head.feature_std"].fill_(torch.nan), "head.feature_std holds NaN"),
        (lambda tensors, metadata: tensors["encoder.tokens_head.bias"].fill_(torch.inf), "bias holds NaN or infinity"),
        (lambda tensors, metadata: metadata.update(head={"name": MAX_METADATA * "x"}), "characters; at most"),
    ],
)
def test_anything_else_is_refused(change, message, changed):
    refused(changed(change), message)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "its metadata must have the single key 'prott5nv'"),
        ({"format": "pt"}, "its metadata must have the single key 'prott5nv'"),
        ({"prott5nv": "{}", "format": "pt"}, "its metadata must have the single key 'prott5nv'"),
        ({"prott5nv": "no JSON"}, "its metadata are not JSON"),
        ({"prott5nv": 100_000 * "["}, "its metadata are not JSON"),
        ({"prott5nv": "[]"}, "its metadata: expected a JSON object"),
    ],
)
def test_metadata_that_are_not_ours(metadata, message, saved, tmp_path):
    save_file(load_file(saved[0]), tmp_path / "model.safetensors", metadata=metadata)
    refused(tmp_path / "model.safetensors", message)


@pytest.mark.parametrize("length", [0, 7, 100, 5000])
def test_a_file_that_was_cut_short(length, saved, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(saved[0].read_bytes()[:length])
    refused(path, "not a sound safetensors file")


def test_a_header_that_no_predictor_needs_is_not_parsed(tmp_path):
    tensor = '"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = ("{" + ",".join(tensor % number for number in range(76_000)) + "}").encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    refused(tmp_path / "model.safetensors", "a header of 4,3")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    for path in (tmp_path / "model.safetensors", tmp_path / "zero.safetensors"):
        refused(path, "cannot be read from a pipe")


def test_a_missing_file(tmp_path):
    with pytest.raises(ProtT5nvError, match=r"model\.safetensors: there is no such file or folder"):
        Predictor(tmp_path / "model.safetensors")


def test_format_1_predicts_what_it_predicted():
    predictor = Predictor(FORMAT_1, device="cpu", precision="fp32")
    assert predictor.output_spec == OutputSpec("secondary_structure", "sampled", "residue", "class", ("C", "E", "H"))
    assert predictor.encoder_sha256 is None
    (prediction,) = predictor.predict([PROTEIN])
    assert prediction.rows.shape == (30, 3)
    np.testing.assert_allclose(prediction.rows[[0, -1]], [FORMAT_1_FIRST, FORMAT_1_LAST], atol=1e-5)


def test_format_1_in_the_folder_of_a_run(tmp_path):
    run = tmp_path / os.fsdecode(b"run\xff") if sys.platform == "linux" else tmp_path / "run"
    run.mkdir()
    shutil.copy(FORMAT_1, run / "model.h5")
    predictor = Predictor(run, device="cpu")
    assert (
        predictor.output_spec.task == "secondary_structure"
        and predictor.label.isascii()
        and predictor.label.startswith("run")
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_path_that_safetensors_cannot_open(saved, tmp_path):
    run = tmp_path / os.fsdecode(b"two\nlines\xff")
    run.mkdir()
    shutil.copy(saved[0], run)
    with pytest.raises(ProtT5nvError, match="the path is not UTF-8, as it must be for safetensors; rename the file"):
        Predictor(run, device="cpu")


def change_attribute(**changes):
    def change(file):
        file.attrs["prott5nv"] = json.dumps({**json.loads(file.attrs["prott5nv"]), **changes})

    return change


def replace_dataset(name, make):
    def change(file):
        shape = file[name].shape
        del file[name]
        make(file, name, shape)

    return change


BIAS = "head/first.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.attrs.update(other=1), "it must have the single attribute 'prott5nv'"),
        (lambda file: file.attrs.update(prott5nv=1), "its attribute 'prott5nv' must be text"),
        (change_attribute(format=2), "its format is 2; HDF5 files have format 1"),
        (change_attribute(extra=2), "its metadata: 'extra' is unknown"),
        (change_attribute(meaning={"task": "scl"}), "output: 'classes' is missing"),
        (lambda file: file.create_group("other"), "it must have exactly the groups 'encoder' and 'head'"),
        (lambda file: file.create_dataset("head/other", data=[1.0]), "is not a tensor of this model"),
        (lambda file: file.__delitem__(BIAS), "head.first.bias is missing"),
        (replace_dataset(BIAS, lambda file, name, shape: file.create_group(name)), "expected a dataset"),
        (replace_dataset(BIAS, lambda file, name, shape: file.create_dataset(name, shape, "f8")), "0 are stored"),
        (
            replace_dataset(BIAS, lambda file, name, shape: file.create_dataset(name, data=np.zeros(shape))),
            "head.first.bias is float64",
        ),
        (
            replace_dataset(BIAS, lambda file, name, shape: file.create_dataset(name, data=np.zeros(9, "f4"))),
            "head.first.bias is float32 with shape (9,)",
        ),
        (
            replace_dataset(
                BIAS, lambda file, name, shape: file.create_dataset(name, data=np.full(shape, np.nan, "f4"))
            ),
            "head.first.bias holds NaN",
        ),
        (
            replace_dataset(
                BIAS,
                lambda file, name, shape: file.create_dataset(name, data=np.zeros(shape, "f4"), compression="gzip"),
            ),
            "must be a dataset that lies uncompressed in this file",
        ),
        (
            replace_dataset(
                BIAS,
                lambda file, name, shape: file.create_dataset(name, shape, "f4", external=[("other", 0, 16)]),
            ),
            "has its values in other files, which are not opened",
        ),
        (
            replace_dataset(
                BIAS, lambda file, name, shape: file.__setitem__(name, h5py.ExternalLink("other.h5", "/x"))
            ),
            "is a link, which is not allowed",
        ),
        (
            replace_dataset(BIAS, lambda file, name, shape: file.__setitem__(name, h5py.SoftLink("/head/second.bias"))),
            "is a link, which is not allowed",
        ),
    ],
)
def test_anything_else_in_format_1_is_refused(change, message, tmp_path):
    path = tmp_path / "model.h5"
    shutil.copy(FORMAT_1, path)
    with h5py.File(path, "r+") as file:
        change(file)
    refused(path, message)


@pytest.mark.parametrize("length", [8, 100, 20_000])
def test_format_1_that_was_cut_short(length, tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(FORMAT_1.read_bytes()[:length])
    refused(path, "")
