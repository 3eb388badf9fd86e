"""A file of proteins in, a file of embeddings out: checked first, resumable, in input order."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from prott5nv import __version__
from prott5nv.errors import ProtT5nvError
from prott5nv.inference import ProtT5nvInference, model_file
from prott5nv.io.journal import InputDigest, Journal, fingerprint_of, partial_folder
from prott5nv.io.keys import Holder, KeyRegister
from prott5nv.io.output import check_suffix, read_attributes, workers_folder
from prott5nv.io.records import Record, accession, read_records
from prott5nv.io.source import source_name
from prott5nv.pieces import LongProteins
from prott5nv.tokenizer import ProteinTokenizer

LAYER = "encoder.final_layernorm"


class Checked(NamedTuple):
    """A record, the key of its dataset, and what is wrong with it."""

    record: Record
    key: str
    error: ProtT5nvError | None


@dataclass
class Survey:
    """What one pass over the input says before anything is computed.

    Attributes
    ----------
    proteins, residues : int
        To be embedded.
    long : LongProteins
    skipped : int
        Records that cannot be embedded.
    extent : int
        Letters of all records and one more for each, so that those without a letter have a place, too.
    digest : InputDigest
    """

    proteins: int = 0
    residues: int = 0
    long: LongProteins = field(default_factory=LongProteins)
    skipped: int = 0
    extent: int = 0
    digest: InputDigest = field(default_factory=InputDigest)


@dataclass
class Summary:
    """What became of a run.

    Attributes
    ----------
    proteins, residues : int
        In the output.
    resumed : int
        Records that an interrupted run had done.
    skipped : int
        Records that were left out.
    complete_already : bool
        The output was there, of the same input and settings; nothing was computed.
    """

    proteins: int
    residues: int
    resumed: int = 0
    skipped: int = 0
    complete_already: bool = False


def embed_file(
    source: str | os.PathLike,
    output: str | os.PathLike,
    model: ProtT5nvInference,
    *,
    model_path: str | os.PathLike | None = None,
    pooling: str | None = None,
    long: str = "truncate",
    dtype: str = "float32",
    skip_errors: bool = False,
    shard: tuple[int, int] | None = None,
    id_column: str | None = None,
    sequence_column: str | None = None,
    on_survey: Callable[[Survey], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Summary:
    """Embed a file of proteins into a file of embeddings; run again after a kill, it goes on where it stopped.

    Parameters
    ----------
    source : str or PathLike
        The input, gzipped or not; ``-`` for standard input.
    output : str or PathLike
        HDF5 with one dataset per accession, ``sp|P69905|HBA_HUMAN`` being ``P69905``; for pooled vectors also NumPy's
        ``.npz`` or ``.parquet`` (see `prott5nv.io.output`).
        Until it is complete, work is kept beside it in ``<output>.partial/``.
    model : ProtT5nvInference
    model_path : str or PathLike, optional
        The file that `model` was loaded from; by default that of the built-in model. Its checksum goes into the output.
    pooling, long
        As for :meth:`ProtT5nvInference.embed`.
    dtype : str
        ``float32`` or ``float16``, of the numbers on disk.
    skip_errors : bool
        Leave proteins out that cannot be embedded, and list them; by default the first one ends the run.
    shard : tuple of int, optional
        ``(2, 4)`` for the second of four stretches of about as many residues; see :func:`prott5nv.io.merge.merge`.
    id_column, sequence_column : str, optional
        Of a table; see :func:`prott5nv.io.records.read_records`.
    on_survey : callable, optional
        Told what the input holds before the work begins; not for standard input, which can be read only once.
    on_progress : callable, optional
        Told how many residues were done.

    Returns
    -------
    Summary

    Raises
    ------
    ProtT5nvError
        If a record cannot be embedded or has no key of its own, naming file, line and id; if the output holds something
        else already, or an unfinished run of other settings.
    OSError
        If the disk is full; run again when there is room.
    """
    output = Path(output)
    check_suffix(output, pooling)
    limit = model.config.max_position_embeddings
    settings = {
        "model_sha256": file_sha256(model_file(model_path)),
        "layer": LAYER,
        "pooling": pooling or "none",
        "dtype": dtype,
        "precision": model.hardware.precision,
        "long": long,
        "prott5nv_version": __version__,
    }

    def checked() -> Iterator[Checked]:
        # What is wrong with a record is found below, where it can be skipped.
        allowed = {"allow_empty": True, "allow_non_ascii": True}
        records = read_records(source, id_column=id_column, sequence_column=sequence_column, **allowed)
        for item in check(records, source_name(source), limit if long in ("error", "skip") else None):
            unwanted = long == "skip" and len(item.record.sequence) > limit
            if item.error and not skip_errors and not unwanted:
                raise item.error
            yield item

    def residues_of(record: Record) -> int:
        length = len(record.sequence)
        return length if long == "window" else min(length, limit)

    def survey(items: Iterator[Checked]) -> Survey:
        found = Survey()
        for record, _, error in items:
            found.digest.add(record)
            found.extent += _extent(record)
            if error:
                found.skipped += 1
                continue
            found.proteins += 1
            found.residues += residues_of(record)
            if len(record.sequence) > limit:
                found.long.add(record.id, len(record.sequence))
        return found

    items = checked
    about_shard: dict[str, str] = {}
    mine = fingerprint = None  # of standard input: known at the end
    if str(source) == "-":
        if output.exists():
            raise ProtT5nvError(f"{output} exists: delete it or choose another name")
        if shard:
            raise ProtT5nvError("standard input cannot be cut into shards, which takes a second reading: give a file")
    else:
        whole = mine = survey(checked())
        fingerprint = fingerprint_of(settings, whole.digest)
        if shard:
            about_shard = {"shard": f"{shard[0]}/{shard[1]}"}

            def items() -> Iterator[Checked]:
                return _stretch(checked(), shard, whole.extent)

            mine = survey(items())
        if output.exists():
            _check_complete(output, {**settings, **about_shard}, fingerprint)
            return Summary(mine.proteins, mine.residues, skipped=mine.skipped, complete_already=True)
        if on_survey:
            on_survey(mine)

    journal = Journal(output, settings, model.config.hidden_size)
    try:
        resumed = journal.records
        remaining = items()
        journal.resume(item.record for item in remaining)
        if on_progress:
            on_progress(journal.residues)
        for (record, key, error), rows in _embedded(remaining, source_name(source), model, pooling, long, skip_errors):
            if rows is None:
                journal.skip(record, str(error))
            else:
                journal.add(record, key, rows, residues_of(record))
                if on_progress:
                    on_progress(residues_of(record))
        if mine and journal.digest != mine.digest.hex():
            raise ProtT5nvError(f"{source} was changed while it was read: delete {journal.folder} and start anew")
        journal.finish(fingerprint, **about_shard)
    finally:
        journal.close()
    return Summary(journal.proteins, journal.residues, resumed, journal.skipped)


def check(records: Iterator[Record], source: str, limit: int | None = None) -> Iterator[Checked]:
    """Find each record's key, and what would keep it from being embedded.

    Parameters
    ----------
    records : iterator of Record
    source : str
        What messages call the input.
    limit : int, optional
        Length above which a record is an error.

    Yields
    ------
    Checked
        In order, with an error for: an id that HDF5 cannot take as a name, an id or accession that came before,
        no residues, letters that are no residues, too many residues.
    """
    tokenizer = ProteinTokenizer()
    register = KeyRegister()
    for record in records:
        key = accession(record.id)
        reason = _fault(record, key, limit, tokenizer) or _conflict(record, key, register)
        yield Checked(record, key, reason and ProtT5nvError(f"{source}: line {record.line}: {record.id}: {reason}"))


def file_sha256(path: Path) -> str:
    """Checksum of a file."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ProtT5nvError(f"{path}: {error.strerror}") from None
    return digest.hexdigest()


