"""The class whose actors embed shards: each call reads the proteins of a shard and writes one Parquet file.

Shapes: L residues of a protein, D hidden size.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prott5nv.embedding.commits import Skipped
from prott5nv.embedding.embedder import Embedder, LongProteinWarning
from prott5nv.embedding.job import output_settings
from prott5nv.embedding.pooled_files import parquet_fields
from prott5nv.embedding.run import Request
from prott5nv.embedding.shard_folder import Shard, shard_name
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file
from prott5nv.io.checksum import file_checksum
from prott5nv.io.inputs import input_name
from prott5nv.io.parquet import pyarrow_parquet
from prott5nv.io.record import Record, location
from prott5nv.model.tokenizer import ResidueTokenizer
from prott5nv.scale.assignment import assigned_embedder
from prott5nv.scale.input_parts import PartRow, read_part
from prott5nv.scale.run_folder import Done, RunFolder

_MOST_ATTEMPTS = 5  # to embed one shard
_ROW_GROUP_BYTES = 1 << 26
_ROW_GROUP_PROTEINS = 1000


class LoadedModel(NamedTuple):
    """What the driver must know of the model that the actors load.

    Attributes
    ----------
    name, label : str
        See :class:`prott5nv.Embedder`.
    hardware : str
        Description of device and precision.
    settings : dict
        Everything except the input that determines the embeddings.
    limit : int or None
        Number of residues that are computed at once.
    hidden_size : int
    tokenizer : ResidueTokenizer
    """

    name: str
    label: str
    hardware: str
    settings: dict[str, str]
    limit: int | None
    hidden_size: int
    tokenizer: ResidueTokenizer


@dataclass(frozen=True)
class ShardJob:
    """What an actor must know.

    Attributes
    ----------
    request : Request
        Model and options. The output is an absolute path.
    settings : dict
        Settings of the run. An actor with other settings, for example on a node with other hardware, is an error.
    attributes : dict
        Attributes of the embeddings.
    """

    request: Request
    settings: dict[str, str]
    attributes: dict[str, str]


def load(request: Request) -> Embedder:
    """Load the model of a request on the device that Ray has assigned to this process."""
    return assigned_embedder(request.model, **request.model_options)


def describe(request: Request) -> LoadedModel:
    """Load the model of a request, and return what the driver must know of it."""
    embedder = load(request)
    return LoadedModel(
        embedder.name,
        embedder.label,
        f"{embedder.hardware}; batches of up to {embedder.max_tokens} residues",
        settings_of(embedder, request),
        embedder.limit,
        embedder.config.hidden_size,
        embedder.tokenizer,
    )


def settings_of(embedder: Embedder, request: Request) -> dict[str, str]:
    """Return everything except the input that determines the embeddings of a request."""
    return output_settings(embedder, request.pooling, request.dtype, request.long, request.key)


class EmbedShards:
    """Embeds shards of an input; a class for ``Dataset.map_batches`` of a dataset with the column ``shard``.

    Parameters
    ----------
    job : ShardJob

    Raises
    ------
    ProtT5nvError
        If the model cannot be loaded, or its settings on this node are not those of the run.
    """

    def __init__(self, job: ShardJob) -> None:
        warnings.simplefilter("ignore", LongProteinWarning)  # The driver has counted long proteins.
        self._job, self._request = job, job.request
        self._folder = RunFolder(job.request.output)
        if not self._folder.shards.is_dir():
            raise ProtT5nvError(f"{self._folder.shards}: this node does not see the folder; all nodes must share it")
        self._embedder = load(job.request)
        for name, value in settings_of(self._embedder, job.request).items():
            if (expected := job.settings.get(name)) != value:
                raise ProtT5nvError(
                    f"this node has {name}={value}, not {expected} as the run: give --precision, and the same model "
                    "and package on all nodes"
                )

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Embed the shards of a batch.

        Parameters
        ----------
        batch : dict
            Its column ``shard`` holds numbers of shards.

        Returns
        -------
        dict of list
            For each shard its number, the number of residues that were embedded, and an error that the user can
            correct; the error is empty if there is none.
        """
        results: dict[str, list[Any]] = {"shard": [], "residues": [], "error": []}
        for number in batch["shard"].tolist():
            residues, error = 0, ""
            try:
                residues = self._finish(number).residues
            except ProtT5nvError as problem:
                error = str(problem)
            except OSError as problem:
                error = f"{self._request.output}: {problem.strerror or problem}"
            for name, value in zip(results, (number, residues, error), strict=True):
                results[name].append(value)
        return results

    def _finish(self, number: int) -> Shard:
        """Embed a shard. One that this actor or another has finished is not embedded again."""
        if self._folder.is_done(number):
            return self._folder.read_done(number).shard
        rows = read_part(self._folder.input(number))
        if self._folder.attempts(number) > _MOST_ATTEMPTS:
            raise ProtT5nvError(
                f"{_MOST_ATTEMPTS} processes died while they embedded records {rows[0].position + 1:,} to "
                f"{rows[-1].position + 1:,} of the input: they may need more memory than the nodes have"
            )
        path = self._folder.shard(number)
        skipped: list[Skipped] = []
        with whole_file(path) as temporary:
            proteins, residues = self._write(temporary, self._embedded(rows, skipped))
        with open(path, "rb") as file:
            checksum = file_checksum(file)
        shard = Shard(
            shard_name(number),
            rows[0].position,
            len(rows),
            proteins,
            residues,
            len(skipped),
            path.stat().st_size,
            checksum,
        )
        self._folder.write_done(number, Done(shard, skipped))
        return shard

    def _write(self, path: Path, embedded: Iterator[tuple[PartRow, np.ndarray]]) -> tuple[int, int]:
        """Write the embeddings of a shard; return the numbers of its proteins and residues."""
        parquet = pyarrow_parquet()
        import pyarrow

        fields = parquet_fields(self._job.settings["pooling"], self._request.dtype, self._embedder.config.hidden_size)
        schema = pyarrow.schema([pyarrow.field("index", pyarrow.int64()), *fields], self._job.attributes)
        proteins = residues = 0
        # Neither compression nor a dictionary makes floating-point numbers smaller.
        with (
            open(path, "wb") as file,  # pyarrow itself opens no path that is not UTF-8
            parquet.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer,
        ):
            for group in _grouped(embedded):
                writer.write_table(_table(group, schema))
                proteins += len(group)
                residues += sum(row.residues for row, _ in group)
        return proteins, residues

    def _embedded(self, rows: list[PartRow], skipped: list[Skipped]) -> Iterator[tuple[PartRow, np.ndarray]]:
        """Yield the records of a shard with their embeddings in order, and note those that are skipped."""
        errors = {row.position: row.error for row in rows if row.error}
        records = [(row, row.record) for row in rows if not row.error]

        def note(record: Record, error: ProtT5nvError) -> None:
            failure = f"{location(record, input_name(self._request.source))}: {error}"
            if not self._request.skip_errors:
                raise ProtT5nvError(failure)
            failures[id(record)] = failure

        failures: dict[int, str] = {}
        embedded = self._embedder.embed(
            (record for _, record in records),
            pooling=self._request.pooling,
            long=self._request.long,
            dtype=self._request.dtype,
            cleaning=None,  # the records are clean
            on_error=note,
        )
        for (row, _), (record, embedding) in zip(records, embedded, strict=True):
            if embedding is None:
                errors[row.position] = failures[id(record)]
            else:
                yield row, embedding
        skipped += [Skipped(row.line, row.id, errors[row.position]) for row in rows if row.position in errors]


