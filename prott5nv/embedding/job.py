"""From a file of proteins to a file of embeddings: checked before the work begins, resumable, in input order."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prott5nv import __version__
from prott5nv.embedding.embedder import Embedder, Model, as_embedder, model_file
from prott5nv.embedding.formats import check_suffix, read_attributes, workers_folder
from prott5nv.embedding.journal import Journal, fingerprint_of, partial_folder
from prott5nv.embedding.survey import CheckedProteins, CheckedRecord, Survey
from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record

LAYER = "encoder.final_layernorm"


@dataclass
class Summary:
    """The result of a run.

    Attributes
    ----------
    proteins, residues : int
        Number of proteins, and of residues, in the output.
    resumed : int
        Records that an interrupted run had finished.
    skipped : int
        Records that were left out.
    complete_already : bool
        True if the output already existed with the same input and settings, so that nothing was computed.
    """

    proteins: int
    residues: int
    resumed: int = 0
    skipped: int = 0
    complete_already: bool = False


def embed_file(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: Model,
    *,
    model_path: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    long: str = "truncate",
    dtype: str = "float32",
    skip_errors: bool = False,
    shard: tuple[int, int] | None = None,
    id_column: str | None = None,
    sequence_column: str | None = None,
    on_survey: Callable[[Survey], None] = lambda survey: None,
    on_progress: Callable[[int], None] = lambda residues: None,
) -> Summary:
    """Embed a file of proteins into a file of embeddings. After a kill, the same call continues where it stopped.

    Parameters
    ----------
    source : str or PathLike
        FASTA, CSV, TSV or Parquet, gzipped or not; ``-`` for standard input.
    output : str or PathLike
        HDF5 with one dataset per accession, ``sp|P69905|HBA_HUMAN`` being ``P69905``; for pooled vectors also NumPy's
        ``.npz`` or ``.parquet`` (see `prott5nv.embedding.formats`). Until it is complete, work is kept beside it in
        ``<output>.partial/``.
    model : str, Path, ProtT5, Embedder or ProtT5nvInference
    model_path : str or PathLike, optional
        The file that `model` was loaded from; by default that of the built-in model. The output records its checksum.
    pooling, long
        As for :meth:`prott5nv.Embedder.embed`.
    dtype : str
        Data type of the stored embeddings: ``float32`` or ``float16``.
    skip_errors : bool
        Leave out proteins that cannot be embedded and list them in ``<output>.skipped.tsv``; by default the first one
        ends the run.
    shard : tuple of int, optional
        ``(2, 4)`` for the second of four parts with about the same number of residues; join them with
        :func:`prott5nv.embedding.merge.merge`.
    id_column, sequence_column : str, optional
        Columns of a table; see :func:`prott5nv.io.reader.read_records`.
    on_survey : callable, optional
        Called with the counts of the input before the work begins; not for standard input, which can be read only
        once.
    on_progress : callable, optional
        Called with the number of residues that were finished since the last call.

    Returns
    -------
    Summary

    Raises
    ------
    ProtT5nvError
        If a record cannot be embedded or its key is not unique, naming file, line and id; if the output exists with
        other content, or an unfinished run has other settings.
    OSError
        If the disk is full; call again when there is room.
    """
    output = Path(output)
    check_suffix(output, pooling)
    embedder = as_embedder(model)
    settings = {
        "model_sha256": file_sha256(model_file(model_path)),
        "layer": LAYER,
        "pooling": pooling or "none",
        "dtype": dtype,
        "precision": embedder.hardware.precision,
        "long": long,
        "prott5nv_version": __version__,
    }
    limit = embedder.config.max_position_embeddings
    proteins = CheckedProteins(source, limit, long, skip_errors, id_column, sequence_column)
    job = _Job(output, proteins, embedder, settings, pooling, on_progress)
    if str(source) == "-":
        _check_standard_input(output, shard)
        return job.run()
    whole = proteins.survey()
    job.fingerprint = fingerprint_of(settings, whole.digest)
    job.survey = whole
    if shard:
        job.attributes = {"shard": f"{shard[0]}/{shard[1]}"}
        job.proteins = proteins.shard(*shard, whole.extent)
        job.survey = job.proteins.survey()
    if output.exists():
        job.check_complete()
        return Summary(job.survey.proteins, job.survey.residues, skipped=job.survey.skipped, complete_already=True)
    on_survey(job.survey)
    return job.run()


@dataclass
class _Job:
    """One run of the embedder over an input, into one output.

    Attributes
    ----------
    survey : Survey or None
        What a first pass over `proteins` counted; None for standard input.
    fingerprint : str or None
        Checksum of settings and whole input; of standard input it is known only at the end.
    attributes : dict
        Further attributes of the output.
    """

    output: Path
    proteins: CheckedProteins
    embedder: Embedder
    settings: dict[str, str]
    pooling: str | None
    on_progress: Callable[[int], None]
    survey: Survey | None = None
    fingerprint: str | None = None
    attributes: dict[str, str] | None = None

    def run(self) -> Summary:
        """Embed what an interrupted run has left to do, and write the output."""
        journal = Journal(self.output, self.settings, self.embedder.config.hidden_size)
        try:
            resumed = journal.records
            remaining = iter(self.proteins)
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
            if self.survey and journal.digest != self.survey.digest.hex():
                raise ProtT5nvError(
                    f"{self.proteins.source} was changed while it was read: delete {journal.folder} and start anew"
                )
            journal.finish(self.fingerprint, **(self.attributes or {}))
        finally:
            journal.close()
        return Summary(journal.proteins, journal.residues, resumed, journal.skipped)

    def check_complete(self) -> None:
        """Refuse an existing output unless it is exactly what this run would write."""
        found = read_attributes(self.output)
        expected = {**self.settings, **(self.attributes or {})}
        differing = [
            f"{name}={found.get(name)}, not {value}" for name, value in expected.items() if found.get(name) != value
        ]
        if not differing and found.get("fingerprint") != self.fingerprint:
            differing = ["of another input"]
        if differing:
            raise ProtT5nvError(
                f"{self.output} exists and holds other embeddings ({'; '.join(differing)}): delete it or choose "
                "another name"
            )
        # A run killed between giving the output its name and tidying up leaves these behind.
        for folder in partial_folder(self.output), workers_folder(self.output):
            shutil.rmtree(folder, ignore_errors=True)

    def _embedded(self, remaining: Iterator[CheckedRecord]) -> Iterator[tuple[CheckedRecord, np.ndarray | None]]:
        """Pairs of record and rows in input order; rows are None for a record that is skipped, which has its error."""
        waiting: deque[CheckedRecord] = deque()
        failures: dict[str, ProtT5nvError] = {}

        def sound() -> Iterator[Record]:
            for checked in remaining:
                waiting.append(checked)
                if checked.error is None:
                    yield checked.record

        def note(record: Record, error: ProtT5nvError) -> None:
            error = ProtT5nvError(f"{self.proteins.name}: line {record.line}: {error}")
            if not self.proteins.skip_errors:
                raise error
            failures[record.id] = error

        for record, rows in self.embedder.embed(sound(), pooling=self.pooling, long=self.proteins.long, on_error=note):
            while waiting[0].record is not record:
                yield waiting.popleft(), None
            checked = waiting.popleft()
            if rows is None:
                checked = checked._replace(error=failures.pop(record.id))
            yield checked, rows
        for checked in waiting:
            yield checked, None


def file_sha256(path: Path) -> str:
    """Checksum of a file.

    Raises
    ------
    ProtT5nvError
        If the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ProtT5nvError(f"{path}: {error.strerror}") from None
    return digest.hexdigest()


def _check_standard_input(output: Path, shard: tuple[int, int] | None) -> None:
    if output.exists():
        raise ProtT5nvError(f"{output} exists: delete it or choose another name")
    if shard:
        raise ProtT5nvError("standard input cannot be cut into shards, which takes a second reading: give a file")