def _fault(record: Record, key: str, limit: int | None, tokenizer: ProteinTokenizer) -> str | None:
    """What is wrong with a record by itself."""
    if "/" in key or key == ".":
        return "HDF5 cannot take this id as a name; rename it, with '_' in place of '/'"
    if not record.sequence:
        return "there is no sequence"
    if limit and len(record.sequence) > limit:
        return f"{len(record.sequence)} residues, and the model sees at most {limit}; choose --long window or truncate"
    try:
        tokenizer.encode_batch([record.sequence], [""])
    except ProtT5nvError as error:
        return str(error).partition(", ")[2]
    return None


def _conflict(record: Record, key: str, register: KeyRegister) -> str | None:
    """Which earlier record has the same key; otherwise the key is this one's from now on."""
    first = register.claim(key, Holder(record.id, record.line))
    if first is None:
        return None
    if first.id == record.id:
        return f"this id stands on line {first.line} already; give each protein an id of its own"
    return f"its accession {key} is also that of {first.id} on line {first.line}; give one of them another id"


def _embedded(items: Iterator[Checked], source: str, model, pooling, long, skip_errors):
    """Pairs of item and rows, in input order; what cannot be embedded keeps its place, with None and its error."""
    waiting: deque[Checked] = deque()
    failures: dict[str, ProtT5nvError] = {}

    def sound() -> Iterator[Record]:
        for item in items:
            waiting.append(item)
            if item.error is None:
                yield item.record

    def note(record: Record, error: ProtT5nvError) -> None:
        error = ProtT5nvError(f"{source}: line {record.line}: {error}")
        if not skip_errors:
            raise error
        failures[record.id] = error

    for record, rows in model.embed(sound(), pooling=pooling, long=long, on_error=note):
        while waiting[0].record is not record:
            yield waiting.popleft(), None
        item = waiting.popleft()
        if rows is None:
            item = item._replace(error=failures.pop(record.id))
        yield item, rows
    for item in waiting:
        yield item, None


def _stretch(items: Iterator[Checked], shard: tuple[int, int], extent: int) -> Iterator[Checked]:
    """The records that begin within a shard's share of the input: shards follow one another in input order."""
    index, count = shard
    first, end = extent * (index - 1) // count, extent * index // count
    start = 0
    for item in items:
        if first <= start < end:
            yield item
        start += _extent(item.record)


def _extent(record: Record) -> int:
    return len(record.sequence) + 1


def _check_complete(output: Path, expected: dict[str, str], fingerprint: str) -> None:
    found = read_attributes(output)
    differing = [
        f"{name}={found.get(name)}, not {value}" for name, value in expected.items() if found.get(name) != value
    ]
    if not differing and found.get("fingerprint") != fingerprint:
        differing = ["of another input"]
    if differing:
        raise ProtT5nvError(
            f"{output} exists and holds other embeddings ({'; '.join(differing)}): delete it or choose another name"
        )
    # A run killed between giving the output its name and tidying up leaves these behind.
    for folder in partial_folder(output), workers_folder(output):
        shutil.rmtree(folder, ignore_errors=True)
