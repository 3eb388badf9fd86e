"""Many hidden residues of many proteins, asked for in few batches.

Shapes: W residues that the model sees at once, K hidden ones, R readings, N tokens of a reading, A amino acids.
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
    """A protein with K hidden residues, and R combinations of them whose probabilities are asked for.

    Attributes
    ----------
    tokens_W : ndarray, shape=(W,), dtype=int64
        What :func:`prott5nv.decoding.masking.hide` returned.
    known_RK : ndarray, shape=(R, K - 1), dtype=int64
        Tokens of the hidden residues but the last, for each of them is asked for in the light of those before it.
    """

    tokens_W: np.ndarray
    known_RK: np.ndarray


def run_queries(
    inference: Embedder,
    questions: Sequence[MaskedQuery],
    on_progress: Callable[[int], object] = lambda residues: None,
) -> list[np.ndarray]:
    """Log-probabilities of the 20 amino acids at every hidden residue.

    Questions of equally many hidden residues are computed together, at most ``inference.max_tokens`` tokens at once.

    Parameters
    ----------
    inference : Embedder
    questions : sequence of MaskedQuery
    on_progress : callable
        Called with the residues of the proteins that were encoded since the last call.

    Returns
    -------
    list of ndarray, shape=(R, K, A), dtype=float32
        One for each question.
    """
    answers: list[list[np.ndarray]] = [[] for _ in questions]
    for batch in _batches(questions, inference.max_tokens):
        numbers, asked = zip(*batch, strict=True)
        for number, found_RKA in zip(numbers, _answer(inference, asked), strict=True):
            answers[number].append(found_RKA)
        on_progress(sum(len(question.tokens_W) for question in asked))
    return [np.concatenate(parts) for parts in answers]


def _batches(questions: Sequence[MaskedQuery], max_tokens: int) -> Iterator[list[tuple[int, MaskedQuery]]]:
    """Questions with their numbers; one with very many readings comes in parts."""
    batch, tokens = [], 0
    # Proteins of equal length and readings of equal length are attended to together.
    order = sorted(enumerate(questions), key=lambda item: (item[1].known_RK.shape[1], len(item[1].tokens_W)))
    for number, question in order:
        length = 2 * question.known_RK.shape[1] + 2
        step = max(1, max_tokens // length)
        for first in range(0, len(question.known_RK), step):
            part = MaskedQuery(question.tokens_W, question.known_RK[first : first + step])
            cost = len(part.tokens_W) + length * len(part.known_RK)
            if batch and (tokens + cost > max_tokens or batch[-1][1].known_RK.shape[1] != part.known_RK.shape[1]):
                yield batch
                batch, tokens = [], 0
            batch.append((number, part))
            tokens += cost
    if batch:
        yield batch


@torch.inference_mode()
def _answer(inference: Embedder, questions: Sequence[MaskedQuery]) -> list[np.ndarray]:
    model, device = inference.network, inference.hardware.device
    cu_seqlens = torch.tensor(np.cumsum([0, *(len(q.tokens_W) for q in questions)]), dtype=torch.int32, device=device)
    hidden_TD = model.encode(torch.from_numpy(np.concatenate([q.tokens_W for q in questions])).to(device), cu_seqlens)
    readings = [len(question.known_RK) for question in questions]
    tokens_RN = torch.from_numpy(decoder_input(np.concatenate([question.known_RK for question in questions])))
    read_RND = CachedDecoder(model, hidden_TD, cu_seqlens, readings).read(tokens_RN.to(device))
    found_RKA = amino_acid_log_probabilities(model, read_RND[:, 1::2]).cpu().numpy()
    return np.split(found_RKA, np.cumsum(readings)[:-1])
