"""Open thousands of mutated checkpoints: only our own error may come out, in time, and nothing may be written.

    python benchmarks/fuzz_checkpoint.py --files 20000 --seed 0

A small valid file is damaged at random on every level: bytes of the file, order and headers of the tar's members, the
configuration, the zip, the pickle (with checksums made right again, so that the damage reaches the layer below). An
audit hook watches every file that is opened for writing and every process that is started.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import io
import os
import random
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from pathlib import Path

import yaml

from prott5nv import ModelConfig, ProtT5, ProtT5nvError
from prott5nv.checkpoint import read_nemo, save_nemo
from prott5nv.model.tokenizer import VOCABULARY

SECONDS_PER_FILE = 10
CONFIG, WEIGHTS = "./model_config.yaml", "./model_weights.ckpt"
FIELDS = ((0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8))  # of a tar header
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, ord("."), ord("/"), ord("5"), ord("2"), ord("*"), ord("&"), ord("\n"))


def valid_members(folder: Path) -> dict[str, bytes]:
    """Members of a model of a few kilobytes, with a short configuration, so that no byte is beside the point."""
    widths = dict(hidden_size=8, ffn_hidden_size=8, num_attention_heads=2, num_layers=1)
    config = ModelConfig(**widths, seq_length=8, max_position_embeddings=8)
    save_nemo(folder / "valid.nemo", config, ProtT5(config).state_dict())
    with tarfile.open(folder / "valid.nemo") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
    for name in members:
        if name.endswith(".model"):
            pieces = [bytes([10, len(piece)]) + piece.encode() for piece in VOCABULARY[:30]]
            members[name] = b"".join(bytes([10, len(piece)]) + piece for piece in pieces)
    values = yaml.safe_load(members[CONFIG])
    kept = {key: values[key] for key in (*widths, "seq_length", "max_position_embeddings", "tokenizer", "target")}
    members[CONFIG] = yaml.safe_dump(kept).encode()
    return members


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut, repeated, moved or inserted."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not data:
            break
        start = rng.randrange(len(data))
        length = rng.choice((1, 2, 4, 8, rng.randrange(1, 600)))
        match rng.randrange(7):
            case 0:
                data[start] ^= 1 << rng.randrange(8)
            case 1:
                data[start] = rng.choice(INTERESTING)
            case 2:
                data[start : start + length] = rng.randbytes(length)
            case 3:
                del data[start:]
            case 4:
                del data[start : start + length]
            case 5:
                data[start:start] = data[start : start + length]
            case 6:
                target = rng.randrange(len(data))
                data[target : target + length] = data[start : start + length]
    return bytes(data)


def damaged_zip(rng: random.Random, data: bytes) -> bytes:
    """One entry damaged, renamed, doubled or dropped, with checksums that fit."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        entries = [(entry.filename, source.read(entry)) for entry in source.infolist()]
        chosen = 0 if rng.random() < 0.6 else rng.randrange(len(entries))  # the first is the pickle
        name, content = entries[chosen]
        match rng.randrange(6):
            case 0:
                entries[chosen] = (damaged(rng, name.encode()).decode("latin-1").replace("\0", "?") or "x", content)
            case 1:
                entries.insert(rng.randrange(len(entries)), entries[chosen])
            case 2:
                del entries[chosen]
            case _:
                entries[chosen] = (name, damaged(rng, content))
        for name, content in entries:
            target.writestr(name, content)
    return out.getvalue()


def damaged_header(rng: random.Random, header: tarfile.TarInfo) -> bytes:
    """A tar header with some fields overwritten and a checksum that fits."""
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    for _ in range(rng.choice((1, 1, 2, 4))):
        start, length = rng.choice(FIELDS)
        position, end = start + rng.randrange(length), start + length
        field = rng.choice((rng.randbytes(length), b"7" * length, bytes(length), b"../" * length, b"0xgLK123456S"))
        block[position:end] = field[: end - position].ljust(end - position, b"\0")
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def tar_of(rng: random.Random, members: list[tuple[str, bytes]], header_to_damage: int | None) -> bytes:
    out = io.BytesIO()
    for index, (name, content) in enumerate(members):
        header = tarfile.TarInfo(name)
        header.size = len(content)
        plain = header.tobuf(tarfile.GNU_FORMAT, errors="replace")
        out.write(damaged_header(rng, header) if index == header_to_damage else plain)
        out.write(content + bytes(-len(content) % 512))
    out.write(bytes(1024))
    return out.getvalue()


