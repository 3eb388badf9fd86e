"""Folders of protein T5 models: every format of the weights, token ids, and hostile files."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
import torch
from helpers.crafting import with_pickle
from helpers.t5 import LETTERS, STATES, TINY, WORD_START, random_model, save, save_bin, sentencepiece_model, tokenizer
from safetensors.torch import load_file, save_file

import prott5nv
from prott5nv import ProtT5nvError
from prott5nv.checkpoint import read_nemo
from prott5nv.checkpoint.models import load_with_origin, read_decoder_config
from prott5nv.checkpoint.t5_folder import load_t5, read_t5_folder
from prott5nv.model.t5_tokenizer import T5Tokenizer

transformers = pytest.importorskip("transformers", reason="needs the test extra")

PREFIXED = ["<pad>", "</s>", "<unk>", *(WORD_START + letter for letter in LETTERS)]


@pytest.fixture(scope="module")
def model():
    return random_model("T5ForConditionalGeneration", **TINY)


@pytest.fixture(scope="module")
def original(model, tmp_path_factory):
    """A folder that no test changes."""
    return save(tmp_path_factory.mktemp("t5"), model, "ProstT5")


@pytest.fixture
def folder(original, tmp_path):
    """A copy of the folder."""
    for path in original.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def check_weights(ours, model):
    """Check the embeddings of a protein against those of the model of transformers."""
    tokens_L = torch.from_numpy(ours.tokenizer.encode("MSLKRX"))
    prefix = ours.tokenizer.vocabulary.prefix
    with torch.inference_mode():
        rows = ours.encode(tokens_L, torch.tensor([0, 6], dtype=torch.int32))
        ids = torch.tensor([[*prefix, *tokens_L.tolist(), 1]])
        theirs = model.get_encoder()(input_ids=ids).last_hidden_state[0, len(prefix) : -1]
    assert (rows - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def edit_json(path, **changes):
    """Change settings of a JSON file; None removes one."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def refused(folder, **options):
    with pytest.raises(ProtT5nvError) as caught:
        load_t5(folder, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and str(folder) in message
    return message


@pytest.mark.parametrize("kind", ["T5EncoderModel", "T5Model", "T5ForConditionalGeneration"])
@pytest.mark.parametrize("write", ["safetensors", "shards", "bin", "bin shards"])
def test_every_format_gives_the_same_encoder(kind, write, tmp_path):
    model = random_model(kind, **TINY, feed_forward_proj="gated-gelu")
    if write.startswith("bin"):
        save_bin(tmp_path, model, shards=3 if write == "bin shards" else 1)
    else:
        model.save_pretrained(tmp_path, max_shard_size="20KB" if write == "shards" else "1GB")
        tokenizer("ProtT5").save_pretrained(tmp_path)
    assert ("model.safetensors.index.json" in {path.name for path in tmp_path.iterdir()}) == (write == "shards")
    loaded = prott5nv.load(tmp_path)
    check_weights(loaded, model)
    described = read_t5_folder(tmp_path)
    assert described.decoder_layers == (0 if kind == "T5EncoderModel" else 2)
    assert described.config == loaded.config


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("write", [save, save_bin])
def test_files_of_every_data_type_can_be_opened(write, dtype, model, tmp_path):
    half = random_model("T5EncoderModel", **TINY).to(dtype)
    write(tmp_path, half)
    assert read_t5_folder(tmp_path).dtypes == {str(dtype).removeprefix("torch.")}
    check_weights(load_t5(tmp_path), half.float())


def test_weights_are_converted_to_the_precision_of_the_model(original):
    for dtype in (torch.float16, torch.bfloat16):
        state = load_t5(original, dtype).state_dict()
        assert state["encoder.layers.0.mlp.dense_h_to_4h.weight"].dtype == dtype
        assert state["encoder.final_layernorm.weight"].dtype == torch.float32
        last = state["encoder.layers.0.mlp.dense_4h_to_h.weight"].dtype
        assert last == (torch.float32 if dtype == torch.float16 else dtype)


def test_files_of_old_versions_can_be_opened(model, tmp_path):
    """The published files have both names of the table, an unused tensor, and settings without newer names."""
    state = model.state_dict()
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    state[name] = torch.zeros_like(state["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"])
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    state.pop("lm_head.weight")
    torch.save(state, tmp_path / "pytorch_model.bin")
    tokenizer("ProtT5").save_pretrained(tmp_path)
    names = ("d_ff", "d_kv", "d_model", "num_heads", "num_layers", "relative_attention_num_buckets", "vocab_size")
    settings = {name: getattr(model.config, name) for name in names}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", **settings}))
    check_weights(load_t5(tmp_path), model)


def test_published_configurations_can_be_read(shared):
    from prott5nv.checkpoint.t5_names import parse_config

    folder = shared / "t5_family" / "tokenizers"
    configs = {
        path.name: parse_config(json.loads(path.read_text()), path.name) for path in folder.glob("*config*.json")
    }
    half = configs["prot_t5_xl_half_uniref50-enc.config.json"]
    assert (half.d_model, half.d_ff, half.num_heads * half.d_kv, half.activation) == (1024, 16384, 4096, "relu")
    assert half.num_parameters == 1_208_141_824
    assert half == configs["prot_t5_xl_bfd.config.json"]
    ankh = configs["ankh2-large.config.json"]
    assert (ankh.relative_attention_num_buckets, ankh.activation, ankh.gated) == (64, "silu", True)
    assert configs["ankh_base.config.resaved_by_lhallee.json"].activation == "gelu_new"


@pytest.mark.parametrize("family", ["ProtT5", "ProstT5", "Ankh"])
def test_token_ids_are_those_of_transformers(family, model, tmp_path):
    theirs = tokenizer(family)
    ours = T5Tokenizer(read_t5_folder(save(tmp_path, model, family)).vocabulary)
    sequence = "MSLKRAVXGDETIPKFQNYHWC"
    text = sequence if family == "Ankh" else " ".join(sequence)
    if family == "ProstT5":
        text = f"<AA2fold> {text}"
    prefix, suffix = ours.vocabulary.prefix, ours.vocabulary.suffix
    assert [*prefix, *ours.encode(sequence).tolist(), *suffix] == theirs(text).input_ids


def test_structural_states_have_the_ids_of_prost_t5(folder):
    theirs = tokenizer("ProstT5")
    model, origin = load_with_origin(folder, input="3di")
    ids = model.tokenizer.encode(STATES.upper()).tolist()
    assert ids == model.tokenizer.encode(STATES).tolist() == list(range(128, 148))
    assert [148, *ids, 1] == theirs("<fold2AA> " + " ".join(STATES)).input_ids
    assert origin.attributes == {"input": "3di"}
    assert model.tokenizer.encode("x").tolist() == [2]


@pytest.mark.parametrize("name", ["prot_t5", "ProstT5"])
def test_token_ids_are_those_of_the_published_vocabularies(name, shared, model, tmp_path):
    table = json.loads((shared / "t5_family" / "tokenizers" / f"{name}.vocab.json").read_text())
    save(tmp_path, model)
    (tmp_path / "tokenizer.json").unlink()
    names = sorted((index, token) for token, index in table.items() if index < 28)
    (tmp_path / "spiece.model").write_bytes(sentencepiece_model([token for _, token in names]))
    (tmp_path / "added_tokens.json").write_text(
        json.dumps({token: index for token, index in table.items() if index >= 128})
    )
    vocabulary = read_t5_folder(tmp_path).vocabulary
    assert vocabulary.ids == tuple(table[WORD_START + letter] for letter in "ALGVSREDTIPKFQNYMHWCX")
    assert vocabulary.prefix == ((table["<AA2fold>"],) if name == "ProstT5" else ())
    assert vocabulary.suffix == (table["</s>"],)


def test_ankh3_has_a_token_before_each_protein(model, tmp_path):
    save(tmp_path, model)
    (tmp_path / "tokenizer.json").unlink()
    tokens = ["<pad>", "</s>", "<unk>", "[NLU]", "[S2S]", "a", "b", *"LAGSVERTIDPKNFQYHMCWXBZ"]
    (tmp_path / "spiece.model").write_bytes(sentencepiece_model(tokens))
    vocabulary = read_t5_folder(tmp_path).vocabulary
    assert vocabulary.prefix == (3,)
    assert T5Tokenizer(vocabulary).encode("LAW").tolist() == [7, 8, 26]


def test_the_checksum_covers_weights_settings_and_tokens(folder):
    before = load_with_origin(folder)[1].sha256
    assert prott5nv.checkpoint.models.checksum(folder) == before
    (folder / "README.md").write_text("notes")
    assert read_t5_folder(folder).sha256() == before
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        digest = read_t5_folder(folder).sha256() if name != "model.safetensors" else "other"
        assert digest != before
        (folder / name).write_bytes(content)


def test_a_change_while_the_model_is_loaded_is_noticed(folder, monkeypatch):
    def load_and_change(path, dtype=None, *, input="aa"):
        model = load_t5(path, dtype, input=input)
        edit_json(folder / "config.json", dropout_rate=0.5)
        return model

    monkeypatch.setattr("prott5nv.checkpoint.t5_folder.load_t5", load_and_change)
    with pytest.raises(ProtT5nvError, match="a file was changed while the model was loaded"):
        load_with_origin(folder)


def change_weights(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


QUERY = "encoder.block.1.layer.0.SelfAttention.q.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(QUERY), f"'{QUERY}' is missing"),
        (lambda state: state.update({"encoder.more": torch.zeros(2)}), "'encoder.more' is not a parameter"),
        (lambda state: state.update({"encoder.q": state.pop(QUERY)}), f"'{QUERY}' is missing"),
        (lambda state: state.update({QUERY: torch.zeros(2, 3)}), r"has shape (2, 3); expected (64, 32)"),
        (lambda state: state.update({QUERY: state[QUERY].T.contiguous()}), "has shape (32, 64)"),
        (lambda state: state.update({QUERY: state[QUERY].to(torch.int8)}), "is I8; expected one of float32"),
        (lambda state: state[QUERY].fill_(float("nan")), "contains NaN or infinity"),
        (lambda state: state.pop("decoder.block.1.layer.2.DenseReluDense.wi.weight"), "is missing"),
        (lambda state: state.update({"lm_head.weight": torch.zeros(3, 32)}), "has shape (3, 32)"),
        (lambda state: state.update({"encoder.embed_tokens.weight": torch.zeros(150, 32)}), "differs from"),
        (lambda state: state.clear(), "'shared.weight' is missing"),
    ],
)
def test_every_tensor_is_accounted_for(change, message, folder):
    change_weights(folder, change)
    assert message in refused(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model_type="bert"), "model_type='bert'; folders of T5 models"),
        (dict(model_type="blenderbot", prott5nv={}), "--to nemo"),
        (dict(model_type="xlm-roberta-xl"), "give the .nemo file from which it was made"),
        (dict(d_model=None), "d_model is missing"),
        (dict(d_model="32"), "d_model=32: must be an integer"),
        (dict(num_layers=3), "'encoder.block.2.layer.0.layer_norm.weight' is missing"),
        (dict(num_layers=1_000_000), "'encoder.block.2.layer.0.layer_norm.weight' is missing"),
        (dict(num_layers=1), "is not a parameter of the model"),
        (dict(num_decoder_layers=1_000_000), "num_decoder_layers=1000000 is not a number of layers"),
        (dict(num_heads=8), "has shape (32, 4); expected (32, 8)"),
        (dict(feed_forward_proj="gated-gelu"), "contradicts feed_forward_proj"),
        (dict(feed_forward_proj="tanh", dense_act_fn=None, is_gated_act=None), "activation='tanh': must be one of"),
        (dict(feed_forward_proj=3), "feed_forward_proj must be a name"),
        (dict(quantization_config={"bits": 4}), "quantization_config is set"),
        (dict(eos_token_id=2), "'</s>' has the id 1, and config.json has eos_token_id=2"),
        (dict(vocab_size=100), "the vocabulary has the token id 149, but vocab_size=100"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message, folder):
    edit_json(folder / "config.json", **changes)
    assert message in refused(folder)