def _grouped(proteins: Iterator[tuple[PartRow, np.ndarray]]) -> Iterator[list[tuple[PartRow, np.ndarray]]]:
    """Cut proteins into groups of limited size."""
    group: list[tuple[PartRow, np.ndarray]] = []
    size = 0
    for row, embedding in proteins:
        group.append((row, embedding))
        size += embedding.nbytes
        if len(group) == _ROW_GROUP_PROTEINS or size >= _ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _table(group: list[tuple[PartRow, np.ndarray]], schema: Any) -> Any:
    """Return a ``pyarrow.Table`` of proteins."""
    import pyarrow

    lengths = [len(row.sequence) for row, _ in group]
    columns: dict[str, Any] = {
        "index": [row.position for row, _ in group],
        "accession": [row.key for row, _ in group],
        "original_id": [row.id for row, _ in group],
        "truncated_from": [
            length if row.residues < length else None for (row, _), length in zip(group, lengths, strict=True)
        ],
        "residues": [row.residues for row, _ in group],
    }
    arrays = [pyarrow.array(columns[field.name], field.type) for field in schema if field.name in columns]
    embeddings = [embedding for _, embedding in group]
    kind = schema.field("embedding").type
    if pyarrow.types.is_binary(kind):
        arrays.append(pyarrow.array([embedding.tobytes() for embedding in embeddings], kind))
    else:
        arrays.append(pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.concatenate(embeddings)), kind.list_size))
    return pyarrow.Table.from_arrays(arrays, schema=schema)