def mutated(rng: random.Random, members: dict[str, bytes]) -> tuple[str, bytes]:
    """The kind of the mutation, and the file."""
    pairs = list(members.items())
    kind = rng.choice(("bytes", "header", "members", "config", "tokenizer", "zip", "weights", "gzip"))
    header = None
    match kind:
        case "header":
            header = rng.randrange(len(pairs))
        case "members":
            rng.shuffle(pairs)
            match rng.randrange(4):
                case 0:
                    pairs.append(rng.choice(pairs))
                case 1:
                    pairs.pop()
                case 2:
                    pairs[0] = (rng.choice(("x", "../x", "/x", "mp_rank_00/x", "./x/../y")), pairs[0][1])
        case "config" | "tokenizer" | "weights" | "zip":
            ending = {"config": ".yaml", "tokenizer": ".model"}.get(kind, ".ckpt")
            index = next(i for i, (name, _) in enumerate(pairs) if name.endswith(ending))
            name, content = pairs[index]
            pairs[index] = (name, (damaged_zip if kind == "zip" else damaged)(rng, content))
    data = tar_of(rng, pairs, header)
    if kind == "bytes":
        data = damaged(rng, data)
    if kind == "gzip":
        data = damaged(rng, gzip.compress(data, 1))
    return kind, data


class Watch:
    """Notes files opened for writing outside one folder, and processes started."""

    def __init__(self, folder: Path):
        self.folder = str(folder)
        self.armed = False
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.armed:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if mode is None else set(mode) & set("wax+")
            if writes and not str(path).startswith(self.folder):
                self.seen.append(f"open {path}")
        elif event.startswith(("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess", "socket", "shutil")):
            self.seen.append(f"{event} {arguments}")


class OutOfTime(BaseException):
    """Not an Exception, so that no handler in the reader takes it for a damaged file."""


def out_of_time(*_):
    raise OutOfTime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, out_of_time)
    counts: collections.Counter[str] = collections.Counter()
    failures, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as name:
        folder, temporary = Path(name), Path(name) / "temporary"
        temporary.mkdir()
        members = valid_members(folder)
        path = folder / "mutated.nemo"
        ours = {path.name, "temporary", "valid.nemo"}
        tempfile.tempdir = str(temporary)
        os.chdir(temporary)
        path.write_bytes(tar_of(random.Random(0), list(members.items()), None))
        read_nemo(path)  # the undamaged file opens; and all modules are loaded before the watch begins
        watch = Watch(temporary)
        for number in range(arguments.files):
            kind, data = mutated(random.Random(f"{arguments.seed} {number}"), members)
            path.write_bytes(data)
            began = time.perf_counter()
            watch.armed = True
            signal.alarm(SECONDS_PER_FILE)
            try:
                read_nemo(path)
                counts[f"{kind}: opened"] += 1
            except ProtT5nvError as error:
                counts[f"{kind}: refused"] += 1
                message = str(error)
                if not message.startswith(f"{path}: ") or "\n" in message or len(message) > 1000:
                    failures.append((number, f"message {message!r}"))
            except BaseException:  # whatever else comes out is what this search is for
                failures.append((number, traceback.format_exc()))
            finally:
                signal.alarm(0)
                watch.armed = False
            slowest = max(slowest, time.perf_counter() - began)
            if watch.seen or os.listdir(temporary) or set(os.listdir(folder)) != ours:
                failures.append((number, f"wrote or ran something: {watch.seen} {os.listdir(temporary)}"))
                watch.seen.clear()
        os.chdir("/")
    for number, failure in failures[:20]:
        print(f"file {number}: {failure}")
    for kind, count in sorted(counts.items()):
        print(f"{count:>8,}  {kind}")
    print(f"{arguments.files:>8,}  files, seed {arguments.seed}: {len(failures)} failures, slowest {slowest:.2f} s")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