def test_the_activation_in_a_file_must_be_known(folder):
    (folder / "config.json").write_text("{}")
    assert "model_type='None'" in refused(folder)
    (folder / "config.json").write_text("[" * 100_000)
    assert "not JSON" in refused(folder)
    (folder / "config.json").unlink()
    assert "config.json is missing" in refused(folder)


def test_hostile_headers_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    assert "a header of" in refused(folder)
    path.write_bytes(struct.pack("<Q", 4) + b"oops")
    assert "not a sound safetensors file" in refused(folder)
    path.unlink()
    assert "has no weights; expected model.safetensors" in refused(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret.safetensors"}}')
    assert "not the name of a safetensors file in the folder" in refused(folder)


class Hostile:
    def __reduce__(self):
        import os

        return os.system, ("touch hostile",)


def test_hostile_pickles_are_refused_without_running_them(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save_bin(tmp_path, model) / "pytorch_model.bin"
    weights = path.read_bytes()
    path.write_bytes(with_pickle(weights, pickle.dumps({"shared.weight": Hostile()}, protocol=2)))
    assert "expected only tensors" in refused(tmp_path)
    path.write_bytes(
        pickle.dumps({"shared.weight": Hostile()}, protocol=2)
    )  # without a zip file, as before PyTorch 1.6
    assert "not in torch.save's zip format" in refused(tmp_path)
    path.write_bytes(weights[: len(weights) // 2])
    refused(tmp_path)
    assert not (tmp_path / "hostile").exists()
    state = model.state_dict()
    for change, message in [({QUERY: torch.zeros(2)}, "has shape (2,)"), ({"more": torch.zeros(2)}, "'more' is not a")]:
        torch.save(state | change, path)
        assert message in refused(tmp_path)
    torch.save({name: tensor for name, tensor in state.items() if name != QUERY}, path)
    assert f"'{QUERY}' is missing" in refused(tmp_path)


def test_an_index_of_bin_files_must_match_them(model, tmp_path):
    folder = save_bin(tmp_path, model, shards=2)
    index = folder / "pytorch_model.bin.index.json"
    sound = json.loads(index.read_text())["weight_map"]
    for name, file, message in [
        ("shared.weight", "../secret.bin", "is not the name of a bin file in the folder"),
        ("shared.weight", "model.safetensors", "is not the name of a bin file in the folder"),
        ("shared.weight", "pytorch_model-1.bin", "other tensors than this index lists"),
        ("more", "pytorch_model-1.bin", "other tensors than this index lists"),
        ("more", "pytorch_model-2.bin", "pytorch_model-2.bin: no such file"),
    ]:
        index.write_text(json.dumps({"weight_map": sound | {name: file}}))
        assert message in refused(folder)
    index.write_text(json.dumps({"weight_map": sound}))
    torch.save(model.state_dict(), folder / "pytorch_model-1.bin")
    assert "is also in pytorch_model-0.bin" in refused(folder)


def test_weights_that_are_too_large_for_fp16_are_refused(folder):
    change_weights(folder, lambda state: state[QUERY].fill_(1e6))
    assert "too large for torch.float16" in refused(folder, dtype=torch.float16)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([*PREFIXED, *LETTERS], "two tokens for each of the 20 amino acids"),
        ([token for token in PREFIXED if "W" not in token], "no token for some of the 20 amino acids"),
        ([token for token in PREFIXED if "X" not in token], f"has no token '{WORD_START}X'"),
        ([token for token in PREFIXED if token != "</s>"], "has no token '</s>'"),
        ([*PREFIXED, WORD_START + "A"], f"'{WORD_START}A' has two ids, 3 and 28"),
        ([], "has no token"),
    ],
)
def test_other_vocabularies_are_refused(tokens, message, folder):
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(sentencepiece_model(tokens))
    assert message in refused(folder)


def test_damaged_vocabularies_are_refused(folder):
    path = folder / "tokenizer.json"
    text = path.read_text()
    swapped = json.loads(text)
    vocab = swapped["model"]["vocab"]
    (folder / "spiece.model").write_bytes(sentencepiece_model(PREFIXED))
    (folder / "added_tokens.json").write_text('{"<AA2fold>": 149}')
    read_t5_folder(folder)
    vocab[3], vocab[4] = vocab[4], vocab[3]
    path.write_text(json.dumps(swapped))
    assert "tokenizer.json and spiece.model have different token ids" in refused(folder)
    (folder / "spiece.model").write_bytes(b"\x0a\xff")
    path.write_text(text)
    assert "damaged; expected a SentencePiece model" in refused(folder)
    (folder / "spiece.model").unlink()
    for content in ('{"model": {"vocab": 3}}', '{"model": {"vocab": [[]]}}', '{"added_tokens": [3]}'):
        path.write_text(content)
        assert "expected a list of tokens" in refused(folder)
    path.write_text('{"model": {"vocab": {"A": "x"}}}')
    assert "'A' has the id 'x'" in refused(folder)
    path.unlink()
    assert "has neither tokenizer.json nor spiece.model" in refused(folder)


def test_other_models_do_not_take_structural_states(model, tiny_checkpoint, tmp_path):
    save(tmp_path, model)
    assert "only ProstT5 takes 3Di states" in refused(tmp_path, input="3di")
    with pytest.raises(ProtT5nvError, match="choose aa or 3di"):
        load_t5(tmp_path, input="dna")
    with pytest.raises(ProtT5nvError, match="takes amino acids only"):
        load_with_origin(tiny_checkpoint, input="3di")


def test_a_folder_has_no_span_decoder(folder):
    with pytest.raises(ProtT5nvError, match="this checkpoint has no span decoder"):
        read_decoder_config(folder)
    edit_json(folder / "config.json", model_type="blenderbot", prott5nv={})
    with pytest.raises(ProtT5nvError, match=f"'prott5nv convert {folder} --to nemo {folder.name}.nemo'"):
        read_decoder_config(folder)


def test_a_folder_without_a_model_is_refused_with_what_to_give_instead(tmp_path):
    assert f"{tmp_path}: not the folder of a Hugging Face model; config.json is missing" in refused(tmp_path)
    (tmp_path / "result.json").touch()
    remedy = f"it holds a predictor; use it with 'prott5nv predict {tmp_path}'"
    assert remedy in refused(tmp_path)
    with pytest.raises(ProtT5nvError, match=f"not a regular file; {remedy}"):
        read_nemo(tmp_path)
    checkpoint = tmp_path / "checkpoints" / "step4.nemo"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    assert f"; give {checkpoint}" in refused(tmp_path)
    checkpoint = tmp_path / "run.nemo"
    checkpoint.touch()
    assert f"; give {checkpoint}" in refused(tmp_path)


@pytest.fixture
def hub(monkeypatch, original, tmp_path):
    """Replace the functions that ask the Hub; `hub.online` decides whether they work."""
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the hf extra")

    class Hub:
        online = True
        cached = False
        patterns = ()

        def model_info(self, repository, revision=None):
            if not Hub.online:
                raise RuntimeError("no network\nlong explanation")
            files = [type("File", (), {"rfilename": path.name}) for path in original.iterdir()]
            return type("Info", (), {"siblings": files, "sha": "c0ffee"})

    def snapshot_download(repository, revision=None, allow_patterns=(), local_files_only=False):
        if local_files_only and not Hub.cached:
            raise FileNotFoundError("not in the cache")
        Hub.patterns = allow_patterns or Hub.patterns
        folder = tmp_path / "snapshots" / "c0ffee"
        if not folder.exists():
            folder.parent.mkdir()
            folder.symlink_to(original)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return Hub


def test_a_name_on_the_hub_pins_the_version(hub, original):
    _, origin = load_with_origin("Rostlab/ProstT5")
    assert origin.attributes == {"model": "Rostlab/ProstT5@c0ffee", "input": "aa"}
    assert origin.sha256 == read_t5_folder(original).sha256()
    assert hub.patterns[-1] == "model.safetensors"
    assert not any(name.endswith(".py") for name in hub.patterns)
    assert load_with_origin(origin.attributes["model"])[1] == origin
    hub.online, hub.cached = False, True
    assert load_with_origin("Rostlab/ProstT5")[1] == origin
    hub.cached = False
    with pytest.raises(ProtT5nvError) as caught:
        load_with_origin("Rostlab/ProstT5")
    assert "not in the cache" in str(caught.value) and "(no network)" in str(caught.value)
    assert "hf download Rostlab/ProstT5" in str(caught.value) and "\n" not in str(caught.value)


def test_an_installation_without_huggingface_hub_names_the_extra(monkeypatch):
    monkeypatch.setattr("prott5nv.extras.find_spec", lambda name: None)
    with pytest.raises(ProtT5nvError, match=r"pip install 'prott5nv\[hf\]'"):
        prott5nv.load("Rostlab/ProstT5")
