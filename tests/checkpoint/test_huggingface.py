"""Hugging Face's Blenderbot gives the same results as ProtT5, and converting back gives the same file.

Shapes: B proteins, L residues of the longest, S decoder tokens, V vocabulary.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from helpers.crafting import write_tar

from prott5nv import ModelConfig, ProteinTokenizer, ProtT5, ProtT5nvError
from prott5nv.checkpoint import read_nemo, save_nemo
from prott5nv.checkpoint.huggingface import WEIGHTS_FILE, huggingface_to_nemo, nemo_to_huggingface

pytest.importorskip("safetensors", reason="needs the hf extra")
transformers = pytest.importorskip("transformers", reason="needs the hf extra")

SEQUENCES = ["MSLKRKNIALIPAAGIGVRFGADKPKQ", "XBZUOJ*JJ-M", "m", "MKTAYIAKQRqisfvk"]


def random_model(**overrides) -> ProtT5:
    torch.manual_seed(0)
    model = ProtT5(ModelConfig.preset("tiny", decoder_num_layers=3, **overrides)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A converted folder, next to its ``.nemo`` file ``source.nemo``."""
    base = tmp_path_factory.mktemp("huggingface")
    model = random_model()
    save_nemo(base / "source.nemo", model.config, model.state_dict())
    command = [sys.executable, "-m", "prott5nv", "convert", base / "source.nemo", "--to", "hf", base / "folder"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == str(base / "folder"), done.stderr
    return base / "folder"


def test_the_tokenizer_gives_the_same_ids(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours = ProteinTokenizer()
    with pytest.warns(UserWarning, match="lower-case"):
        expected = [ours.encode(sequence).tolist() for sequence in SEQUENCES]
    assert tokenizer(SEQUENCES)["input_ids"] == expected
    assert tokenizer("MS<mask>L<extra_id_0>K<extra_id_95></s>")["input_ids"] == [22, 7, 4, 5, 32, 16, 127, 2]
    assert tokenizer.decode(expected[0]) == SEQUENCES[0]
    assert len(tokenizer) == 128 and tokenizer.model_max_length == 512
    assert [getattr(tokenizer, f"{name}_token_id") for name in ("unk", "bos", "eos", "pad", "mask")] == [0, 1, 2, 3, 4]


def test_all_sentinels_of_a_larger_vocabulary_have_tokens(tmp_path):
    model = random_model(num_sentinel_tokens=192)
    save_nemo(tmp_path / "model.nemo", model.config, model.state_dict())
    nemo_to_huggingface(tmp_path / "model.nemo", tmp_path / "folder")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert tokenizer("M<extra_id_95><extra_id_191>")["input_ids"] == [22, 127, 223]


@pytest.mark.parametrize("overrides", [{}, {"bias_activation_fusion": False}])
def test_hidden_states_and_logits_are_the_same(tmp_path, overrides):
    model = random_model(**overrides)
    save_nemo(tmp_path / "model.nemo", model.config, model.state_dict())
    nemo_to_huggingface(tmp_path / "model.nemo", tmp_path / "folder")
    generator = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "folder").eval()
    base = transformers.AutoModel.from_pretrained(tmp_path / "folder").eval()
    assert type(base).__name__ == "BlenderbotModel"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    batch = tokenizer(SEQUENCES, return_tensors="pt", padding=True)
    mask_BL = batch["attention_mask"].bool()
    lengths = mask_BL.sum(1)
    cu_seqlens = torch.cat([torch.zeros(1), lengths.cumsum(0)]).to(torch.int32)
    decoder_ids_BS = torch.randint(0, 128, (len(SEQUENCES), 9), generator=torch.Generator().manual_seed(0))
    decoder_cu_seqlens = 9 * torch.arange(len(SEQUENCES) + 1, dtype=torch.int32)
    with torch.inference_mode():
        hidden_TD = model.encode(batch["input_ids"][mask_BL], cu_seqlens)
        hidden_SD = model.decode(decoder_ids_BS.flatten(), decoder_cu_seqlens, hidden_TD, cu_seqlens)
        logits_SV = model.logits(hidden_SD)
        theirs_TD = base.get_encoder()(**batch).last_hidden_state[mask_BL]
        theirs_SV = generator(**batch, decoder_input_ids=decoder_ids_BS).logits.flatten(0, 1)
    assert (hidden_TD - theirs_TD).abs().max() <= 1e-5
    assert (logits_SV - theirs_SV).abs().max() <= 1e-5 * logits_SV.abs().max()


def test_a_genuine_file_gives_the_hidden_states_of_nemo(nemo1, truth, tmp_path):
    nemo_to_huggingface(nemo1 / "prott5nv.nemo", tmp_path / "folder")
    encoder = transformers.AutoModel.from_pretrained(tmp_path / "folder").get_encoder().eval()
    ids_BL, mask_BL = torch.from_numpy(truth["token_ids"]), torch.from_numpy(truth["mask"])
    with torch.inference_mode():
        hidden = encoder(input_ids=ids_BL, attention_mask=mask_BL.long()).last_hidden_state
    assert (hidden - torch.from_numpy(truth["hidden"]))[mask_BL].abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_converting_back_gives_the_same_bytes(tmp_path, dtype):
    model = random_model(seq_length=100)
    save_nemo(tmp_path / "a.nemo", model.config, model.state_dict(), dtype=dtype)
    nemo_to_huggingface(tmp_path / "a.nemo", tmp_path / "folder")
    command = [sys.executable, "-m", "prott5nv", "convert", tmp_path / "folder", "--to", "nemo", tmp_path / "b.nemo"]
    assert subprocess.run(command).returncode == 0
    assert (tmp_path / "a.nemo").read_bytes() == (tmp_path / "b.nemo").read_bytes()


def test_the_example_of_the_model_card_runs(folder):
    card = (folder / "README.md").read_text()
    assert read_nemo(folder.parent / "source.nemo", weights=False).sha256 in card
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(folder))
    done = subprocess.run([sys.executable, "-c", code + "print(tuple(hidden.shape))"], capture_output=True, text=True)
    assert done.stdout.strip() == "(2, 21, 64)", done.stderr
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.model_type == "blenderbot" and config.activation_function == "gelu_pytorch_tanh"


