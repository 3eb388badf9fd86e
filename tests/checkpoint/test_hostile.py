"""Hostile files are refused with one line that names the file and the member. None of them has any effect."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import re
import struct
import tarfile
import time
import zipfile

import pytest
import torch
from helpers.crafting import CONFIG, WEIGHTS, rewrite_zip, saved, with_pickle, write_tar

from prott5nv import ProtT5nvError
from prott5nv.checkpoint import load, read_nemo

pytestmark = pytest.mark.usefixtures("temporary_folder")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hostile.nemo"


@pytest.fixture
def refused(path):
    """Check that the file is refused quickly, with a message of one line that has its name and all given words."""

    def check(*words: str, **options) -> None:
        start = time.process_time()
        with pytest.raises(ProtT5nvError) as caught:
            read_nemo(path, **options)
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 500
        missing = [word for word in words if word not in message]
        assert not missing, f"{missing} not in {message!r}"
        assert time.process_time() - start < 10  # each takes less than a second

    return check


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type = kind
    for key, value in fields.items():
        setattr(header, key, value)
    return header


# --- the tar ---


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (entry("../../escaped"), ["'../../escaped'", "leads out", "plain file name"]),
        (entry("./a/../../escaped"), ["'./a/../../escaped'", "leads out"]),
        (entry("/tmp/escaped"), ["'/tmp/escaped'", "leads out"]),
        (entry("./link", tarfile.SYMTYPE, linkname="/etc/passwd"), ["'./link'", "symbolic link", "regular files"]),
        (entry("./link", tarfile.LNKTYPE, linkname="model_config.yaml"), ["'./link'", "hard link", "regular files"]),
        (entry("./zero", tarfile.CHRTYPE, devmajor=1, devminor=5), ["'./zero'", "device", "regular files"]),
        (entry("./disk", tarfile.BLKTYPE, devmajor=8), ["'./disk'", "device"]),
        (entry("./pipe", tarfile.FIFOTYPE), ["'./pipe'", "named pipe"]),
        (entry("./folder", tarfile.DIRTYPE), ["'./folder'", "folder"]),
        (entry("./holes", tarfile.GNUTYPE_SPARSE), ["'./holes'", "sparse"]),
        (entry("./odd", b"Z"), ["'./odd'", "unknown type"]),
        (entry("./mp_rank_00", tarfile.DIRTYPE), ["mp_rank_00", "shard", "merge"]),
        (entry("./mp_rank_01/model_weights.ckpt"), ["mp_rank_01", "shard"]),
        (entry("model_config.yaml"), ["'model_config.yaml'", "stored twice", "once"]),
        (entry("./model_weights.ckpt"), ["'model_weights.ckpt'", "stored twice", "once"]),
        (entry("././x/../model_weights.ckpt"), ["leads out"]),
        (entry("./" + 120 * "long"), ["changes the next member's path"]),
    ],
    ids=lambda value: value.name[:30] if isinstance(value, tarfile.TarInfo) else "",
)
@pytest.mark.parametrize("first", [True, False])
def test_unexpected_members_are_refused(path, refused, minute_members, header, words, first):
    extra, rest = [(header, b"" if header.isreg() else None)], list(minute_members.items())
    write_tar(path, extra + rest if first else rest + extra)
    refused(*words)
    assert os.listdir(path.parent) in (["hostile.nemo", "temporary"], ["temporary", "hostile.nemo"])


@pytest.mark.parametrize("record", [{"size": "12"}, {"GNU.sparse.realsize": "9"}, {"linkpath": "x"}])
def test_headers_that_change_the_next_member_are_refused(path, refused, minute_members, record):
    members = list(minute_members.items())
    members[0] = (entry(members[0][0], pax_headers=record), members[0][1])
    write_tar(path, members)
    refused("changes the next member's", *record)


def test_other_regular_files_are_skipped_with_a_warning(path, minute_members):
    write_tar(path, {"./readme.txt": b"hello", **minute_members})
    with pytest.warns(UserWarning, match=r"skipped 'readme.txt'"):
        read_nemo(path)


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS, ".model", ".vocab"])
def test_missing_members_are_named(path, refused, minute_members, missing):
    write_tar(path, {name: content for name, content in minute_members.items() if not name.endswith(missing)})
    refused(missing.removeprefix("./"), "missing")


def test_truncated_files_are_refused(path, refused, minute_members):
    whole = write_tar(path, minute_members).read_bytes()
    end = whole.rindex(b"model_weights.ckpt") + 1024
    for length in (0, 1, 100, 511, 513, 1024, end // 2, end, len(whole) // 512 * 512 - 10240):
        path.write_bytes(whole[:length])
        refused()


def test_sparse_files_of_ten_gigabytes_are_refused(path, refused, minute_members):
    """The 10 GB take no space on disk. They are the weights, another member, or data after the end of the tar."""
    size = 10 * 2**30
    for name, words in ((WEIGHTS, ["model_weights.ckpt", "expected at most"]), ("./other", ["other", "at most"])):
        others = {key: content for key, content in minute_members.items() if key != name}
        blocks = -(-sum(512 + -(-len(content) // 512) * 512 for content in others.values()) // 512) * 512
        write_tar(path, others)
        with path.open("r+b") as file:
            file.seek(blocks)
            file.write(entry(name, size=size).tobuf(tarfile.GNU_FORMAT))
            file.truncate(blocks + 512 + size + 1024)
        refused(*words)
    write_tar(path, minute_members)
    os.truncate(path, size)
    refused("data after the end of the tar")


def test_a_gzip_bomb_is_refused(path, refused):
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(bytes(2**20))
    refused("unpacks to over")


def test_damaged_gzip_data_are_refused(path, refused, minute_members):
    whole = write_tar(path, minute_members, "w:gz").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:1000] + bytes(50) + whole[1050:], whole[:-8] + bytes(8)):
        path.write_bytes(damaged)
        refused("damaged gzip file")


def test_a_file_next_to_the_right_one_is_refused_with_its_name(tmp_path):
    training_checkpoint = tmp_path / "step4.ckpt"
    training_checkpoint.write_bytes(b"PK\x03\x04" + bytes(1000))
    with pytest.raises(ProtT5nvError, match=r"training checkpoint; give the \.nemo file that pretraining writes"):
        read_nemo(training_checkpoint)
    (tmp_path / "step4.nemo").touch()
    with pytest.raises(ProtT5nvError, match=f"a training checkpoint; give {tmp_path}/step4.nemo"):
        read_nemo(training_checkpoint)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(1000))
    with pytest.raises(ProtT5nvError, match="'prott5nv predict "):
        read_nemo(weights)
    embeddings = tmp_path / "proteins.h5"
    embeddings.touch()
    with pytest.raises(ProtT5nvError, match="files of this name hold embeddings"):
        read_nemo(embeddings)
    (tmp_path / "config.json").touch()
    with pytest.raises(ProtT5nvError, match=f"weights alone; give the folder {tmp_path}"):
        read_nemo(weights)


def test_other_kinds_of_files_are_refused(path, refused, minute_members, tmp_path):
    path.write_text("MSLKRKNIALIPAAGIGVRFGADKPKQYVEIGSK\n" * 100)
    refused("not a tar file", ".nemo checkpoint")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model_config.yaml", minute_members[CONFIG])
    refused("not a tar file")
    path.write_bytes(minute_members[WEIGHTS])
    refused("not a tar file")
    path.write_bytes(b"")
    refused("not a tar file")
    path.unlink()
    refused("no such file")
    path.mkdir()
    refused("not a regular file")
    path.rmdir()
    os.mkfifo(path)
    refused("not a regular file")


# --- the configuration ---


def test_targets_in_the_configuration_stay_text(path, minute_members, tmp_path):
    marker = tmp_path / "marker"
    command = f"touch {marker}"
    lines = f"""
