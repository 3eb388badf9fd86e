"""Makes training, validation and test CSV files from a FASTA file, in one streaming pass with bounded memory.

The output has the layout of BioNeMo v1: ``train/x000.csv``, ``val/x000.csv``, ``test/x000.csv`` with the columns
``record_id,record_name,sequence_length,sequence``. ``record_id`` is the number of the record in the source, from 0.
Records with the same id are all kept. :mod:`prott5nv.data.splits` divides the proteins.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prott5nv import __version__
from prott5nv.data.download import download, is_address
from prott5nv.data.groups import ClusterTable, Groups, HeaderGroups
from prott5nv.data.splits import EmptySplitError, Splitter
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_folder
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning, clean_records
from prott5nv.io.fasta import read_fasta
from prott5nv.io.source import is_read_once, source_name
from prott5nv.io.text import counted
from prott5nv.io.work_folders import reserved

logger = logging.getLogger(__name__)

#: Named splits: number of validation and of test proteins. `card` is the split of ProtT5nv's model card.
SPLITS = {"card": (4_350, 875_000)}

_DEFAULT_FRACTION = 0.01

_CAPITALS = string.ascii_uppercase.encode()
PROVENANCE_FILE = "provenance.json"

_RESERVOIR_BYTES = 1_000_000_000  # most memory that an exact split may need
_ROW_OVERHEAD = 120  # bytes that a row needs in Python besides its sequence


def prepare(
    fasta: str | os.PathLike,
    output: str | os.PathLike,
    *,
    max_length: int = 512,
    validation: int | float | None = None,
    test: int | float | None = None,
    split: str | None = None,
    group_by: str | None = None,
    groups: str | os.PathLike[str] | None = None,
    seed: int = 42,
    records_per_file: int = 1_000_000,
    cleaning: Cleaning = DEFAULT_CLEANING,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Make training, validation and test CSV files from the proteins in a FASTA file.

    Proteins are left out and counted if they are longer than `max_length`, have no sequence, or have characters other
    than the letters A-Z. Lower-case letters are converted to upper case, and a ``*`` at the end is removed.

    Parameters
    ----------
    fasta : str or PathLike
        A FASTA file, gzipped or not; ``-`` for standard input; or a web address, ``https://...``. A download is kept
        beside `output`.
    output : str or PathLike
        Folder to make. It gets this name only when it is complete.
    max_length : int, default 512
        Maximum number of residues of a protein.
    validation, test : int or float, optional
        An exact number of proteins (int), or an approximate fraction of them (float below 1). 0 leaves the split out.
        The default is 0.01, but at least one protein, which is logged.
    split : {"card"}, optional
        A named split instead of the two sizes: ``card`` has 4,350 validation and 875,000 test proteins.
    group_by : str, optional
        A key in the headers, such as ``c50`` for ``c50=G0SA20``. Proteins with the same value are in the same split. A
        protein without the key belongs to the group that is named like its id. The sizes must be fractions, here of
        the groups.
    groups : str or PathLike, optional
        A table of clusters whose proteins stay together, instead of `group_by`; see
        :class:`prott5nv.data.groups.ClusterTable`. A protein that is in no cluster is an error.
    seed : int, default 42
        The same seed, options and source give bitwise the same files.
    records_per_file : int, default 1_000_000
        Maximum number of rows in a CSV file.
    cleaning : Cleaning
        What to do with gaps and nucleotides; see :mod:`prott5nv.io.cleaning`. Proteins whose gaps are kept are left
        out, because they have characters other than letters.
    overwrite : bool, default False
        Whether to replace `output`, if this function made it.

    Returns
    -------
    dict
        The content of ``provenance.json`` in the folder: source, checksum, counts, splits, options, version.

    Raises
    ------
    ProtT5nvError
        If an option is out of range, `output` exists, the source cannot be read or is too small for the split, or
        another process is writing `output`.

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
    has_defaults = validation is None and test is None
    options: dict[str, Any] = {
        "max_length": max_length,
        "validation": _DEFAULT_FRACTION if validation is None else validation,
        "test": _DEFAULT_FRACTION if test is None else test,
        "split": split,
        "group_by": group_by,
        "groups": groups and Path(source_name(groups)).name,
        "seed": seed,
        "records_per_file": records_per_file,
        "gaps": cleaning.gaps,
        "allow_nucleotides": cleaning.allow_nucleotides,
    }
    _check_options(options)
    output = Path(os.path.abspath(output))
    _check_output(output, overwrite, [fasta, groups])
    if groups and str(groups) == str(fasta):
        raise ProtT5nvError(f"{source_name(groups)}: this is both the input and the table of clusters")
    address = release = md5 = None
    if is_address(fasta):
        address = str(fasta)
        fasta, release, md5 = download(address, output.parent)
    table = ClusterTable(groups) if groups else None
    grouping = table or (HeaderGroups(group_by) if group_by else None)
    with reserved(output), whole_folder(output, replace=overwrite) as folder:
        try:
            splits = _write_splits(fasta, folder, options, grouping, cleaning)
        except EmptySplitError:
            if not has_defaults or grouping or is_read_once(fasta):
                raise
            logger.info("one percent of these proteins is less than one: validation and test set get one protein each")
            for name in ("train", "val", "test"):
                shutil.rmtree(folder / name)
            options |= {"validation": 1, "test": 1}
            splits = _write_splits(fasta, folder, options, None, cleaning)
        provenance = {
            "source": Path(source_name(fasta)).name,
            "source_sha256": splits.pop("source_sha256"),
            "source_address": address,
            "groups_sha256": table and table.sha256,
            "release": release,
            "publisher_md5": md5,
            **splits,
            "prott5nv_version": __version__,
        }
        _write_provenance(folder / PROVENANCE_FILE, provenance)
    return provenance


def describe(provenance: dict[str, Any]) -> str:
    """Return a summary in a few lines.

    Parameters
    ----------
    provenance : dict
        As :func:`prepare` returns it.

    Returns
    -------
    str
    """
    dropped = provenance["dropped"]
    reasons = _reasons(dropped)
    because = f" ({reasons})" if reasons else ""
    lines = [
        f"{counted(provenance['records_read'], 'protein')} read from {provenance['source']}, "
        f"{provenance['records_kept']:,} kept, {sum(dropped.values()):,} dropped{because}",
        f"{'split':6} {'proteins':>12} {'residues':>16}  files",
    ]
    for name, split in provenance["splits"].items():
        files = "x000" if split["files"] == 1 else f"x[000..{split['files'] - 1:03d}]"
        lines.append(f"{name:6} {split['proteins']:12,} {split['residues']:16,}  {name}/{files}.csv")
    return "\n".join(lines)


def _reasons(dropped: dict[str, int]) -> str:
    """Return how many proteins were left out for each reason."""
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)


def _write_splits(
    fasta: str | os.PathLike, folder: Path, options: dict[str, Any], groups: Groups | None, cleaning: Cleaning
) -> dict[str, Any]:
    """Write the CSV files, and return the part of the provenance that describes them."""
    checksum = hashlib.sha256()
    names = ("validation", "test", "seed", "records_per_file")
    splitter = Splitter(folder, groups=groups, **{name: options[name] for name in names})
    counts = _stream(fasta, splitter, checksum, options["max_length"], cleaning)
    if groups:
        groups.check(source_name(fasta))
    _check_size(source_name(fasta), counts, splitter, options)
    splitter.finish()
    return {
        "source_sha256": checksum.hexdigest(),
        **counts,
        "splits": {split: files.summary() for split, files in splitter.files.items()},
        "options": options,
    }


def _check_options(options: dict[str, Any]) -> None:
    for name in ("max_length", "records_per_file"):
        if options[name] < 1:
            raise ProtT5nvError(f"{name} must be at least 1, not {options[name]}")
    if options["group_by"] and options["groups"]:
        raise ProtT5nvError("give either group_by or groups (--group-by or --groups), not both")
    grouping = next((f"{name}={options[name]}" for name in ("group_by", "groups") if options[name]), None)
    sizes = [options["validation"], options["test"]]
    for name, size in zip(("validation", "test"), sizes, strict=True):
        if size < 0 or (isinstance(size, float) and size >= 1):
            raise ProtT5nvError(f"{name} must be a count (an integer) or a fraction below 1, not {size}")
        if grouping and isinstance(size, int) and size > 0:
            raise ProtT5nvError(
                f"{name}={size} cannot be exact when whole groups are kept together ({grouping}); "
                "give a fraction such as 0.01"
            )
    fraction = sum(size for size in sizes if isinstance(size, float))
    if fraction >= 1:
        raise ProtT5nvError(f"validation and test fractions add up to {fraction:g}, which leaves nothing for training")
    count = sum(size for size in sizes if isinstance(size, int))
    if count * (options["max_length"] + _ROW_OVERHEAD) > _RESERVOIR_BYTES:
        raise ProtT5nvError(
            f"an exact split of {count:,} proteins of up to {options['max_length']} residues would need more than 1 GB "
            "of memory; give a fraction instead of a count"
        )


def _check_size(name: str, counts: dict[str, Any], splitter: Splitter, options: dict[str, Any]) -> None:
    num_kept = counts["records_kept"]
    if not num_kept:
        raise ProtT5nvError(f"{name}: no protein can be used: {_reasons(counts['dropped'])}")
    if splitter.num_offered <= splitter.reservoir_size and splitter.reservoir_size:
        dropped = f" (not usable: {_reasons(counts['dropped'])})" if any(counts["dropped"].values()) else ""
        raise ProtT5nvError(
            f"{name}: {num_kept:,} usable proteins are too few for an exact split of {options['validation']:,} "
            f"validation and {options['test']:,} test proteins that leaves some for training; give smaller counts or "
            f"fractions{dropped}"
        )


def _check_output(output: Path, overwrite: bool, sources: Iterable[str | os.PathLike | None]) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise ProtT5nvError(f"{output}: there is a file of this name")
    if not any(output.iterdir()):
        return
    if not overwrite:
        raise ProtT5nvError(f"{output}: the folder is not empty; choose another name, or replace it with --overwrite")
    for source in sources:
        if source and os.path.exists(source) and Path(source).resolve().is_relative_to(output.resolve()):
            raise ProtT5nvError(
                f"{source}: this input is inside the folder to replace, {output}; choose another output"
            )
    if not (output / PROVENANCE_FILE).is_file():  # `-o ~ --overwrite` must not delete a home directory
        raise ProtT5nvError(f"{output}: not made by prepare (it has no {PROVENANCE_FILE}), so it is not replaced")
    if others := {path.name for path in output.iterdir()} - {"train", "val", "test", PROVENANCE_FILE}:
        raise ProtT5nvError(f"{output / min(others)}: not made by prepare; move it, or choose another output")


def _stream(
    fasta: str | os.PathLike, splitter: Splitter, checksum: hashlib._Hash, max_length: int, cleaning: Cleaning
) -> dict[str, Any]:
    """Pass every usable protein of the source to the splitter, and return the counts."""
    number = -1
    empty = too_long = illegal = 0
    total = os.path.getsize(fasta) if os.path.isfile(fasta) else None
    with tqdm(total=total, unit="B", unit_scale=True, desc="prepare", disable=None) as progress:

        def on_read(block: memoryview) -> None:
            checksum.update(block)
            progress.update(len(block))

        name = source_name(fasta)
        records = clean_records(read_fasta(fasta, allow_empty=True, on_read=on_read), name, cleaning)
        for number, (record, fault) in enumerate(records):
            if fault and record.sequence:
                raise ProtT5nvError(f"{name}: line {record.line}: {record.id}: {fault}")
            length = len(record.sequence)
            if length > max_length:
                too_long += 1
                continue
            if not length:
                empty += 1
                continue
            letters = record.sequence.encode()
            if letters.translate(None, _CAPITALS):  # for nearly every protein, this one test is enough
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
    """Return a CSV field, quoted if necessary."""
    if "," in text or '"' in text:
        text = '"' + text.replace('"', '""') + '"'
    return text.encode()


def _write_provenance(path: Path, provenance: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(provenance, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
