"""Hostile files are refused in one line that names the file, the member and what was expected; none of them acts."""

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
    return tmp_path / "stranger.nemo"


@pytest.fixture
def refused(path):
    """Check that the file is refused in a moment, in one line with its name and all of the given words."""

    def check(*words: str, **options) -> None:
        began = time.monotonic()
        with pytest.raises(ProtT5nvError) as caught:
            read_nemo(path, **options)
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 500
        missing = [word for word in words if word not in message]
        assert not missing, f"{missing} not in {message!r}"
        assert time.monotonic() - began < 10

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
def test_members_that_do_not_belong(path, refused, minute_members, header, words, first):
    extra, rest = [(header, b"" if header.isreg() else None)], list(minute_members.items())
    write_tar(path, extra + rest if first else rest + extra)
    refused(*words)
    assert os.listdir(path.parent) in (["stranger.nemo", "temporary"], ["temporary", "stranger.nemo"])


@pytest.mark.parametrize("record", [{"size": "12"}, {"GNU.sparse.realsize": "9"}, {"linkpath": "x"}])
def test_headers_that_change_the_next_member(path, refused, minute_members, record):
    members = list(minute_members.items())
    members[0] = (entry(members[0][0], pax_headers=record), members[0][1])
    write_tar(path, members)
    refused("changes the next member's", *record)


def test_other_plain_files_are_skipped_with_a_warning(path, minute_members):
    write_tar(path, {"./readme.txt": b"hello", **minute_members})
    with pytest.warns(UserWarning, match=r"skipped 'readme.txt'"):
        read_nemo(path)


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS, ".model", ".vocab"])
def test_missing_members(path, refused, minute_members, missing):
    write_tar(path, {name: content for name, content in minute_members.items() if not name.endswith(missing)})
    refused(missing.removeprefix("./"), "missing")


def test_truncated_anywhere(path, refused, minute_members):
    whole = write_tar(path, minute_members).read_bytes()
    end = whole.rindex(b"model_weights.ckpt") + 1024
    for length in (0, 1, 100, 511, 513, 1024, end // 2, end, len(whole) // 512 * 512 - 10240):
        path.write_bytes(whole[:length])
        refused()


def test_ten_gigabytes_of_holes(path, refused, minute_members):
    """A member of 10 GB that takes no space on disk: as weights, as another file, and as a tail."""
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
    refused("after the end of the tar")


def test_gzip_bomb(path, refused):
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(bytes(2**20))
    refused("unpacks to over")


def test_damaged_gzip(path, refused, minute_members):
    whole = write_tar(path, minute_members, "w:gz").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:1000] + bytes(50) + whole[1050:], whole[:-8] + bytes(8)):
        path.write_bytes(damaged)
        refused("damaged gzip file")


def test_files_of_other_kinds(path, refused, minute_members, tmp_path):
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


def test_targets_are_opened_and_never_acted_on(path, minute_members, tmp_path):
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
def test_artifact_names_that_are_paths(path, refused, minute_members, name):
    write_tar(path, {**minute_members, CONFIG: minute_members[CONFIG] + f"extra: {{x: ['nemo:{name}']}}\n".encode()})
    refused("model_config.yaml", f"nemo:{name}", "nemo:<member>")


def test_artifact_that_is_not_there(path, refused, minute_members):
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
def test_configurations_that_are_none(path, refused, minute_members, text, words):
    write_tar(path, {**minute_members, CONFIG: text})
    refused("model_config.yaml", *words)


def test_a_million_layers_take_no_time(path, refused, minute_members):
    config = minute_members[CONFIG].replace(b"num_layers: 1\n", b"num_layers: 1000000\n")
    write_tar(path, {**minute_members, CONFIG: config})
    refused("model_weights.ckpt", "missing")


# --- the weights ---


def test_a_pickle_that_would_run_a_command(path, refused, minute_members, tmp_path):
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


def test_pickles_that_would_fill_memory_or_never_end(path, refused, minute_members):
    nested = b"\x80\x02})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(100)) + b"K\x01s."
    buffer = b"\x80\x02}X\x01\x00\x00\x00acbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", 2**40) + b"\x85Rs."
    text = b"\x80\x02X" + struct.pack("<L", 2**32 - 1) + b"."
    for pickled in (nested, buffer, text, b"", b".", b"\x80\x02N.", b"\x80\x02)R.", bytes(2**22)):
        write_tar(path, {**minute_members, WEIGHTS: with_pickle(minute_members[WEIGHTS], pickled)})
        refused("model_weights.ckpt", "expected")