target: os.system
_target_: os.system
_args_: [{command!r}]
hydra: {{_target_: subprocess.run, args: [touch, {str(marker)!r}]}}
nested: {{model: {{_target_: builtins.exec, source: "open({str(marker)!r}, 'w')"}}}}
interpolated: ${{oc.env:HOME}}
"""
    config = re.sub(rb"(?m)^target: .*\n", lines.encode(), minute_members[CONFIG])
    write_tar(path, {**minute_members, CONFIG: config})
    file = read_nemo(path)
    assert file.raw_config["target"] == file.raw_config["_target_"] == "os.system"
    assert file.raw_config["interpolated"] == "${oc.env:HOME}"
    load(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "a/b", ""])
def test_artifact_names_that_are_paths_are_refused(path, refused, minute_members, name):
    write_tar(path, {**minute_members, CONFIG: minute_members[CONFIG] + f"extra: {{x: ['nemo:{name}']}}\n".encode()})
    refused("model_config.yaml", f"nemo:{name}", "nemo:<member>")


def test_a_missing_artifact_is_named(path, refused, minute_members):
    write_tar(path, {**minute_members, CONFIG: minute_members[CONFIG] + b"extra: nemo:absent.txt\n"})
    refused("absent.txt", "missing")


LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
)
MERGES = b"a: &a {x: 1}\n" + b"".join(
    b"%c: &%c {<<: [%s]}\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, ["aliases"]),
        (MERGES, ["aliases"]),
        (b"a: &a [*a]\n", ["aliases"]),
        (b"[" * 100_000, ["plain YAML"]),
        (b"x: " + b"y" * 2**19, ["bytes", "expected at most"]),
        (b"hidden_size: 8\nhidden_size: 16\n", ["twice"]),
        (b"x: !!python/object/apply:os.system ['touch marker']\n", ["plain YAML"]),
        (b"x: !!python/name:os.system\n", ["plain YAML"]),
        (b"\x00\xff\xfe", ["plain YAML"]),
        (b"x: 2021-99-99\n", ["plain YAML"]),
        (b"? {a: 1}\n: 2\n", ["plain YAML"]),
        (b"x: " + b"9" * 10_000, ["plain YAML"]),
        (b"just text\n", ["settings by name"]),
        (b"", ["settings by name"]),
        (b"hidden_size: [8]\n", ["hidden_size"]),
        (b"num_layers: 1000000000\n", ["num_layers"]),
        (b"num_layers: -1\n", ["num_layers"]),
        (b"hidden_size: .nan\n", ["hidden_size"]),
        (b"normalization: rmsnorm\n", ["normalization"]),
        (b"encoder: 7\n", ["encoder"]),
    ],
    ids=lambda value: value[:16].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_bad_configurations_are_refused(path, refused, minute_members, text, words):
    write_tar(path, {**minute_members, CONFIG: text})
    refused("model_config.yaml", *words)


def test_a_million_layers_are_refused_quickly(path, refused, minute_members):
    config = minute_members[CONFIG].replace(b"num_layers: 1\n", b"num_layers: 1000000\n")
    write_tar(path, {**minute_members, CONFIG: config})
    refused("model_weights.ckpt", "missing")


# --- the weights ---


def test_a_pickle_that_would_run_a_command_is_refused(path, refused, minute_members, tmp_path):
    marker = tmp_path / "marker"

    class Command:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    for pickled in (pickle.dumps(Command(), 2), pickle.dumps({"a": Command()}, 4)):
        write_tar(path, {**minute_members, WEIGHTS: with_pickle(minute_members[WEIGHTS], pickled)})
        refused("model_weights.ckpt", "tensors")
    write_tar(path, {**minute_members, WEIGHTS: with_pickle(minute_members[WEIGHTS], pickle.dumps(Command(), 2))})
    refused("posix.system", "nothing in it was run")
    write_tar(path, {**minute_members, WEIGHTS: pickle.dumps(Command())})  # as PyTorch 1.5 and older saved
    refused("model_weights.ckpt", "zip format")
    assert not marker.exists()
    os.system(f"touch {marker}")  # the command itself works
    assert marker.exists()


def test_pickles_that_need_too_much_memory_or_time_are_refused(path, refused, minute_members):
    nested = b"\x80\x02})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(100)) + b"K\x01s."
    buffer = b"\x80\x02}X\x01\x00\x00\x00acbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", 2**40) + b"\x85Rs."
    text = b"\x80\x02X" + struct.pack("<L", 2**32 - 1) + b"."
    for pickled in (nested, buffer, text, b"", b".", b"\x80\x02N.", b"\x80\x02)R.", bytes(2**22)):
        write_tar(path, {**minute_members, WEIGHTS: with_pickle(minute_members[WEIGHTS], pickled)})
        refused("model_weights.ckpt", "expected")


def with_changed_weights(members, **changes) -> dict[str, bytes]:
    """Replace, add or remove (None) tensors of the weights."""
    state = dict(torch.load(io.BytesIO(members[WEIGHTS]), weights_only=True))
    state.update(changes)
    return {**members, WEIGHTS: saved({key: tensor for key, tensor in state.items() if tensor is not None})}


BIAS = "enc_dec_model.tokens_head.bias"
NORM = "enc_dec_model.enc_dec_model.encoder.model.final_layernorm.weight"
TABLE = "enc_dec_model.decoder_embedding.word_embeddings.weight"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({BIAS: torch.zeros(127)}, [BIAS, "(127,)", "expected (128,)"]),
        ({NORM: torch.zeros(8, 1)}, [NORM, "(8, 1)", "expected (8,)"]),
        ({NORM: torch.zeros(())}, [NORM, "()", "expected (8,)"]),
        ({NORM: None}, [NORM, "missing"]),
        ({"surplus.weight": torch.zeros(1)}, ["surplus.weight", "not a parameter"]),
        ({NORM.replace("final", "finale"): torch.zeros(8)}, ["finale_layernorm", "not a parameter"]),
        ({NORM.replace("encoder.model.", "encoder.model.layers.7."): torch.zeros(8)}, ["layers.7", "not a parameter"]),
        ({NORM: torch.tensor([1.0, float("nan"), *6 * [0.0]])}, [NORM, "NaN"]),
        ({NORM: torch.full((8,), float("inf"))}, [NORM, "infinity"]),
        ({NORM: torch.zeros(8, dtype=torch.float64)}, [NORM, "float64", "float32"]),
        ({NORM: torch.zeros(8, dtype=torch.uint8)}, [NORM, "uint8", "float32"]),
        ({NORM: torch.zeros(1).expand(8)}, [NORM, "contiguous"]),
        ({NORM: torch.zeros(8, 8)[:, 0]}, [NORM, "contiguous"]),
        ({NORM: 7}, [NORM, "not a tensor"]),
        ({NORM: {"weight": 7}}, [NORM, "not a tensor"]),
        ({TABLE: torch.zeros(128, 8)}, [TABLE, "differs", "one shared table"]),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[-1],
)
def test_weights_that_do_not_fit_are_refused(path, refused, minute_members, changes, words):
    write_tar(path, with_changed_weights(minute_members, **changes))
    refused("model_weights.ckpt", *words)


def test_storages_of_another_length_are_refused(path, refused, minute_members):
    """The entry is shorter than the pickle claims, so a careless reader would read past its end."""
    weights = rewrite_zip(minute_members[WEIGHTS], lambda name, content: content[:4] if name == "data/0" else content)
    write_tar(path, {**minute_members, WEIGHTS: weights})
    refused("model_weights.ckpt", "of another length")


def test_changed_weights_do_not_match_their_checksum(path, refused, minute_members):
    weights = bytearray(minute_members[WEIGHTS])
    with zipfile.ZipFile(io.BytesIO(weights)) as file:
        largest = max(file.infolist(), key=lambda entry: entry.file_size)
    weights[largest.header_offset + largest.file_size // 2] ^= 1
    write_tar(path, {**minute_members, WEIGHTS: bytes(weights)})
    refused("model_weights.ckpt", "damaged", "copy the file again")


def test_zip_files_that_torch_does_not_write_are_refused(path, refused, minute_members):
    weights = minute_members[WEIGHTS]
    compressed = rewrite_zip(weights, lambda name, content: content, zipfile.ZIP_DEFLATED)
    big_endian = rewrite_zip(weights, lambda name, content: b"big" if name == "byteorder" else content)
    twice = io.BytesIO(weights)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(twice, "a") as file:
        file.writestr(file.namelist()[0], b"\x80\x02}.")
    for content, word in (
        (compressed, "compressed"),
        (big_endian, "big-endian"),
        (twice.getvalue(), "stored twice"),
        (weights[:-1], "truncated"),
        (weights + b"\0", "zip format"),
        (b"", "zip format"),
    ):
        write_tar(path, {**minute_members, WEIGHTS: content})
        refused("model_weights.ckpt", word)


# --- the tokenizer ---


def model_member(members) -> str:
    return next(name for name in members if name.endswith(".model"))


def test_another_vocabulary_is_refused_with_the_first_difference(path, refused, minute_members):
    name = model_member(minute_members)
    model = minute_members[name]
    swapped = model.replace(b"\x0a\x01A", b"\x0a\x01!", 1).replace(b"\x0a\x01S", b"\x0a\x01A", 1)
    write_tar(path, {**minute_members, name: swapped})
    refused(name.removeprefix("./"), "token 6 is '!'", "ProtT5nv's is 'A'")
    write_tar(path, {**minute_members, name: model + b"\x0a\x05\x0a\x03new"})
    refused("token 30 is 'new'", "no token")
    write_tar(path, {**minute_members, name: b"hello"})
    refused(name.removeprefix("./"), "SentencePiece model")


def test_a_file_without_a_tokenizer_is_refused(path, refused, minute_members):
    config = re.sub(rb"nemo:\S+", b"null", minute_members[CONFIG])
    write_tar(path, {CONFIG: config, WEIGHTS: minute_members[WEIGHTS]})
    refused("model_config.yaml", "0 SentencePiece models")
