"""Queries for the residues behind masks, computed for many proteins in few batches.

Shapes: W residues of the window that the model sees, K masked residues, R hypotheses, N tokens of a hypothesis,
T packed tokens, P proteins, A amino acids, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from prott5nv.decoding.kv_cache import CachedDecoder, amino_acid_log_probabilities
from prott5nv.decoding.masking import decoder_input
from prott5nv.embedding.embedder import Embedder


class MaskedQuery(NamedTuple):
    """A protein with K masked residues, and R hypotheses.

    The decoder predicts the masked residues in order, each given the masked residues before it. A hypothesis specifies
    these preceding residues.

    Attributes
    ----------
    tokens_W : ndarray, shape=(W,), dtype=int64
        Result of :func:`prott5nv.decoding.masking.mask_residues`.
    known_RK : ndarray, shape=(R, K - 1), dtype=int64
        Tokens of all masked residues but the last, for each hypothesis.
    """

    tokens_W: np.ndarray
    known_RK: np.ndarray


def run_queries(
    embedder: Embedder,
    queries: Sequence[MaskedQuery],
    on_progress: Callable[[int], object] = lambda residues: None,
) -> list[np.ndarray]:
    """Compute log-probabilities of the 20 amino acids at every masked residue.

    Queries with the same number of masked residues share a batch of at most ``embedder.max_tokens`` tokens.

    Parameters
    ----------
    embedder : Embedder
        The loaded model.
    queries : sequence of MaskedQuery
        Queries in any order.
    on_progress : callable
        Called after each batch with the number of residues that the encoder processed in it.

    Returns
    -------
    list of ndarray, shape=(R, K, A), dtype=float32
        Natural logarithms for each query, in the order of `queries`.
    """
    results: list[list[np.ndarray]] = [[] for _ in queries]
    for batch in _batches(queries, embedder.max_tokens):
        numbers, parts = zip(*batch, strict=True)
        for number, log_probabilities_RKA in zip(numbers, _run_batch(embedder, parts), strict=True):
            results[number].append(log_probabilities_RKA)
        on_progress(sum(len(part.tokens_W) for part in parts))
    return [np.concatenate(parts) for parts in results]


def _batches(queries: Sequence[MaskedQuery], max_tokens: int) -> Iterator[list[tuple[int, MaskedQuery]]]:
    """Yield batches of queries with their indices; a query with very many hypotheses is split over several batches."""
    batch: list[tuple[int, MaskedQuery]] = []
    tokens = 0
    # Proteins of equal length and hypotheses of equal length share one attention call.
    order = sorted(enumerate(queries), key=lambda item: (item[1].known_RK.shape[1], len(item[1].tokens_W)))
    for number, query in order:
        length = 2 * query.known_RK.shape[1] + 2
        step = max(1, max_tokens // length)
        for first in range(0, len(query.known_RK), step):
            part = MaskedQuery(query.tokens_W, query.known_RK[first : first + step])
            cost = len(part.tokens_W) + length * len(part.known_RK)
            if batch and (tokens + cost > max_tokens or batch[-1][1].known_RK.shape[1] != part.known_RK.shape[1]):
                yield batch
                batch, tokens = [], 0
            batch.append((number, part))
            tokens += cost
    if batch:
        yield batch


@torch.inference_mode()
def _run_batch(embedder: Embedder, queries: Sequence[MaskedQuery]) -> list[np.ndarray]:
    model, device = embedder.network, embedder.hardware.device
    ends_P1 = np.cumsum([0, *(len(query.tokens_W) for query in queries)])
    cu_seqlens_P1 = torch.tensor(ends_P1, dtype=torch.int32, device=device)
    tokens_T = torch.from_numpy(np.concatenate([query.tokens_W for query in queries]))
    hidden_TD = model.encode(tokens_T.to(device), cu_seqlens_P1)
    hypotheses_P = [len(query.known_RK) for query in queries]
    tokens_RN = torch.from_numpy(decoder_input(np.concatenate([query.known_RK for query in queries])))
    decoded_RND = CachedDecoder(model, hidden_TD, cu_seqlens_P1, hypotheses_P).append(tokens_RN.to(device))
    log_probabilities_RKA = amino_acid_log_probabilities(model, decoded_RND[:, 1::2]).cpu().numpy()
    return np.split(log_probabilities_RKA, np.cumsum(hypotheses_P)[:-1])
