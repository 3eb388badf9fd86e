"""UniRef50, or any FASTA file, made into training, validation and test data: one streaming pass, bounded memory.

The output is ProtT5nv's own layout: ``train/x000.csv``, ``val/x000.csv``, ``test/x000.csv`` with the columns
``record_id,record_name,sequence_length,sequence``. ``record_id`` is the record's number in the source, from 0.

How one pass can make a random split
    *A fraction* needs no memory: a seeded draw decides for each protein as it passes, so the size is close to the
    fraction, not exact. With groups, the draw is a seeded hash of the group's name, so that a group cannot be torn.
    *An exact count* is a reservoir sample: the first proteins fill it, each later one may take a random place in it,
    and whoever leaves it goes to train. Every protein has the same chance. The reservoir is the memory this needs:
    about 0.4 GB for the 879,350 proteins of the card's validation and test sets.

Train rows stay in the order of the file (proteins that leave the reservoir come where they left it); the pretraining
sampler draws a new order every epoch, so shuffling here would buy nothing. Records with the same id are all kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import string
from pathlib import Path

from tqdm import tqdm

from prott5nv import __version__
from prott5nv.errors import ProtT5nvError
from prott5nv.io.fasta import read_fasta
from prott5nv.io.source import source_name

#: Splits with a name: the number of validation and of test proteins. `card` is the ProtT5nv model card's.
SPLITS = {"card": (4_350, 875_000)}

HEADER = b"record_id,record_name,sequence_length,sequence\n"
CAPITALS = string.ascii_uppercase.encode()
PROVENANCE_FILE = "provenance.json"

# Memory for an exact split, at the longest allowed sequence and with Python's cost of a row.
_RESERVOIR_BYTES = 1_000_000_000
_ROW_OVERHEAD = 120


def prepare(
    fasta: str | os.PathLike,
    output: str | os.PathLike,
    *,
    max_length: int = 512,
    validation: int | float = 0.01,
    test: int | float = 0.01,
    split: str | None = None,
    group_by: str | None = None,
    seed: int = 42,
    records_per_file: int = 1_000_000,
    force: bool = False,
) -> dict:
    """Make train, validation and test CSV files of the proteins in a FASTA file.

    Proteins longer than `max_length`, without a sequence, or with characters other than the letters A-Z (gaps, stops)
    are left out and counted. Lower-case letters are written in upper case.

    Parameters
    ----------
    fasta : str or PathLike
        A FASTA file, gzipped or not; ``-`` for standard input.
    output : str or PathLike
        The folder to make. It appears under this name only when it is complete.
    max_length : int, default 512
        The most residues a kept protein may have.
    validation, test : int or float, default 0.01
        An exact number of proteins (int) or an approximate fraction of them (float below 1). 0 leaves the split out.
    split : {"card"}, optional
        A named exact split instead of the two numbers: ``card`` is 4,350 validation and 875,000 test proteins.
    group_by : str, optional
        A key in the headers, such as ``c50`` for ``c50=G0SA20``: proteins with the same value go to the same split.
        A protein without the key belongs to the group that bears its id. Needs fractions, here fractions of the groups.
    seed : int, default 42
        The same seed, options and source give the same files, byte for byte.
    records_per_file : int, default 1_000_000
        The most rows of one CSV file.
    force : bool, default False
        Replace `output` if an earlier run of this function made it.

    Returns
    -------
    dict
        What ``provenance.json`` in the folder holds: source and checksum, counts, splits, options, version.

    Raises
    ------
    ProtT5nvError
        An option is out of range, `output` is in the way, the source is unreadable or too small for the split.
    """
    if split is not None:
        if split not in SPLITS:
            raise ProtT5nvError(f"no split named {split!r}; known: {', '.join(SPLITS)}")
        validation, test = SPLITS[split]
    _check_options(max_length, validation, test, group_by, records_per_file)
    output = Path(os.path.abspath(output))
    _check_output(output, force)

    # Siblings, so that renaming is atomic; what a killed run left under these names is of no use.
    partial = output.with_name(output.name + ".partial")
    replaced = output.with_name(output.name + ".replaced")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
        partial.mkdir(parents=True)
        checksum = hashlib.sha256()
        counts, splits = _stream(
            fasta, partial, checksum, max_length, validation, test, group_by, seed, records_per_file
        )
        provenance = {
            "source": Path(source_name(fasta)).name,
            "source_sha256": checksum.hexdigest(),
            **counts,
            "splits": splits,
            "options": {
                "max_length": max_length,
                "validation": validation,
                "test": test,
                "split": split,
                "group_by": group_by,
                "seed": seed,
                "records_per_file": records_per_file,
            },
            "prott5nv_version": __version__,
        }
        _write_provenance(partial / PROVENANCE_FILE, provenance)
        if output.exists() and any(output.iterdir()):
            os.replace(output, replaced)
        os.replace(partial, output)
    except OSError as error:
        raise ProtT5nvError(f"{error.filename or output}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    return provenance


def describe(provenance: dict) -> str:
    """Return the summary that a person reads after `prepare`."""
    dropped = provenance["dropped"]
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
    because = f" ({reasons})" if reasons else ""
    lines = [
        f"{provenance['records_read']:,} proteins read from {provenance['source']}, "
        f"{provenance['records_kept']:,} kept, {sum(dropped.values()):,} dropped{because}",
        f"{'split':6} {'proteins':>12} {'residues':>16}  files",
    ]
    for name, split in provenance["splits"].items():
        files = "x000" if split["files"] == 1 else f"x[000..{split['files'] - 1:03d}]"
        lines.append(f"{name:6} {split['proteins']:12,} {split['residues']:16,}  {name}/{files}.csv")
    return "\n".join(lines)


def _check_options(max_length, validation, test, group_by, records_per_file) -> None:
    for option, value in (("max_length", max_length), ("records_per_file", records_per_file)):
        if value < 1:
            raise ProtT5nvError(f"{option} must be at least 1, not {value}")
    for option, value in (("validation", validation), ("test", test)):
        if value < 0 or (isinstance(value, float) and value >= 1):
            raise ProtT5nvError(f"{option} must be a count (an integer) or a fraction below 1, not {value}")
        if group_by and isinstance(value, int) and value > 0:
            raise ProtT5nvError(
                f"{option}={value} cannot be exact when whole groups are kept together (group_by={group_by}); "
                "give a fraction such as 0.01"
            )
    fractions = sum(size for size in (validation, test) if isinstance(size, float))
    if fractions >= 1:
        raise ProtT5nvError(f"validation and test fractions add up to {fractions:g}; nothing is left for train")
    count = sum(size for size in (validation, test) if isinstance(size, int))
    if count * (max_length + _ROW_OVERHEAD) > _RESERVOIR_BYTES:
        raise ProtT5nvError(
            f"an exact split of {count:,} proteins of up to {max_length} residues would need more than 1 GB of memory; "
            "give a fraction instead of a count"
        )


def _check_output(output: Path, force: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise ProtT5nvError(f"{output}: a file of this name is in the way")
    if not any(output.iterdir()):
        return
    if not force:
        raise ProtT5nvError(f"{output}: the folder is not empty; choose another, or replace it with force (--force)")
    if not (output / PROVENANCE_FILE).is_file():  # a slip such as `-o ~ --force` must not cost a home directory
        raise ProtT5nvError(f"{output}: not made by prepare (it has no {PROVENANCE_FILE}), so it is not replaced")


class _CsvFiles:
    """One split's rows, written to x000.csv, x001.csv, ... in a folder."""

    def __init__(self, folder: Path, records_per_file: int):
        folder.mkdir()
        self.folder = folder
        self.records_per_file = records_per_file
        self.proteins = self.residues = self.files = 0
        self._file = None
        self._room = 0

    def write(self, row: bytes, length: int) -> None:
        if not self._room:
            self.close()
            path = self.folder / f"x{self.files:03d}.csv"
            self._file = open(path, "wb", 1 << 20)  # noqa: SIM115 (open across calls)
            self._file.write(HEADER)
            self.files += 1
            self._room = self.records_per_file
        self._room -= 1
        self.proteins += 1
        self.residues += length
        self._file.write(row)

    def close(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def summary(self) -> dict:
        return {"proteins": self.proteins, "residues": self.residues, "files": self.files}


def _stream(fasta, folder, checksum, max_length, validation, test, group_by, seed, records_per_file):
    """Send every protein of the source to its split; return the counts and the splits' summaries."""
    writers = {
        name: _CsvFiles(folder / name, records_per_file)
        for name, size in (("train", 1), ("val", validation), ("test", test))
        if size
    }
    train = writers["train"]
    validation_fraction = validation if isinstance(validation, float) else 0.0
    held_out_fraction = validation_fraction + (test if isinstance(test, float) else 0.0)
    validation_count = validation if isinstance(validation, int) else 0
    reservoir_size = validation_count + (test if isinstance(test, int) else 0)
    reservoir: list[tuple[bytes, int]] = []
    offered = 0

    generator = random.Random(seed)
    key = b"%d " % seed
    marker = f"{group_by}="
    with_group = 0
    records_read = empty = too_long = illegal = 0
    name = source_name(fasta)
    total = os.path.getsize(fasta) if os.path.isfile(fasta) else None
    with tqdm(total=total, unit="B", unit_scale=True, desc="prepare", disable=None) as progress:

        def on_read(block: memoryview) -> None:
            checksum.update(block)
            progress.update(len(block))

        for record in read_fasta(fasta, allow_empty=True, on_read=on_read):
            number = records_read
            records_read += 1
            length = len(record.sequence)
            if length > max_length:
                too_long += 1
                continue
            if not length:
                empty += 1
                continue
            letters = record.sequence.encode()
            if letters.translate(None, CAPITALS):  # one quick look instead of two for nearly every protein
                letters = letters.upper()
                if not letters.isalpha():
                    illegal += 1
                    continue
            row = b"%d,%b,%d,%b\n" % (number, _quoted(record.id), length, letters)
            if held_out_fraction:
                if group_by:
                    group = _header_value(record.description, marker)
                    with_group += bool(group)
                    draw = _uniform_hash(group or record.id, key)
                else:
                    draw = generator.random()
                if draw < held_out_fraction:
                    writers["val" if draw < validation_fraction else "test"].write(row, length)
                    continue
            if reservoir_size:
                offered += 1
                if len(reservoir) < reservoir_size:
                    reservoir.append((row, length))
                    continue
                place = int(generator.random() * offered)
                if place < reservoir_size:
                    (row, length), reservoir[place] = reservoir[place], (row, length)
            train.write(row, length)

    kept = records_read - empty - too_long - illegal
    if group_by and kept and not with_group:
        raise ProtT5nvError(f"{name}: no header has {marker}...; check group_by (--group-by {group_by})")
    if offered <= reservoir_size and reservoir_size:
        raise ProtT5nvError(
            f"{name}: {kept:,} usable proteins are too few for an exact split of {validation:,} validation and "
            f"{test:,} test proteins with some left for train; give smaller counts or fractions"
        )
    # Places in the reservoir are not random (early proteins sit at the front), membership is.
    generator.shuffle(reservoir)
    for split, rows in (("val", reservoir[:validation_count]), ("test", reservoir[validation_count:])):
        for row, length in sorted(rows, key=lambda entry: int(entry[0].partition(b",")[0])):
            writers[split].write(row, length)
    for split, writer in writers.items():
        writer.close()
        if not writer.proteins:
            raise ProtT5nvError(
                f"{name}: the {split} split came out empty, of {kept:,} usable proteins; "
                "give a count such as 10, or another fraction or seed"
            )
    counts = {
        "records_read": records_read,
        "records_kept": kept,
        "residues_kept": sum(writer.residues for writer in writers.values()),
        "dropped": {
            f"longer than {max_length} residues": too_long,
            "with characters other than letters": illegal,
            "without a sequence": empty,
        },
    }
    return counts, {split: writer.summary() for split, writer in writers.items()}


def _quoted(text: str) -> bytes:
    """Return a CSV field, quoted if it must be."""
    if "," in text or '"' in text:
        text = '"' + text.replace('"', '""') + '"'
    return text.encode()


def _header_value(description: str, marker: str) -> str | None:
    """Return the word after ``key=`` in a header, or None."""
    words = description.partition(" " + marker)[2].split(None, 1)
    return words[0] if words else None


def _uniform_hash(text: str, key: bytes) -> float:
    """Return a number in [0, 1) that depends on the text and the key alone."""
    digest = hashlib.blake2b(key + text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _write_provenance(path: Path, provenance: dict) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(provenance, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
