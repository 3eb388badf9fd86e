"""Hostile and damaged Parquet tables, and archives of FLIP."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from mutants import Outcome, attack, outcome_of, run_attempts

from prott5nv.flip.prepare import prepare
from prott5nv.flip.tasks import load_task
from prott5nv.io.parquet import read_parquet

_LETTERS = "ACDEFGHIKLMNPQRSTVWY"
_PROTEINS = 60


def load_parquet(path: Path) -> Any:
    """Read all proteins of a table, and keep only a checksum of their sequences."""
    return [(record.id, len(record.sequence), hash(record.sequence)) for record in read_parquet(path)]


def load_archive(path: Path) -> Any:
    """Prepare the task in an archive, which has the name that FLIP uses, and read the result."""
    folder = path.with_name(f"{path.name}.folder")
    archive = folder / "in" / "splits.zip"
    archive.parent.mkdir(parents=True)
    path.rename(archive)
    try:
        prepare("meltome", folder / "in", folder / "out")
        task = load_task(folder / "out" / "meltome" / "mixed_split.csv", name="meltome")
        return task.ids, task.sequences, [target.tolist() for target in task.targets], task.sets.tolist()
    finally:
        archive.rename(path)
        for left in sorted(folder.rglob("*"), reverse=True):
            left.rmdir() if left.is_dir() else left.unlink()
        folder.rmdir()


def _sequences() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(_LETTERS, k=rng.randint(5, 60))) for _ in range(_PROTEINS)]


def write_parquet(folder: Path) -> list[Path]:
    """Write tables with the compressions that pyarrow has, with and without dictionaries, and with integers as ids."""
    table = pa.table({"id": [f"P{number}" for number in range(_PROTEINS)], "sequence": _sequences()})
    paths = []
    forms: dict[str, dict[str, Any]] = {
        "snappy": {},
        "zstd": {"compression": "zstd", "data_page_version": "2.0"},
        "plain": {"compression": "none", "use_dictionary": False, "write_page_checksum": True},
    }
    for name, settings in forms.items():
        paths.append(folder / f"{name}.parquet")
        pq.write_table(table, paths[-1], **settings)
    paths.append(folder / "numbers.parquet")
    pq.write_table(table.set_column(0, "id", pa.array(range(_PROTEINS))), paths[-1])
    return paths


def write_archives(folder: Path) -> list[Path]:
    """Write archives of one table, stored and compressed."""
    rows = [f"{s},{40 + n},{('train', 'train', 'test')[n % 3]},{n % 2}" for n, s in enumerate(_sequences())]
    paths = []
    for name, method in {
        "stored": zipfile.ZIP_STORED,
        "deflated": zipfile.ZIP_DEFLATED,
        "lzma": zipfile.ZIP_LZMA,
    }.items():
        paths.append(folder / f"{name}.splits.zip")
        with zipfile.ZipFile(paths[-1], "w", method) as archive:
            archive.writestr("splits/mixed_split.csv", "\n".join(["sequence,target,set,validation", *rows]))
    return paths


def _table(**columns: Any) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(columns), path)


def _one_text(length: int, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, "int32"), pa.array(["A" * length]))


def _varint(value: int, length: int = 0) -> bytes:
    """Encode a positive number as Thrift's compact protocol does, in at least so many bytes."""
    value *= 2  # numbers with a sign are encoded as 0, -1, 1, -2, ...
    digits = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 7 * length), 7)]
    return bytes([*(digit | 0x80 for digit in digits[:-1]), digits[-1]])


def _untrue_sizes(path: Path) -> None:
    """Write a long text that is compressed to some kB, and state in the footer that it is not compressed."""
    table = pa.table({"id": ["a"], "sequence": ["A" * 100_000_000]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)
    column = pq.read_metadata(path).row_group(0).column(1)
    true = _varint(column.total_uncompressed_size)
    content = path.read_bytes()
    assert content.count(true) == 1
    path.write_bytes(content.replace(true, _varint(column.total_compressed_size, len(true))))


def _large_footer(path: Path) -> None:
    path.write_bytes(b"PAR1" + bytes(20_000_000) + (20_000_000).to_bytes(4, "little") + b"PAR1")


def _zip(write: Callable[[zipfile.ZipFile], None]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            write(archive)

    return make


def _bomb(archive: zipfile.ZipFile) -> None:
    with archive.open("splits/mixed_split.csv", "w") as member:
        member.write(b"sequence,target,set\n")
        for _ in range(80):
            member.write(b"M" * (1 << 20) + b",40,train\n")


def _encrypted(path: Path) -> None:
    _zip(lambda archive: archive.writestr("splits/mixed_split.csv", "sequence,target,set\nMKV,1,train\n"))(path)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "floating-point ids.parquet": _table(id=[1.0, 2.0], sequence=["MKV", "MKL"]),
    "bytes as ids.parquet": _table(id=[b"\xff\xfe", b"\x00"], sequence=["MKV", "MKL"]),
    "lists as sequences.parquet": _table(id=["a"], sequence=[["M", "K"]]),
    "times as ids.parquet": _table(id=pa.array([1, 2], pa.timestamp("s")), sequence=["MKV", "MKL"]),
    "control characters.parquet": _table(id=["a\x1b[2J"], sequence=["MKV"]),
    "untrue sizes.parquet": _untrue_sizes,
    "large footer.parquet": _large_footer,
    "bomb.zip": _zip(_bomb),
    "encrypted.zip": _encrypted,
    "path outside.zip": _zip(lambda archive: archive.writestr("../../mixed_split.txt", "x")),
    "absolute path.zip": _zip(lambda archive: archive.writestr("/tmp/mixed_split.txt", "x")),
    "empty.zip": _zip(lambda archive: None),
    "no text.zip": _zip(lambda archive: archive.writestr("mixed_split.csv", b"\x00\xff" * 1000)),
    "two rows of one id.zip": _zip(
        lambda archive: archive.writestr("mixed_split.csv", "id,sequence,target,set\na,MKV,1,train\na,MKL,2,test\n")
    ),
}


def attack_hostile(folder: Path) -> Outcome:
    """Open each hostile file; all must be refused."""
    paths = [folder / name.replace(".zip", ".splits.zip") for name in HOSTILE]
    for path, make in zip(paths, HOSTILE.values(), strict=True):
        make(path)
    return run_attempts(lambda n, _: outcome_of(lambda: load(paths[n]) is None, folder), list(HOSTILE))


def load(path: Path) -> Any:
    """Open a table or an archive."""
    return load_parquet(path) if path.suffix == ".parquet" else load_archive(path)


def attack_parquet(folder: Path, files: int, seed: int) -> Outcome:
    """Read damaged tables."""
    return attack(write_parquet(folder), load_parquet, files, seed)


def attack_archives(folder: Path, files: int, seed: int) -> Outcome:
    """Prepare the task in damaged archives."""
    return attack(write_archives(folder), load_archive, files, seed)
