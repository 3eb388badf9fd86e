"""Embedding of a whole file: the input is checked first, an interrupted run resumes, and the input order is kept."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from time import monotonic

import numpy as np

from prott5nv import __version__
from prott5nv.embedding.embedder import Embedder, check_options
from prott5nv.embedding.formats import check_suffix, read_attributes, workers_folder
from prott5nv.embedding.journal import Journal, fingerprint_of
from prott5nv.embedding.keys import KEYS
from prott5nv.embedding.models import Model, as_embedder
from prott5nv.embedding.partial import OF_WORKERS, discard, partial_folder
from prott5nv.embedding.run import check_shard
from prott5nv.embedding.survey import CheckedProteins, CheckedRecord, Survey
from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.io.inputs import Input, parts, reads_once
from prott5nv.io.output import check_outputs, reserved_outputs
from prott5nv.io.record import Record, location

# Faulty records wait in memory until the batch before them is embedded.
_MOST_FAULTY_WAITING = 1000

# A shorter wait for the disk is not worth a hint.
_SECONDS_WORTH_SAVING = 10.0

LAYER = "encoder.final_layernorm"


@dataclass
class Summary:
    """The result of a run.

    Attributes
    ----------
    proteins : int
        Number of proteins in the output.
    residues : int
        Number of residues that were embedded.
    resumed : int
        Number of records that an interrupted run had finished.
    skipped : int
        Number of records that were skipped.
    complete_already : bool
        True if the output already existed with the same input and settings, so that nothing was computed.
    seconds, seconds_writing : float
        Duration of the run, and how much of it was spent on waiting for rows to be written. Several workers add up.
    """

    proteins: int
    residues: int
    resumed: int = 0
    skipped: int = 0
    complete_already: bool = False
    seconds: float = field(default=0.0, repr=False, compare=False)
    seconds_writing: float = field(default=0.0, repr=False, compare=False)

    @property
    def limited_by_writing(self) -> bool:
        """Whether the run spent more than half of its time, and not just a few seconds, on waiting for the disk."""
        return self.seconds_writing > max(_SECONDS_WORTH_SAVING, self.seconds / 2)


def embed_file(
    source: Input,
    output: str | os.PathLike[str],
    model: Model,
    *,
    pooling: str | None = None,
    long: str = "truncate",
    dtype: str = "float32",
    skip_errors: bool = False,
    shard: tuple[int, int] | None = None,
    id_column: str | None = None,
    sequence_column: str | None = None,
    cleaning: Cleaning = DEFAULT_CLEANING,
    key: str = "accession",
    overwrite: bool = False,
    on_survey: Callable[[Survey], None] = lambda survey: None,
    on_progress: Callable[[int], None] = lambda residues: None,
) -> Summary:
    """Embed a file of proteins into a file of embeddings. After a kill, the same call continues where it stopped.

    Parameters
    ----------
    source : str, PathLike or InputFiles
        FASTA, CSV, TSV or Parquet, gzipped or not; a pipe; ``-`` for standard input; or several of these, from
        :func:`prott5nv.io.inputs.input_files`.
    output : str or PathLike
        HDF5 with one dataset per accession, such as ``P69905`` for ``sp|P69905|HBA_HUMAN``. Pooled vectors can also be
        written as ``.npz`` or ``.parquet``; see `prott5nv.embedding.formats`. Until the output is complete, finished
        proteins are kept beside it in ``<output>.partial/``.
    model : str, Path, ProtT5, T5Encoder, Embedder or ProtT5nvInference
        The model. The output stores its checksum.
    pooling, long
        See :meth:`prott5nv.Embedder.embed`.
    dtype : str
        Data type of the stored embeddings: ``float32`` or ``float16``. A protein with a number that is too large for
        float16 cannot be embedded.
    skip_errors : bool
        Whether to skip proteins that cannot be embedded and list them in ``<output>.skipped.tsv``. By default the first
        one ends the run.
    shard : tuple of int, optional
        ``(2, 4)`` embeds the second of four shards with about the same number of residues. Join the shards with
        :func:`prott5nv.embedding.merge.merge`.
    id_column, sequence_column : str, optional
        Columns of a table; see :func:`prott5nv.io.reader.read_records`.
    cleaning : Cleaning
        What to do with gaps and nucleotides; see :mod:`prott5nv.io.cleaning`.
    key : str
        Name of each dataset: ``accession``; ``safe`` for the accession with ``_`` in place of ``/``, which HDF5 does
        not allow; or ``biotrainer`` for biotrainer's hash of the sequence.
    overwrite : bool, default False
        Whether to compute an existing output again and replace it. By default an output of the same input and settings
        is complete and stays as it is, and any other is an error.
    on_survey : callable, optional
        Called with the counts of the input before any protein is embedded. For standard input or a pipe, which can be
        read only once, it is called after that. It is not called if the output already exists.
    on_progress : callable, optional
        Called with the number of residues finished since the last call. The first call gives the residues that an
        interrupted run had finished.

    Returns
    -------
    Summary

    Raises
    ------
    ProtT5nvError
        If a record cannot be embedded or its key is not unique, if the output exists with other content, if an
        unfinished run has other settings or another input, or if another process is writing the output.
    OSError
        If the disk is full. Call the function again when there is room.
    """
    _check_arguments(pooling, long, dtype, shard, key)
    output = Path(output)
    check_suffix(output, pooling, shard=shard is not None)
    with reserved_outputs([output], parts(source), overwrite=True):  # other content is found below
        embedder = as_embedder(model)
        settings = output_settings(embedder, pooling, dtype, long, key)
        proteins = CheckedProteins(
            source,
            embedder.limit,
            long,
            skip_errors,
            id_column,
            sequence_column,
            cleaning,
            tokenizer=embedder.tokenizer,
            key=key,
            allow_slash=output.suffix == ".parquet",
        )
        job = _Job(output, proteins, embedder, settings, pooling, on_progress, on_survey, overwrite)
        if reads_once(source):
            check_outputs([output], overwrite=overwrite)
            _check_read_once(proteins.name, shard)
            return job.run()
        survey = job.survey_input(shard)
        if output.exists() and not overwrite:
            skipped = job.check_complete()
            # More proteins were skipped if the model could not compute some of them.
            proteins_stored = survey.proteins + survey.skipped - skipped
            return Summary(proteins_stored, survey.residues, skipped=skipped, complete_already=True)
        on_survey(survey)
        return job.run()


@dataclass
class _Job:
    """One run of the embedder from an input to an output.

    Attributes
    ----------
    survey : Survey or None
        Counts of `proteins` from a first pass; None for standard input.
    fingerprint : str or None
        Checksum of the settings and the whole input. For standard input it is known only at the end.
    attributes : dict
        Further attributes of the output.
    """

    output: Path
    proteins: CheckedProteins
    embedder: Embedder
    settings: dict[str, str]
    pooling: str | None
    on_progress: Callable[[int], None]
    on_survey: Callable[[Survey], None]
    overwrite: bool = False
    survey: Survey | None = None
    fingerprint: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)

    def survey_input(self, shard: tuple[int, int] | None) -> Survey:
        """Count the input, restrict the job to a shard of it, and return the counts of that shard."""
        whole = self.proteins.survey()
        self.fingerprint = fingerprint_of(self.settings, whole.digest)
        self.survey = whole
        if shard:
            self.attributes = {"shard": f"{shard[0]}/{shard[1]}"}
            self.proteins = self.proteins.shard(*shard, whole.extent)
            self.survey = self.proteins.survey()
        return self.survey

    def run(self) -> Summary:
        """Embed all records that an interrupted run has not finished, and write the output."""
        began = monotonic()
        journal = Journal(self.output, self.settings, self.embedder.config.hidden_size, overwrite=self.overwrite)
        try:
            resumed = journal.records
            counts = Survey()
            remaining = self.proteins.counted(counts)
            journal.resume(checked.record for checked in remaining)
            self.on_progress(journal.residues)
            for checked, rows in self._embedded(remaining):
                record = checked.record
                if rows is None:
                    journal.skip(record, str(checked.error))
                else:
                    residues = self.proteins.residues(record)
                    journal.add(record, checked.key, rows, residues)
                    self.on_progress(residues)
            if self.survey and journal.digest != self.survey.digest:
                raise ProtT5nvError(
                    f"{self.proteins.name} was changed while it was read: delete {journal.folder} and start again"
                )
            if self.survey is None:
                self.on_survey(counts)
            skipped = str(journal.skipped)
            journal.finish(self.fingerprint, model_name=self.embedder.name, **self.attributes, skipped=skipped)
        finally:
            journal.close()
        return Summary(
            journal.proteins,
            journal.residues,
            resumed,
            journal.skipped,
            seconds=monotonic() - began,
            seconds_writing=journal.seconds,
        )

    def check_complete(self) -> int:
        """Return how many proteins the existing output lacks.

        Raise an error if it has other settings than this run, or another input.
        """
        existing = {"key": "accession", **read_attributes(self.output)}
        expected = {**self.settings, **self.attributes, "key": self.proteins.key}
        differing = [
            f"{name}={existing.get(name)}, not {value}"
            for name, value in expected.items()
            if existing.get(name) != value
        ]
        if not differing and existing.get("fingerprint") != self.fingerprint:
            differing = ["of another input"]
        if not differing and not re.fullmatch("[0-9]{1,18}", str(existing.get("skipped"))):
            differing = ["without the number of skipped proteins"]
        if differing:
            raise ProtT5nvError(
                f"{self.output} exists and holds other embeddings ({'; '.join(differing)}): choose another "
                "name, delete it, or replace it with --overwrite"
            )
        # A run that was killed after it had named the output may not have removed these folders.
        discard(partial_folder(self.output))
        discard(workers_folder(self.output), OF_WORKERS)
        return int(existing["skipped"])

    def _embedded(self, remaining: Iterator[CheckedRecord]) -> Iterator[tuple[CheckedRecord, np.ndarray | None]]:
        """Yield records and their rows in input order. A skipped record carries its error and has no rows."""
        waiting: deque[CheckedRecord] = deque()
        failures: dict[str, ProtT5nvError] = {}

        def valid_records(records: Iterator[CheckedRecord]) -> Iterator[Record]:
            """Yield records until too many faulty ones wait for the batch that precedes them."""
            num_faulty = 0
            for checked in records:
                waiting.append(checked)
                if checked.error is None:
                    yield checked.record
                elif (num_faulty := num_faulty + 1) == _MOST_FAULTY_WAITING:
                    return

        def note_failure(record: Record, error: ProtT5nvError) -> None:
            error = ProtT5nvError(f"{location(record, self.proteins.name)}: {error}")
            if not self.proteins.skip_errors:
                raise error
            failures[record.id] = error

        for first in remaining:
            embedded = self.embedder.embed(
                valid_records(chain([first], remaining)),
                pooling=self.pooling,
                long=self.proteins.long,
                dtype=self.settings["dtype"],
                cleaning=None,  # the records are clean
                on_error=note_failure,
            )
            for record, rows in embedded:
                while waiting[0].record is not record:
                    yield waiting.popleft(), None
                checked = waiting.popleft()
                if rows is None:
                    checked = checked._replace(error=failures.pop(record.id))
                yield checked, rows
            while waiting:
                yield waiting.popleft(), None


def output_settings(embedder: Embedder, pooling: str | None, dtype: str, long: str, key: str) -> dict[str, str]:
    """Return everything except the input that determines the embeddings.

    Parameters
    ----------
    embedder : Embedder
    pooling, dtype, long, key
        As for :func:`embed_file`.

    Returns
    -------
    dict of str to str
    """
    return {
        "model_sha256": embedder.model_sha256,
        "layer": LAYER,
        "pooling": pooling or "none",
        "dtype": dtype,
        "precision": embedder.hardware.precision,
        "long": long,
        "prott5nv_version": __version__,
        **embedder.attributes,
        **({} if key == "accession" else {"key": key}),
    }


def _check_arguments(pooling: str | None, long: str, dtype: str, shard: tuple[int, int] | None, key: str) -> None:
    check_options(pooling, long, dtype)
    if key not in KEYS:
        raise ProtT5nvError(f"key={key!r}: choose {', '.join(KEYS)}")
    if shard is not None:
        check_shard(shard)


def _check_read_once(name: str, shard: tuple[int, int] | None) -> None:
    if shard:
        raise ProtT5nvError(f"{name} cannot be cut into shards, because it can be read only once: give a file")
