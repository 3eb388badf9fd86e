"""Blenderbot and XLM-RoBERTa-XL of transformers give ProtT5's results, and converting back gives the same file.

Shapes: B proteins, L residues of the longest, S decoder tokens, T residues of all proteins, V vocabulary.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from helpers.crafting import write_tar

from prott5nv import ModelConfig, ProteinTokenizer, ProtT5, ProtT5nvError
from prott5nv.checkpoint import read_nemo, save_nemo
from prott5nv.checkpoint.huggingface import huggingface_to_nemo, nemo_to_huggingface
from prott5nv.cli import main

transformers = pytest.importorskip("transformers", reason="needs the test extra")

SEQUENCES = ["MSLKRKNIALIPAAGIGVRFGADKPKQ", "XBZUOJ*JJ-M", "m", "MKTAYIAKQRqisfvk"]
EXPORTS = {"hf": "whole model", "hf-encoder": "encoder"}


def random_model(**overrides) -> ProtT5:
    torch.manual_seed(0)
    model = ProtT5(ModelConfig.preset("tiny", decoder_num_layers=3, **overrides)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def convert(source: Path, target: str, output: Path) -> Path:
    """Run ``prott5nv convert``."""
    with pytest.raises(SystemExit) as end:
        main(["convert", str(source), "--to", target, str(output)])
    assert not end.value.code
    return output


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A ``.nemo`` file with random weights."""
    path = tmp_path_factory.mktemp("huggingface") / "source.nemo"
    model = random_model()
    save_nemo(path, model.config, model.state_dict())
    return path


@pytest.fixture(scope="module")
def folder(source):
    """A converted folder with the whole model."""
    return convert(source, "hf", source.parent / "folder")


@pytest.fixture(scope="module")
def encoder_folder(source):
    """A converted folder with the encoder alone."""
    return convert(source, "hf-encoder", source.parent / "encoder")


@pytest.fixture(params=EXPORTS)
def either_folder(request, folder, encoder_folder):
    return {"hf": folder, "hf-encoder": encoder_folder}[request.param]


