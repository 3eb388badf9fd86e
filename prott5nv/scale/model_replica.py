"""The replica of Ray Serve that holds the model and computes batches of waiting requests.

Shapes: L residues of a protein, D hidden size.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from ray import serve

from prott5nv.decoding.marginals import score_substitutions
from prott5nv.decoding.variants import score_variants
from prott5nv.embedding.embedder import LongProteinWarning
from prott5nv.embedding.job import output_settings
from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record
from prott5nv.model.config import ModelConfig
from prott5nv.scale.assignment import assigned_embedder
from prott5nv.scale.model_info import Group, ModelInfo, Refused, ScoreQuery, Scores

_WAIT_SECONDS = 0.002  # for further requests. While a batch is computed, all others wait for the next one anyway.
_Result = TypeVar("_Result")


class _HungUp(Exception):
    """The client does not wait for the result any more."""


class _Turns:
    """Lets two threads compute in turns. A thread that offers its turn waits until a waiting one has had its own."""

    def __init__(self) -> None:
        self._computing, self._next = threading.Lock(), threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, which lasts until the block ends."""
        self._take()
        try:
            yield
        finally:
            self._computing.release()

    def offer(self) -> None:
        """Let the other thread compute, if it waits."""
        self._computing.release()
        self._take()

    def _take(self) -> None:
        with self._next:
            self._computing.acquire()


def _batch_residues(groups: list[Group]) -> int:
    """Return the size of a batch in residues. One group counts less, because Ray refuses it if it exceeds a batch."""
    return 1 if len(groups) == 1 else sum(group.residues for group in groups)


class ModelReplica:
    """Embeds and scores for the processes that answer HTTP requests.

    Waiting calls of :meth:`embed` are computed together, up to the embedder's number of residues. The rows of a protein
    do not depend on the batch.

    Parameters
    ----------
    model : str, optional
        As for :class:`prott5nv.Embedder`.
    options : dict
        Further arguments of :class:`prott5nv.Embedder`, except `device`.
    """

    def __init__(self, model: str | None, options: dict[str, Any]) -> None:
        warnings.simplefilter("ignore", LongProteinWarning)  # The answer states which proteins were truncated.
        # PyTorch keeps the number of threads and their pool for each thread, so one thread loads and embeds.
        self._embedding, self._scoring = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._turns = _Turns()
        self._fault = ""
        try:
            self._embedder = self._embedding.submit(lambda: assigned_embedder(model, **options)).result()
        except ProtT5nvError as error:  # Ray would try again and again.
            self._fault = str(error)
        else:
            self._embed_batch.set_max_batch_size(self._embedder.max_tokens)

    async def describe(self) -> ModelInfo:
        """Return what is known of the model.

        Raises
        ------
        ProtT5nvError
            If it could not be loaded.
        """
        if self._fault:
            raise ProtT5nvError(self._fault)
        embedder = self._embedder
        return ModelInfo(
            embedder.name,
            embedder.label,
            embedder.model_sha256,
            str(embedder.hardware),
            output_settings(embedder, None, "float32", "truncate", "accession"),
            embedder.limit,
            embedder.config.hidden_size,
            embedder.max_tokens,
            isinstance(embedder.config, ModelConfig),
            embedder.is_builtin,
            embedder.tokenizer,
        )

    async def embed(self, group: Group) -> list[np.ndarray | Refused]:
        """Return the embedding of each protein of a group."""
        return await self._embed_batch(group)

    @serve.batch(
        max_batch_size=4096, batch_wait_timeout_s=_WAIT_SECONDS, batch_size_fn=_batch_residues, max_concurrent_batches=1
    )
    async def _embed_batch(self, groups: list[Group]) -> list[list[np.ndarray | Refused]]:
        return await _in_thread(self._embedding, lambda: self._embed_groups(groups))

    def _embed_groups(self, groups: list[Group]) -> list[list[np.ndarray | Refused]]:
        """Embed the proteins of several groups, those with the same options together."""
        results: list[list[np.ndarray | Refused]] = [[] for _ in groups]
        by_options: dict[tuple[str | None, str, str], list[int]] = {}
        for number, group in enumerate(groups):
            by_options.setdefault((group.pooling, group.long, group.dtype), []).append(number)
        with self._turns.turn():
            for options, numbers in by_options.items():
                owners = [number for number in numbers for _ in groups[number].records]
                records = [record for number in numbers for record in groups[number].records]
                for owner, result in zip(owners, self._embed_records(records, *options), strict=True):
                    results[owner].append(result)
        return results

    def _embed_records(
        self, records: list[Record], pooling: str | None, long: str, dtype: str
    ) -> Iterator[np.ndarray | Refused]:
        errors: list[Refused] = []
        embedded = self._embedder.embed(
            records,
            pooling=pooling,
            long=long,
            dtype=dtype,
            cleaning=None,  # the records are clean
            on_error=lambda record, error: errors.append(Refused(str(error))),
        )
        for _, rows in embedded:
            yield errors.pop(0) if rows is None else rows

    async def score(self, query: ScoreQuery) -> Scores:
        """Return the scores of a protein. Requests for embeddings are computed between the batches of a long scan."""
        has_hung_up = threading.Event()

        def go_on(residues: int) -> None:
            if has_hung_up.is_set():
                raise _HungUp
            self._turns.offer()

        try:
            return await _in_thread(self._scoring, lambda: self._score(query, go_on))
        except asyncio.CancelledError:
            has_hung_up.set()
            raise

    def _score(self, query: ScoreQuery, go_on: Callable[[int], None]) -> Scores:
        record, variants = query
        try:
            with self._turns.turn():
                if variants is None:
                    return score_substitutions(
                        record.sequence, self._embedder, name=record.id, cleaning=None, on_progress=go_on
                    )
                return score_variants(
                    record.sequence, variants, self._embedder, name=record.id, cleaning=None, on_progress=go_on
                )
        except ProtT5nvError as error:
            return Refused(str(error))


async def _in_thread(pool: ThreadPoolExecutor, compute: Callable[[], _Result]) -> _Result:
    return await asyncio.get_running_loop().run_in_executor(pool, compute)