def test_errors_are_one_line_and_leave_no_files(folder, minute_members, tmp_path):
    with pytest.raises(ProtT5nvError, match="exists already"):
        nemo_to_huggingface(folder.parent / "source.nemo", folder)
    with pytest.raises(ProtT5nvError, match="not a folder that"):
        huggingface_to_nemo(tmp_path, tmp_path / "out.nemo")

    from safetensors.torch import load_file, save_file

    path = write_tar(tmp_path / "minute.nemo", minute_members)
    nemo_to_huggingface(path, tmp_path / "hf")
    state = load_file(tmp_path / "hf" / WEIGHTS_FILE)
    broken = dict(state)
    del broken["model.decoder.layers.0.encoder_attn.k_proj.bias"]
    save_file(broken, tmp_path / "hf" / WEIGHTS_FILE)
    with pytest.raises(ProtT5nvError, match=r"k_proj\.bias' is missing"):
        huggingface_to_nemo(tmp_path / "hf", tmp_path / "out.nemo")
    save_file({**state, "surplus": torch.zeros(1)}, tmp_path / "hf" / WEIGHTS_FILE)
    with pytest.raises(ProtT5nvError, match="'surplus' is not a parameter"):
        huggingface_to_nemo(tmp_path / "hf", tmp_path / "out.nemo")
    (tmp_path / "hf" / WEIGHTS_FILE).write_bytes(b"hello")
    with pytest.raises(ProtT5nvError, match="not a folder that"):
        huggingface_to_nemo(tmp_path / "hf", tmp_path / "out.nemo")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["hf", "minute.nemo"]
