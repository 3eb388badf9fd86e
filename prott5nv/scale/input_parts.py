"""The input of a run on Ray: checked, cut into shards by residues, and kept as one Parquet file for each shard."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from prott5nv.embedding.commits import InputDigest
from prott5nv.embedding.survey import CheckedProteins, Survey
from prott5nv.io.inputs import Input, parts
from prott5nv.io.parquet import open_parquet, pyarrow_parquet
from prott5nv.io.record import Record

_GZIP_RATIO = 2
_LEAST_RESIDUES, _MOST_RESIDUES = 1 << 14, 1 << 23
_MOST_BYTES = 1 << 30  # of a shard
_SHARDS_PER_ACTOR = 16


class PartRow(NamedTuple):
    """A record of a shard.

    Attributes
    ----------
    position : int
        Number of the record in the whole input, counted from 0.
    id, sequence, line, source
        See :class:`prott5nv.io.record.Record`.
    key : str
        Name under which the embedding is stored.
    residues : int
        Number of residues to embed.
    error : str
        Why the record cannot be embedded; empty if it can.
    """

    position: int
    id: str
    sequence: str
    line: int
    source: str
    key: str
    residues: int
    error: str

    @property
    def record(self) -> Record:
        """The record as the reader gave it, without the rest of its header."""
        return Record(self.id, self.sequence, self.id, self.line, self.source)


class Cut(NamedTuple):
    """The result of cutting an input.

    Attributes
    ----------
    survey : Survey
        Counts of the input.
    shards : int
        Number of shards.
    """

    survey: Survey
    shards: int


def residues_per_shard(source: Input, actors: int, bytes_per_residue: int) -> int:
    """Choose the size of a shard, so that all actors have work and the memory and time of a shard are limited.

    Parameters
    ----------
    source : str, PathLike or InputFiles
        The input. Its number of residues is estimated from the size of the files.
    actors : int
        Number of actors that work at the same time.
    bytes_per_residue : int
        Size of the stored embedding of a residue; 0 for pooled vectors.

    Returns
    -------
    int

    Examples
    --------
    >>> residues_per_shard("examples/proteins.fasta", 2, 0), residues_per_shard("examples/proteins.fasta", 2, 2048)
    (16384, 16384)
    """
    residues = 0
    for path in parts(source):
        with open(path, "rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        residues += os.path.getsize(path) * (_GZIP_RATIO if is_gzip else 1)
    most = min(_MOST_RESIDUES, _MOST_BYTES // bytes_per_residue) if bytes_per_residue else _MOST_RESIDUES
    return min(most, max(_LEAST_RESIDUES, residues // (_SHARDS_PER_ACTOR * actors)))


def cut(
    proteins: CheckedProteins, residues: int, path_of: Callable[[int], Path], is_done: Callable[[int], bool]
) -> Cut:
    """Read the input once, check and count it, and write the records of each shard to a file.

    Parameters
    ----------
    proteins : CheckedProteins
        The input.
    residues : int
        Number of residues from which a shard is complete.
    path_of : callable
        Returns the file of a shard, whose number is counted from 0.
    is_done : callable
        Returns whether a shard is finished, so that its records are not needed.

    Returns
    -------
    Cut

    Raises
    ------
    ProtT5nvError
        At the first record that cannot be embedded, unless errors are skipped.
    """
    survey, digest = Survey(), InputDigest()
    rows: list[PartRow] = []
    size = number = 0

    def finish() -> None:
        if not is_done(number):
            _write(path_of(number), rows)
        rows.clear()

    for position, checked in enumerate(proteins.counted(survey)):
        record = checked.record
        digest.add(record)
        embedded = 0 if checked.error else proteins.residues(record)
        rows.append(
            PartRow(
                position, record.id, record.sequence, record.line, record.source, checked.key, embedded,
                str(checked.error or ""),
            )
        )  # fmt: skip
        size += len(record.sequence) + 1
        if size >= residues:
            finish()
            size, number = 0, number + 1
    if rows:
        finish()
        number += 1
    survey.digest = digest.hex()
    return Cut(survey, number)


def read_part(path: Path) -> list[PartRow]:
    """Return the records of a shard."""
    with open_parquet(path) as file:
        return [PartRow(**row) for row in file.read().to_pylist()]


def _write(path: Path, rows: list[PartRow]) -> None:
    parquet = pyarrow_parquet()
    import pyarrow

    columns = dict(zip(PartRow._fields, zip(*rows, strict=True), strict=True))
    with open(path, "wb") as file:  # pyarrow itself opens no path that is not UTF-8
        parquet.write_table(pyarrow.table({name: list(values) for name, values in columns.items()}), file)
