"""The way of proteins through the encoder in one call of :meth:`prott5nv.Embedder.embed`.

Proteins are streamed and cut into chunks. The proteins of a chunk are sorted by length, packed into batches without
padding by a budget of residues, encoded, and returned in input order.

Shapes: L residues of a protein, D hidden size, T residues of a window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic

import numpy as np

from prott5nv.embedding.batching import LongProteins, Window, join, window_starts
from prott5nv.embedding.proteins import NamedSequence, Protein
from prott5nv.embedding.runner import Batch, BatchRunner, Form, started_ahead
from prott5nv.errors import ProtT5nvError
from prott5nv.model.tokenizer import ResidueTokenizer

# The results of a chunk wait in memory until it is complete. A larger chunk would not sort into better batches.
_BATCHES_PER_CHUNK = 4


@dataclass
class Chunk(Generic[Protein]):
    """Proteins whose rows are being computed.

    Attributes
    ----------
    entries : list of NamedSequence
        The proteins in input order.
    batches : list of Batch
        Batches with the windows of these proteins.
    results : dict
        What is known of a protein already, by its index.
    """

    entries: list[NamedSequence[Protein]]
    batches: list[Batch] = field(default_factory=list)
    results: dict[int, np.ndarray | ProtT5nvError] = field(default_factory=dict)


class ChunkedRun:
    """Computes the rows of a stream of proteins.

    Parameters
    ----------
    runner : BatchRunner
    tokenizer : ResidueTokenizer
    limit : int or None
        Number of residues from which a protein counts as long.
    long : str
        What to do with a long protein; see :meth:`prott5nv.Embedder.embed`.
    form : Form
        Form of the rows.

    Attributes
    ----------
    shortened : LongProteins
        Proteins that were truncated or skipped so far.
    """

    def __init__(
        self, runner: BatchRunner, tokenizer: ResidueTokenizer, limit: int | None, long: str, form: Form
    ) -> None:
        self._runner, self._tokenizer, self._limit, self._long, self._form = runner, tokenizer, limit, long, form
        self.shortened = LongProteins()

    def results(
        self, proteins: Iterable[NamedSequence[Protein]]
    ) -> Iterator[tuple[Protein, np.ndarray | ProtT5nvError | None]]:
        """Compute the rows of proteins. A GPU computes a chunk while the rows of the one before it are yielded.

        Parameters
        ----------
        proteins : iterable of NamedSequence

        Yields
        ------
        protein : object
            The proteins in input order, as they were passed.
        rows : ndarray, shape=(L, D) or (D,), or ProtT5nvError or None
            An error for a protein that cannot be embedded; None for one that was skipped.
        """
        chunks = (self._start(chunk) for chunk in self._chunks(proteins))
        for chunk in started_ahead(chunks, self._runner.ahead):
            rows_of = self._finish(chunk)
            for index, entry in enumerate(chunk.entries):
                yield entry.protein, rows_of.pop(index, None)

    def _chunks(self, proteins: Iterable[NamedSequence[Protein]]) -> Iterator[list[NamedSequence[Protein]]]:
        """Cut the stream into chunks, whose proteins are sorted and computed together."""
        chunk: list[NamedSequence[Protein]] = []
        residues = 0
        for entry in proteins:
            chunk.append(entry)
            residues += len(entry.sequence)
            if residues >= _BATCHES_PER_CHUNK * self._runner.budget.tokens:
                yield chunk
                chunk, residues = [], 0
        if chunk:
            yield chunk

    def _windows(self, index: int, protein: NamedSequence[Protein]) -> list[Window]:
        """Tokenize a protein and cut it into the windows that the model can compute at once."""
        name, sequence = protein.name, protein.sequence
        if protein.fault:
            raise ProtT5nvError(f"{name}: {protein.fault}")
        length, limit, long = len(sequence), self._limit, self._long
        if not length:
            raise ProtT5nvError(f"{name} has no residues")
        tokens_L, _ = self._tokenizer.encode_batch([sequence], [name])
        if limit is None or length <= limit:
            return [Window(index, 0, tokens_L, name)]
        if long == "error":
            raise ProtT5nvError(
                f"{name} has {length} residues, and this model accepts at most {limit} at once: "
                "use long='window' to embed all of them, or 'truncate' for the first"
            )
        if long == "window":
            return [
                Window(index, start, tokens_L[start : start + limit], name) for start in window_starts(length, limit)
            ]
        self.shortened.add(name, length)
        return [] if long == "skip" else [Window(index, 0, tokens_L[:limit], name)]

    def _start(self, entries: list[NamedSequence[Protein]]) -> Chunk[Protein]:
        """Tokenize the proteins of a chunk and start to compute their rows."""
        chunk = Chunk(entries)
        whole: list[Window] = []
        cut: list[Window] = []
        for index, entry in enumerate(entries):
            try:
                windows = self._windows(index, entry)
            except ProtT5nvError as error:
                chunk.results[index] = error
            else:
                # Windows of a protein are joined on the host, before its rows are pooled or converted.
                (whole if len(windows) == 1 and self._runner.makes(self._form) else cut).extend(windows)
        for windows, device_form in (whole, self._form), (cut, None):
            # Longest first, so that an out-of-memory error shows up early.
            longest_first = sorted(windows, key=lambda window: -window.length)
            chunk.batches += self._runner.start(longest_first, device_form)
        return chunk

    def _finish(self, chunk: Chunk[Protein]) -> dict[int, np.ndarray | ProtT5nvError]:
        """Return the rows of each protein of a chunk, or its error, by its index."""
        results = chunk.results
        parts: dict[int, list[tuple[int, np.ndarray]]] = {}
        for batch in chunk.batches:
            for window, rows in zip(batch.windows, batch.rows(), strict=True):
                if isinstance(rows, ProtT5nvError) or batch.form:
                    results[window.protein] = rows
                else:
                    parts.setdefault(window.protein, []).append((window.start, rows))
        for index in list(parts):
            joined = join(parts.pop(index))
            if index not in results:
                try:
                    results[index] = self._form.of(joined, chunk.entries[index].name)
                except ProtT5nvError as error:
                    results[index] = error
        return results
