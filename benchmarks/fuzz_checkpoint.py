"""Open thousands of damaged checkpoints and check that each one is refused cleanly or opens.

    python benchmarks/fuzz_checkpoint.py --files 20000 --seed 0

A small valid file is damaged at random on every level: the bytes of the file, the order and the headers of the tar's
members, the configuration, the tokenizer, the zip archive and the pickle inside it. Checksums are corrected afterwards,
so that the damage reaches the next level instead of being refused by the first one.

A file fails the search if opening it raises anything but a one-line `ProtT5nvError` that names the file, takes longer
than 10 seconds, writes a file outside the temporary folder, leaves one behind, or starts a process. An audit hook
watches for the last three.
"""

from __future__ import annotations

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
from types import FrameType
from typing import Any

import yaml
from common import argument_parser, save_random_model, tar_members

from prott5nv import ModelConfig, ProtT5nvError
from prott5nv.checkpoint import read_nemo
from prott5nv.model.tokenizer import VOCABULARY

SECONDS_PER_FILE = 10
CONFIG = "./model_config.yaml"
CONFIG_KEYS = (
    *("hidden_size", "ffn_hidden_size", "num_attention_heads", "num_layers", "seq_length"),
    *("max_position_embeddings", "tokenizer", "target"),
)
TAR_FIELDS = ((0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8))  # (start, length)
INTERESTING_BYTES = (0, 1, 0x7F, 0x80, 0xFF, ord("."), ord("/"), ord("5"), ord("2"), ord("*"), ord("&"), ord("\n"))


def valid_members(folder: Path) -> dict[str, bytes]:
    """Write a valid checkpoint of a few kilobytes and return its members.

    Its configuration and its vocabulary are cut down to what the reader needs, so that most damage hits something that
    matters.
    """
    config = ModelConfig(
        hidden_size=8, ffn_hidden_size=8, num_attention_heads=2, num_layers=1, seq_length=8, max_position_embeddings=8
    )
    members = tar_members(save_random_model(folder / "valid.nemo", config))
    for name in members:
        if name.endswith(".model"):
            entries = [bytes([10, len(token)]) + token.encode() for token in VOCABULARY[:30]]
            members[name] = b"".join(bytes([10, len(entry)]) + entry for entry in entries)
    values = yaml.safe_load(members[CONFIG])
    members[CONFIG] = yaml.safe_dump({key: values[key] for key in CONFIG_KEYS}).encode()
    return members


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Flip, overwrite, cut, repeat or copy bytes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not data:
            break
        start = rng.randrange(len(data))
        length = rng.choice((1, 2, 4, 8, rng.randrange(1, 600)))
        match rng.randrange(7):
            case 0:
                data[start] ^= 1 << rng.randrange(8)
            case 1:
                data[start] = rng.choice(INTERESTING_BYTES)
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
    """Damage, rename, duplicate or drop one entry; the checksums match again."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        entries = [(entry.filename, source.read(entry)) for entry in source.infolist()]
        chosen = 0 if rng.random() < 0.6 else rng.randrange(len(entries))  # the first entry is the pickle
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
    """Overwrite some fields of a tar header; the checksum matches again."""
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    for _ in range(rng.choice((1, 1, 2, 4))):
        start, length = rng.choice(TAR_FIELDS)
        position, end = start + rng.randrange(length), start + length
        field = rng.choice((rng.randbytes(length), b"7" * length, bytes(length), b"../" * length, b"0xgLK123456S"))
        block[position:end] = field[: end - position].ljust(end - position, b"\0")
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def tar_of(rng: random.Random, members: list[tuple[str, bytes]], header_to_damage: int | None) -> bytes:
    """Write a tar archive of (name, content) pairs; one header may be damaged."""
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
    """Return the kind of the damage, and the damaged file."""
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
    """Records processes that are started and files that are opened for writing outside `folder`, while `armed`."""

    def __init__(self, folder: Path):
        self.folder = str(folder)
        self.armed = False
        self.violations: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if mode is None else set(mode) & set("wax+")
            if writes and not str(path).startswith(self.folder):
                self.violations.append(f"open {path}")
        elif event.startswith(("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess", "socket", "shutil")):
            self.violations.append(f"{event} {arguments}")


class OutOfTime(BaseException):
    """Raised when a file takes too long. As it is no `Exception`, no handler in the reader catches it."""


def out_of_time(signum: int, frame: FrameType | None) -> None:
    raise OutOfTime


def open_damaged(path: Path) -> tuple[str, str | None]:
    """Open a damaged file and return the outcome, and what is wrong with the outcome, if anything."""
    try:
        read_nemo(path)
        return "opened", None
    except ProtT5nvError as error:
        message = str(error)
        clear = message.startswith(f"{path}: ") and "\n" not in message and len(message) <= 1000
        return "refused", None if clear else f"unclear message {message!r}"
    except BaseException:  # anything else is what this search looks for
        return "crashed", traceback.format_exc()


def search(files: int, seed: int, folder: Path) -> tuple[collections.Counter[str], list[str], float]:
    """Open damaged files.

    Parameters
    ----------
    files, seed : int
        Number of files, and the seed of the damage.
    folder : Path
        Empty folder for the files.

    Returns
    -------
    counts : Counter
        Number of files by kind of damage and outcome.
    failures : list of str
    slowest : float
        Seconds that the slowest file took.
    """
    counts: collections.Counter[str] = collections.Counter()
    failures, slowest = [], 0.0
    temporary = folder / "temporary"
    temporary.mkdir()
    members = valid_members(folder)
    path = folder / "mutated.nemo"
    expected_files = {path.name, "temporary", "valid.nemo"}
    tempfile.tempdir = str(temporary)
    os.chdir(temporary)
    path.write_bytes(tar_of(random.Random(0), list(members.items()), None))
    read_nemo(path)  # the undamaged file opens, and all modules are imported before the watch begins
    watch = Watch(temporary)
    for number in range(files):
        kind, data = mutated(random.Random(f"{seed} {number}"), members)
        path.write_bytes(data)
        began = time.perf_counter()
        watch.armed = True
        signal.alarm(SECONDS_PER_FILE)
        outcome, failure = open_damaged(path)
        signal.alarm(0)
        watch.armed = False
        slowest = max(slowest, time.perf_counter() - began)
        counts[f"{kind}: {outcome}"] += 1
        if failure:
            failures.append(f"file {number}: {failure}")
        if watch.violations or os.listdir(temporary) or set(os.listdir(folder)) != expected_files:
            failures.append(f"file {number}: wrote or ran {watch.violations}, left {os.listdir(temporary)}")
            watch.violations.clear()
    os.chdir("/")
    return counts, failures, slowest


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--files", type=int, default=20_000, help="Number of damaged files to open.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the damage.")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, out_of_time)
    with tempfile.TemporaryDirectory() as name:
        counts, failures, slowest = search(arguments.files, arguments.seed, Path(name))
    for failure in failures[:20]:
        print(failure)
    for kind, count in sorted(counts.items()):
        print(f"{count:>8,}  {kind}")
    print(f"{arguments.files:>8,}  files, seed {arguments.seed}: {len(failures)} failures, slowest {slowest:.2f} s")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
