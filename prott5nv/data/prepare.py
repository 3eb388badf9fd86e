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
import string
from pathlib import Path

from tqdm import tqdm

from prott5nv import __version__
from prott5nv.data import CSV_HEADER
from prott5nv.data.download import download, is_address
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_folder
from prott5nv.io.fasta import read_fasta
from prott5nv.io.record import Record
from prott5nv.io.source import source_name

#: Splits with a name: the number of validation and of test proteins. `card` is the ProtT5nv model card's.
SPLITS = {"card": (4_350, 875_000)}

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
        A FASTA file, gzipped or not; ``-`` for standard input; or the address of one, ``https://...``, which is
        downloaded into the folder that will hold `output`, and stays there.
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

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from prott5nv.data.prepare import describe, prepare
    >>> with TemporaryDirectory() as folder:
    ...     print(describe(prepare("examples/proteins.fasta", folder, validation=4, test=4)))
    36 proteins read from proteins.fasta, 36 kept, 0 dropped
    split      proteins         residues  files
    train            28            4,459  train/x000.csv
    val               4              678  val/x000.csv
    test              4              553  test/x000.csv
    """
    if split is not None:
        if split not in SPLITS:
            raise ProtT5nvError(f"no split named {split!r}; known: {', '.join(SPLITS)}")
        validation, test = SPLITS[split]
    _check_options(max_length, validation, test, group_by, records_per_file)
    output = Path(os.path.abspath(output))
    _check_output(output, force)
    address = release = None
    if is_address(fasta):
        address = str(fasta)
        fasta, release = download(address, output.parent)
    name = source_name(fasta)

    with whole_folder(output, replace=force) as partial:
        checksum = hashlib.sha256()
        splitter = _Splitter(partial, validation, test, group_by, seed, records_per_file)
        counts = _stream(fasta, splitter, checksum, max_length)
        _check_size(name, counts["records_kept"], splitter, validation, test, group_by)
        splitter.finish()
        provenance = {
            "source": Path(name).name,
            "source_sha256": checksum.hexdigest(),
            "source_address": address,
            "release": release,
            **counts,
            "splits": {split: files.summary() for split, files in splitter.files.items()},
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


def _check_size(name: str, kept: int, splitter: _Splitter, validation, test, group_by) -> None:
    if kept and group_by and not splitter.with_group:
        raise ProtT5nvError(f"{name}: no header has {group_by}=...; check group_by (--group-by {group_by})")
    if splitter.offered <= splitter.reservoir_size and splitter.reservoir_size:
        raise ProtT5nvError(
            f"{name}: {kept:,} usable proteins are too few for an exact split of {validation:,} validation and "
            f"{test:,} test proteins with some left for train; give smaller counts or fractions"
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

    def write(self, row: bytes) -> None:
        if not self._room:
            self.close()
            path = self.folder / f"x{self.files:03d}.csv"
            self._file = open(path, "wb", 1 << 20)  # noqa: SIM115 (open across calls)
            self._file.write(CSV_HEADER + b"\n")
            self.files += 1
            self._room = self.records_per_file
        self._room -= 1
        self.proteins += 1
        self.residues += len(row) - row.rindex(b",") - 2  # the last field and a newline
        self._file.write(row)

    def close(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def summary(self) -> dict:
        return {"proteins": self.proteins, "residues": self.residues, "files": self.files}


class _Splitter:
    """Sends each protein to its split, as the module's docstring explains."""

    def __init__(self, folder: Path, validation, test, group_by: str | None, seed: int, records_per_file: int):
        self.files = {
            split: _CsvFiles(folder / split, records_per_file)
            for split, size in (("train", 1), ("val", validation), ("test", test))
            if size
        }
        self.validation_fraction = validation if isinstance(validation, float) else 0.0
        self.held_out_fraction = self.validation_fraction + (test if isinstance(test, float) else 0.0)
        self.validation_count = validation if isinstance(validation, int) else 0
        self.reservoir_size = self.validation_count + (test if isinstance(test, int) else 0)
        self.reservoir: list[bytes] = []
        self.offered = 0
        self.marker = f" {group_by}=" if group_by else None
        self.with_group = 0
        self.key = b"%d " % seed
        self.generator = random.Random(seed)

    def add(self, record: Record, row: bytes) -> None:
        if self.held_out_fraction:
            draw = self._group_draw(record) if self.marker else self.generator.random()
            if draw < self.held_out_fraction:
                self.files["val" if draw < self.validation_fraction else "test"].write(row)
                return
        if self.reservoir_size:
            self.offered += 1
            if self.offered <= self.reservoir_size:
                self.reservoir.append(row)
                return
            place = int(self.generator.random() * self.offered)
            if place < self.reservoir_size:
                row, self.reservoir[place] = self.reservoir[place], row
        self.files["train"].write(row)

    def _group_draw(self, record: Record) -> float:
        """Return a number in [0, 1) that depends on the seed and the group's name alone."""
        words = record.description.partition(self.marker)[2].split(None, 1)
        self.with_group += len(words) > 0
        group = words[0] if words else record.id
        digest = hashlib.blake2b(self.key + group.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    def finish(self) -> None:
        """Empty the reservoir into its splits and close the files; raise if a split has no proteins."""
        # Places in the reservoir are not random (early proteins sit at the front), membership is.
        self.generator.shuffle(self.reservoir)
        count = self.validation_count
        for split, sample in (("val", self.reservoir[:count]), ("test", self.reservoir[count:])):
            for row in sorted(sample, key=lambda row: int(row.partition(b",")[0])):
                self.files[split].write(row)
        for split, files in self.files.items():
            files.close()
            if not files.proteins:
                raise ProtT5nvError(
                    f"the {split} split came out empty; give a count such as 10, or another fraction or seed"
                )


def _stream(fasta, splitter: _Splitter, checksum, max_length: int) -> dict:
    """Send every usable protein of the source to the splitter; return the counts."""
    number = -1
    empty = too_long = illegal = 0
    total = os.path.getsize(fasta) if os.path.isfile(fasta) else None
    with tqdm(total=total, unit="B", unit_scale=True, desc="prepare", disable=None) as progress:

        def on_read(block: memoryview) -> None:
            checksum.update(block)
            progress.update(len(block))

        for number, record in enumerate(read_fasta(fasta, allow_empty=True, on_read=on_read)):
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
            splitter.add(record, b"%d,%b,%d,%b\n" % (number, _quoted(record.id), length, letters))
    return {
        "records_read": number + 1,
        "records_kept": number + 1 - empty - too_long - illegal,
        "dropped": {
            f"longer than {max_length} residues": too_long,
            "with characters other than letters": illegal,
            "without a sequence": empty,
        },
    }


def _quoted(text: str) -> bytes:
    """Return a CSV field, quoted if it must be."""
    if "," in text or '"' in text:
        text = '"' + text.replace('"', '""') + '"'
    return text.encode()


def _write_provenance(path: Path, provenance: dict) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(provenance, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