@pytest.mark.slow
def test_the_tokenizer_gives_the_same_ids(either_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(either_folder)
    ours = ProteinTokenizer()
    with pytest.warns(UserWarning, match="lower-case"):
        expected = [ours.encode(sequence).tolist() for sequence in SEQUENCES]
    assert tokenizer(SEQUENCES)["input_ids"] == expected
    assert tokenizer("MS<mask>L<extra_id_0>K<extra_id_95></s>")["input_ids"] == [22, 7, 4, 5, 32, 16, 127, 2]
    assert tokenizer.decode(expected[0]) == SEQUENCES[0]
    assert len(tokenizer) == 128 and tokenizer.model_max_length == 512
    assert [getattr(tokenizer, f"{name}_token_id") for name in ("unk", "bos", "eos", "pad", "mask")] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_the_tokenizer_removes_white_space(either_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(either_folder)
    expected = tokenizer("MSLKRKNIAL")["input_ids"]
    for separator in (" ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000"):
        assert tokenizer(f" {separator.join('MSLKRKNIAL')}\n")["input_ids"] == expected
    assert tokenizer("M S <mask> L")["input_ids"] == [22, 7, 4, 5]
    assert tokenizer(list("MSLK"), is_split_into_words=True)["input_ids"] == expected[:4]
    batch = tokenizer(["M S L K R", "M S"], return_offsets_mapping=True)
    assert batch["offset_mapping"][1] == [(0, 1), (2, 3)]


def test_padding_is_masked(either_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(either_folder)
    batch = tokenizer(["M S L", "M"], return_tensors="pt", padding=True)
    assert batch.keys() == {"input_ids", "attention_mask"}
    assert batch["input_ids"].tolist() == [[22, 7, 5], [22, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_all_sentinels_of_a_larger_vocabulary_have_tokens(tmp_path):
    model = random_model(num_sentinel_tokens=192)
    save_nemo(tmp_path / "model.nemo", model.config, model.state_dict())
    nemo_to_huggingface(tmp_path / "model.nemo", tmp_path / "folder")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert tokenizer("M<extra_id_95><extra_id_191>")["input_ids"] == [22, 127, 223]


def packed(batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Residue tokens without padding, and the boundaries of the proteins."""
    mask_BL = batch["attention_mask"].bool()
    cu_seqlens = torch.cat([torch.zeros(1), mask_BL.sum(1).cumsum(0)]).to(torch.int32)
    return batch["input_ids"][mask_BL], cu_seqlens


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [{}, {"bias_activation_fusion": False}])
def test_hidden_states_and_logits_are_the_same(tmp_path, overrides, device):
    model = random_model(**overrides)
    save_nemo(tmp_path / "model.nemo", model.config, model.state_dict())
    nemo_to_huggingface(tmp_path / "model.nemo", tmp_path / "folder")
    generator = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "folder").eval()
    base = transformers.AutoModel.from_pretrained(tmp_path / "folder").eval()
    assert type(base).__name__ == "BlenderbotModel"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    batch = tokenizer(SEQUENCES, return_tensors="pt", padding=True)
    mask_BL = batch["attention_mask"].bool()
    tokens_T, cu_seqlens = packed(batch)
    decoder_ids_BS = torch.randint(0, 128, (len(SEQUENCES), 9), generator=torch.Generator().manual_seed(0))
    decoder_cu_seqlens = 9 * torch.arange(len(SEQUENCES) + 1, dtype=torch.int32)
    model.to(device)
    with torch.inference_mode():
        hidden_TD = model.encode(tokens_T.to(device), cu_seqlens)
        hidden_SD = model.decode(decoder_ids_BS.flatten().to(device), decoder_cu_seqlens, hidden_TD, cu_seqlens)
        hidden_TD, logits_SV = hidden_TD.cpu(), model.logits(hidden_SD).cpu()
        theirs_TD = base.get_encoder()(**batch).last_hidden_state[mask_BL]
        theirs_SV = generator(**batch, decoder_input_ids=decoder_ids_BS).logits.flatten(0, 1)
    assert (hidden_TD - theirs_TD).abs().max() <= 1e-5
    assert (logits_SV - theirs_SV).abs().max() <= 1e-5 * logits_SV.abs().max()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("overrides", [{}, {"bias_activation_fusion": False, "layernorm_epsilon": 1e-3}])
def test_the_encoder_gives_the_same_hidden_states(tmp_path, overrides, attention):
    model = random_model(**overrides)
    save_nemo(tmp_path / "model.nemo", model.config, model.state_dict())
    nemo_to_huggingface(tmp_path / "model.nemo", tmp_path / "folder", encoder_only=True)
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "folder", attn_implementation=attention).eval()
    assert type(theirs).__name__ == "XLMRobertaXLModel"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    batch = tokenizer([*SEQUENCES, 18 * SEQUENCES[0]], return_tensors="pt", padding=True)
    with torch.inference_mode():
        hidden_TD = model.encode(*packed(batch))
        output = theirs(**batch)
    assert (hidden_TD - output.last_hidden_state[batch["attention_mask"].bool()]).abs().max() <= 5e-6
    assert not output.pooler_output.any()


def test_the_encoder_accepts_the_longest_protein_and_no_longer_one(encoder_folder, source):
    encoder = transformers.AutoModel.from_pretrained(encoder_folder).eval()
    ids_BL = torch.randint(5, 30, (1, 513), generator=torch.Generator().manual_seed(0))
    model = random_model()
    with torch.inference_mode():
        expected = model.encode(ids_BL[0, :512], torch.tensor([0, 512], dtype=torch.int32))
        assert (encoder(ids_BL[:, :512]).last_hidden_state[0] - expected).abs().max() <= 5e-6
        with pytest.raises((IndexError, RuntimeError)):
            encoder(ids_BL)


@pytest.mark.parametrize("target", EXPORTS)
def test_models_with_16_bit_weights_compute_in_fp32(tmp_path, target):
    model = random_model()
    save_nemo(tmp_path / "model.nemo", model.config, model.state_dict(), dtype=torch.bfloat16)
    nemo_to_huggingface(tmp_path / "model.nemo", tmp_path / "folder", encoder_only=target == "hf-encoder")
    assert transformers.AutoModel.from_pretrained(tmp_path / "folder").dtype == torch.float32
    state = transformers.AutoModel.from_pretrained(tmp_path / "folder", dtype="bfloat16").state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}


def test_a_genuine_file_gives_the_hidden_states_of_nemo(nemo1, truth, tmp_path):
    ids_BL, mask_BL = torch.from_numpy(truth["token_ids"]), torch.from_numpy(truth["mask"])
    for target in EXPORTS:
        nemo_to_huggingface(nemo1 / "prott5nv.nemo", tmp_path / target, encoder_only=target == "hf-encoder")
        model = transformers.AutoModel.from_pretrained(tmp_path / target).eval()
        encoder = model.get_encoder() if target == "hf" else model
        with torch.inference_mode():
            hidden = encoder(input_ids=ids_BL, attention_mask=mask_BL.long()).last_hidden_state
        assert (hidden - torch.from_numpy(truth["hidden"]))[mask_BL].abs().max() <= 1e-5


def test_the_feature_extraction_pipeline_gives_one_row_per_residue(encoder_folder):
    pipeline = transformers.pipeline("feature-extraction", model=str(encoder_folder))
    model, tokenizer = random_model(), ProteinTokenizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [model.encode(*map(torch.from_numpy, tokenizer.encode_batch([each]))) for each in SEQUENCES]
    for rows, expected_LD in zip(pipeline([" ".join(sequence) for sequence in SEQUENCES]), expected, strict=True):
        assert (torch.tensor(rows[0]) - expected_LD).abs().max() <= 5e-6


@pytest.mark.parametrize("task", ["TokenClassification", "SequenceClassification"])
def test_classification_heads_use_the_weights_of_the_encoder(encoder_folder, task):
    loader = getattr(transformers, f"AutoModelFor{task}")
    model, report = loader.from_pretrained(encoder_folder, num_labels=3, output_loading_info=True)
    assert all(name.startswith("classifier.") for name in report["missing_keys"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder_folder)
    batch = tokenizer(["M K T A Y", "MSL"], return_tensors="pt", padding=True)
    labels = torch.tensor([[0, 1, 2, 0, 1], [2, 1, 0, -100, -100]] if task[0] == "T" else [0, 2])
    output = model.eval()(**batch, labels=labels, output_hidden_states=True)
    base = transformers.AutoModel.from_pretrained(encoder_folder).eval()(**batch).last_hidden_state
    assert torch.equal(model.roberta(**batch).last_hidden_state, base)
    assert output.logits.shape == ((2, 5, 3) if task[0] == "T" else (2, 3))
    output.loss.backward()
    assert model.roberta.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_peft_adds_adapters_to_the_encoder(encoder_folder, tmp_path):
    peft = pytest.importorskip("peft", reason="needs the finetune extra")
    base = transformers.AutoModel.from_pretrained(encoder_folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder_folder)
    batch = tokenizer(SEQUENCES, return_tensors="pt", padding=True)
    with torch.inference_mode():
        before = base.eval()(**batch).last_hidden_state
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["query", "value"]))
    with torch.inference_mode():
        assert torch.equal(adapted.eval()(**batch).last_hidden_state, before)
    adapted.train()(**batch).last_hidden_state.square().mean().backward()
    gradients = {name for name, each in adapted.named_parameters() if each.grad is not None and each.grad.any()}
    assert gradients and all("lora_B" in name for name in gradients)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o007])
def test_files_have_the_usual_permissions(source, tmp_path, umask):
    before = os.umask(umask)
    try:
        folders = [convert(source, target, tmp_path / target) for target in EXPORTS]
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for folder in folders for path in folder.iterdir()}
    assert modes == {0o666 & ~umask}


@pytest.mark.slow
def test_converting_needs_no_transformers(source, tmp_path):
    code = "import sys; sys.modules['transformers'] = None; from prott5nv.cli import main; main(sys.argv[1:])"
    for origin, target, output in (
        (source, "hf", "folder"),
        (source, "hf-encoder", "encoder"),
        ("folder", "nemo", "b.nemo"),
    ):
        command = [sys.executable, "-c", code, "convert", origin, "--to", target, output]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, output, "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_converting_back_gives_the_same_bytes(tmp_path, dtype):
    model = random_model(seq_length=100)
    save_nemo(tmp_path / "a.nemo", model.config, model.state_dict(), dtype=dtype)
    convert(convert(tmp_path / "a.nemo", "hf", tmp_path / "folder"), "nemo", tmp_path / "b.nemo")
    assert (tmp_path / "a.nemo").read_bytes() == (tmp_path / "b.nemo").read_bytes()


@pytest.mark.parametrize("max_shard_size", ["5GB", "200KB"])
def test_folders_that_transformers_saved_are_converted_back(folder, source, tmp_path, max_shard_size):
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "generator", max_shard_size=max_shard_size)
    huggingface_to_nemo(tmp_path / "generator", tmp_path / "generator.nemo")
    assert (tmp_path / "generator.nemo").read_bytes() == source.read_bytes()
    # AutoModel saves its parameters without a prefix, and without the bias of the head, which it does not have.
    transformers.AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "base", max_shard_size=max_shard_size)
    assert ("model.safetensors.index.json" in os.listdir(tmp_path / "base")) == (max_shard_size == "200KB")
    with pytest.warns(UserWarning, match="no bias for the decoder's head"):
        huggingface_to_nemo(tmp_path / "base", tmp_path / "base.nemo")
    expected, actual = (read_nemo(path).state_dict for path in (source, tmp_path / "base.nemo"))
    assert not actual.pop("tokens_head.bias").any() and expected.pop("tokens_head.bias").any()
    assert all(torch.equal(actual[name], expected[name]) for name in actual) and actual.keys() == expected.keys()


def test_a_folder_with_the_encoder_alone_is_not_converted_back(encoder_folder, tmp_path):
    model = transformers.AutoModelForTokenClassification.from_pretrained(encoder_folder)
    model.save_pretrained(tmp_path / "saved")
    for each in (encoder_folder, tmp_path / "saved"):
        with pytest.raises(ProtT5nvError, match=r"the encoder alone, and a \.nemo file needs the decoder too"):
            huggingface_to_nemo(each, tmp_path / "out.nemo")
    assert os.listdir(tmp_path) == ["saved"]


@pytest.mark.slow
def test_the_example_of_the_encoder_card_runs(encoder_folder, source):
    card = (encoder_folder / "README.md").read_text()
    assert read_nemo(source, weights=False).sha256 in card and "pipeline_tag: feature-extraction\n" in card
    assert "(2, 21, 64) (2, 64)" in run_example(
        card, encoder_folder, "print(tuple(hidden.shape), tuple(per_protein.shape))"
    )
    config = transformers.AutoConfig.from_pretrained(encoder_folder)
    assert config.model_type == "xlm-roberta-xl" and config.hidden_act == "gelu_pytorch_tanh"


@pytest.mark.slow
def test_the_example_of_the_model_card_runs(folder, source):
    card = (folder / "README.md").read_text()
    assert read_nemo(source, weights=False).sha256 in card and "pipeline_tag" not in card
    assert "(2, 128) (2, 21, 64)" in run_example(card, folder, "print(tuple(logits.shape), tuple(hidden.shape))")
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.model_type == "blenderbot" and config.activation_function == "gelu_pytorch_tanh"


def run_example(card: str, folder: Path, more: str) -> str:
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(folder))
    done = subprocess.run([sys.executable, "-c", code + more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def minute_folder(minute_members, tmp_path):
    """A converted folder of a few kilobytes, to damage."""
    nemo_to_huggingface(write_tar(tmp_path / "minute.nemo", minute_members), tmp_path / "hf")
    (tmp_path / "minute.nemo").unlink()
    return tmp_path / "hf"


def refused(folder: Path, message: str) -> None:
    """Check that the folder is refused in one line, and that no file is left behind."""
    before = sorted(os.listdir(folder.parent))
    with pytest.raises(ProtT5nvError, match=message) as caught:
        huggingface_to_nemo(folder, folder.parent / "out.nemo")
    assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)
    assert sorted(os.listdir(folder.parent)) == before


def test_existing_and_missing_folders_are_errors(folder, source, tmp_path):
    with pytest.raises(ProtT5nvError, match="exists already"):
        nemo_to_huggingface(source, folder)
    refused(tmp_path, "config.json: no such file")
    (tmp_path / "config.json").symlink_to("/dev/zero")
    refused(tmp_path, "config.json: no such file")


def test_existing_outputs_are_replaced_only_on_request(minute_folder, tmp_path):
    model, folder = tmp_path / "model.nemo", tmp_path / "encoder"
    huggingface_to_nemo(minute_folder, model)
    before = model.read_bytes()
    with pytest.raises(ProtT5nvError, match="exists already; choose another name, or replace it with --overwrite"):
        huggingface_to_nemo(minute_folder, model)
    huggingface_to_nemo(minute_folder, model, overwrite=True)
    assert model.read_bytes() == before

    folder.mkdir()  # an empty folder is filled
    nemo_to_huggingface(model, folder, encoder_only=True)
    with pytest.raises(ProtT5nvError, match="exists already; choose another name, or replace it with --overwrite"):
        nemo_to_huggingface(model, folder)
    nemo_to_huggingface(model, folder, overwrite=True)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "blenderbot"
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ProtT5nvError, match=r"contains 'notes\.txt', which convert did not write"):
        nemo_to_huggingface(model, folder, overwrite=True)
    with pytest.raises(ProtT5nvError, match="is not a folder"):
        nemo_to_huggingface(model, model, overwrite=True)
    assert model.read_bytes() == before and (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(("name", "message"), [("out.pt", "means PyTorch"), ("-", "cannot be written to a pipe")])
def test_names_of_other_outputs_are_refused(minute_folder, monkeypatch, name, message):
    from click.testing import CliRunner

    from prott5nv.cli import command

    monkeypatch.chdir(minute_folder.parent)
    result = CliRunner().invoke(command, ["convert", "hf", "--to", "nemo", name])
    assert result.exit_code == 2 and message in result.output
    assert os.listdir() == ["hf"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "bart"),
        ("model_type", ["blenderbot"]),
        ("model_type", None),
        ("activation_function", "gelu"),
        ("activation_function", "relu"),
        ("activation_function", None),  # the key is missing, and transformers then uses gelu
        ("scale_embedding", True),
        ("tie_word_embeddings", False),
        ("is_encoder_decoder", False),
        ("encoder_attention_heads", 4),
        ("decoder_attention_heads", 1),
        ("decoder_attention_heads", None),
        ("encoder_layers", 2),
        ("decoder_layers", "1"),
        ("d_model", 16),
        ("encoder_ffn_dim", float("nan")),
        ("vocab_size", 129),
        ("d_model", 8.0),
        ("scale_embedding", 0),
        ("quantization_config", {"load_in_8bit": True}),
        ("quantization_config", {}),
        ("add_final_layer_norm", False),
        ("normalize_before", False),
        ("normalize_embedding", True),
        ("max_position_embeddings", {}),
        ("prott5nv", []),
        ("prott5nv", None),
    ],
)
def test_settings_that_change_the_numbers_are_refused(minute_folder, key, value):
    change_config(minute_folder, {key: value})
    refused(minute_folder, f"config.json: .*{key}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layernorm_epsilon", 1e-6),
        ("bias_activation_fusion", False),
        ("bias_activation_fusion", 1),
        ("num_attention_heads", 4),
        ("num_layers", 2**20),
        ("hidden_size", -8),
        ("hidden_size", float("inf")),
        ("seq_length", 17),
        ("num_sentinel_tokens", 1000),
        ("hidden_size", 8.0),
        ("hidden_size", "8"),
    ],
)
def test_settings_of_prott5nv_must_fit_those_of_blenderbot(minute_folder, key, value):
    settings = json.loads((minute_folder / "config.json").read_text())["prott5nv"]
    change_config(minute_folder, {"prott5nv": {**settings, key: value}})
    refused(minute_folder, "config.json: ")


def change_config(folder: Path, changes: dict) -> None:
    """Change settings in ``config.json``; None removes a setting."""
    values = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({key: each for key, each in values.items() if each is not None}))


def test_settings_that_only_matter_in_training_may_change(minute_folder, tmp_path):
    huggingface_to_nemo(minute_folder, tmp_path / "a.nemo")
    changes = {
        "dropout": 0.3,
        "init_std": None,
        "architectures": None,
        "encoder_layerdrop": 0.1,
        "scale_embedding": None,
    }
    change_config(minute_folder, changes)
    huggingface_to_nemo(minute_folder, tmp_path / "b.nemo")
    assert (tmp_path / "a.nemo").read_bytes() == (tmp_path / "b.nemo").read_bytes()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"{}", b" " * (1 << 23)])
def test_damaged_configurations_are_refused(minute_folder, content):
    (minute_folder / "config.json").write_bytes(content)
    refused(minute_folder, "config.json: ")


KEY = "model.decoder.layers.0.encoder_attn.k_proj.bias"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (KEY, None, r"k_proj\.bias' is missing"),
        ("surplus", torch.zeros(1), "'surplus' is not a parameter"),
        ("lm_head.weight", torch.zeros(128, 8), "'lm_head.weight' is not a parameter"),
        (KEY, torch.zeros(9), r"has shape \(9,\); expected \(8,\)"),
        (KEY, torch.zeros(8, 1), r"has shape \(8, 1\); expected \(8,\)"),
        (KEY, torch.zeros(8, dtype=torch.float64), "is F64; expected one of float32"),
        (KEY, torch.zeros(8, dtype=torch.int32), "is I32; expected one of float32"),
        (KEY, torch.full((8,), float("nan")), "contains NaN or infinity"),
        (KEY, torch.full((8,), float("inf")), "contains NaN or infinity"),
        # Finite weights, which the reader refuses because their sum is not.
        (KEY, torch.full((8,), 3e38), "NaN or infinity"),
        ("final_logits_bias", None, "'final_logits_bias' is missing"),
        ("final_logits_bias", torch.zeros(128), r"has shape \(128,\); expected \(1, 128\)"),
        ("model.decoder.embed_positions.weight", torch.zeros(16, 8), "the two position tables differ"),
    ],
)
def test_weights_that_do_not_fit_are_refused(minute_folder, name, change, message):
    from safetensors.torch import load_file, save_file

    state = load_file(minute_folder / "model.safetensors")
    state[name] = change
    save_file({key: each for key, each in state.items() if each is not None}, minute_folder / "model.safetensors")
    refused(minute_folder, message)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", (1 << 40).to_bytes(8, "little"), (1 << 26).to_bytes(8, "little") + bytes(1 << 26)],
)
def test_damaged_weights_are_refused(minute_folder, content):
    (minute_folder / "model.safetensors").write_bytes(content)
    refused(minute_folder, r"model\.safetensors: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_is_refused_at_once(minute_folder, name):
    (minute_folder / name).unlink()
    os.mkfifo(minute_folder / name)
    refused(minute_folder, f"{name}: no such file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.pop("final_logits_bias"), "other tensors than this index lists"),
        (lambda index: index.update(surplus="a.safetensors"), "other tensors than this index lists"),
        (lambda index: index.update(final_logits_bias="b.safetensors"), "other tensors than this index lists"),
        (lambda index: index.update(final_logits_bias="c.safetensors"), "c.safetensors: no such file"),
        (
            lambda index: index.update(final_logits_bias="../secret.safetensors"),
            "is not the name of a safetensors file",
        ),
        (lambda index: index.update(final_logits_bias="/secret.safetensors"), "is not the name of a safetensors file"),
        (lambda index: index.update(final_logits_bias="a.bin"), "is not the name of a safetensors file"),
        (lambda index: index.update(final_logits_bias=7), "is not the name of a safetensors file"),
        (lambda index: index.update({str(i): f"{i}.safetensors" for i in range(300)}), "names 302 files; at most 256"),
        (lambda index: index.clear(), "'weight_map' is missing"),
    ],
)
def test_an_index_that_does_not_match_the_files_is_refused(minute_folder, tmp_path, change, message):
    index = shard(minute_folder)
    huggingface_to_nemo(minute_folder, tmp_path / "right.nemo")
    change(index)
    (minute_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    refused(minute_folder, message)


def test_a_tensor_in_two_files_is_refused(minute_folder):
    shard(minute_folder)
    shutil.copy(minute_folder / "a.safetensors", minute_folder / "b.safetensors")
    refused(minute_folder, r"b\.safetensors: .* is also in a\.safetensors")


def shard(folder: Path) -> dict[str, str]:
    """Distribute the weights of a folder over two files; return the index."""
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {name: "ab"[i % 2] + ".safetensors" for i, name in enumerate(sorted(state))}
    for file in set(index.values()):
        save_file({name: tensor for name, tensor in state.items() if index[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return index