def changed(members, **changes) -> dict[str, bytes]:
    """The members with some tensors of the weights replaced, added, or removed (None)."""
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
        ({"surplus.weight": torch.zeros(1)}, ["surplus.weight", "no parameter"]),
        ({NORM.replace("final", "finale"): torch.zeros(8)}, ["finale_layernorm", "no parameter"]),
        ({NORM.replace("encoder.model.", "encoder.model.layers.7."): torch.zeros(8)}, ["layers.7", "no parameter"]),
        ({NORM: torch.tensor([1.0, float("nan"), *6 * [0.0]])}, [NORM, "NaN"]),
        ({NORM: torch.full((8,), float("inf"))}, [NORM, "infinity"]),
        ({NORM: torch.zeros(8, dtype=torch.float64)}, [NORM, "float64", "float32"]),
        ({NORM: torch.zeros(8, dtype=torch.uint8)}, [NORM, "uint8", "float32"]),
        ({NORM: torch.zeros(1).expand(8)}, [NORM, "in one piece"]),
        ({NORM: torch.zeros(8, 8)[:, 0]}, [NORM, "in one piece"]),
        ({NORM: 7}, [NORM, "not a tensor"]),
        ({NORM: {"weight": 7}}, [NORM, "not a tensor"]),
        ({TABLE: torch.zeros(128, 8)}, [TABLE, "differs", "one shared table"]),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[-1],
)
def test_weights_that_do_not_fit(path, refused, minute_members, changes, words):
    write_tar(path, changed(minute_members, **changes))
    refused("model_weights.ckpt", *words)


def test_storages_of_another_length(path, refused, minute_members):
    """A record shorter than the pickle claims, which would read past its end."""
    weights = rewrite_zip(minute_members[WEIGHTS], lambda name, content: content[:4] if name == "data/0" else content)
    write_tar(path, {**minute_members, WEIGHTS: weights})
    refused("model_weights.ckpt", "of another length")


def test_changed_numbers_do_not_match_their_checksum(path, refused, minute_members):
    weights = bytearray(minute_members[WEIGHTS])
    with zipfile.ZipFile(io.BytesIO(weights)) as file:
        largest = max(file.infolist(), key=lambda entry: entry.file_size)
    weights[largest.header_offset + largest.file_size // 2] ^= 1
    write_tar(path, {**minute_members, WEIGHTS: bytes(weights)})
    refused("model_weights.ckpt", "damaged", "copy the file again")


def test_zips_that_torch_does_not_write(path, refused, minute_members):
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
        (weights[:-1], "cut short"),
        (weights + b"\0", "zip format"),
        (b"", "zip format"),
    ):
        write_tar(path, {**minute_members, WEIGHTS: content})
        refused("model_weights.ckpt", word)


# --- the tokenizer ---


def model_member(members) -> str:
    return next(name for name in members if name.endswith(".model"))


def test_another_vocabulary_shows_the_first_difference(path, refused, minute_members):
    name = model_member(minute_members)
    model = minute_members[name]
    swapped = model.replace(b"\x0a\x01A", b"\x0a\x01!", 1).replace(b"\x0a\x01S", b"\x0a\x01A", 1)
    write_tar(path, {**minute_members, name: swapped})
    refused(name.removeprefix("./"), "piece 6 is '!'", "ProtT5nv's is 'A'")
    write_tar(path, {**minute_members, name: model + b"\x0a\x05\x0a\x03new"})
    refused("piece 30 is 'new'", "no piece")
    write_tar(path, {**minute_members, name: b"hello"})
    refused(name.removeprefix("./"), "SentencePiece model")


def test_a_file_without_a_tokenizer(path, refused, minute_members):
    config = re.sub(rb"nemo:\S+", b"null", minute_members[CONFIG])
    write_tar(path, {CONFIG: config, WEIGHTS: minute_members[WEIGHTS]})
    refused("model_config.yaml", "0 SentencePiece models")
