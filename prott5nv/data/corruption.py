"""Span corruption: hide some residues behind sentinels and ask the decoder for them.

Shapes: B proteins, T packed tokens of the proteins, E packed encoder tokens, S packed decoder tokens,
M masked residues. A name without these suffixes and ``_B1`` (B + 1 cumulative lengths) is a scalar.

Everything random about a sample is a hash of ``seed + sample number`` and a place, never a generator's state,
so that a sample is the same alone or in any batch, on any rank, and can be drawn for a whole batch at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prott5nv.errors import ProtT5nvError
from prott5nv.model.tokenizer import BOS, EOS, FIRST_SENTINEL, NUM_SENTINELS

# What a hash is for; each use of a sample's randomness has its own stream.
COUNT, PLACE, LENGTH, CROP, SHUFFLE = range(5)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's step
_PLACE_BITS, _DRAW_BITS = 16, 28  # of a sort key; the remaining 20 number the protein


class CorruptedBatch(NamedTuple):
    """Packed proteins after span corruption.

    Attributes
    ----------
    enc_tokens : ndarray, shape=(E,), dtype=int64
        The proteins with every masked span replaced by its sentinel.
    enc_cu_seqlens : ndarray, shape=(B+1,), dtype=int32
        Where each protein starts in `enc_tokens`, and the end.
    dec_tokens : ndarray, shape=(S,), dtype=int64
        Decoder input, ``<s> s0 aa0 s1 aa1 ...`` a protein.
    dec_labels : ndarray, shape=(S,), dtype=int64
        Target, ``s0 aa0 s1 aa1 ... </s>`` a protein.
    dec_cu_seqlens : ndarray, shape=(B+1,), dtype=int32
        Where each protein starts in `dec_tokens` and `dec_labels`, and the end.
    residue_mask : ndarray, shape=(S,), dtype=bool
        The labels that are residues: neither sentinel nor ``</s>``.
    """

    enc_tokens: np.ndarray
    enc_cu_seqlens: np.ndarray
    dec_tokens: np.ndarray
    dec_labels: np.ndarray
    dec_cu_seqlens: np.ndarray
    residue_mask: np.ndarray


def hash64(values: np.ndarray) -> np.ndarray:
    """Mix 64-bit integers (a bijection: the finaliser of splitmix64, Steele et al. 2014).

    Parameters
    ----------
    values : ndarray, dtype=uint64

    Returns
    -------
    ndarray, dtype=uint64
        Of the same shape.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def sample_keys(seed: int, numbers: np.ndarray, stream: int) -> np.ndarray:
    """One 64-bit random number for each sample and each use made of it.

    Parameters
    ----------
    seed : int
    numbers : ndarray, shape=(B,), dtype=int64
        Sample numbers (epochs, for the `SHUFFLE` stream).
    stream : int
        `COUNT`, `PLACE`, `LENGTH`, `CROP` or `SHUFFLE`.

    Returns
    -------
    ndarray, shape=(B,), dtype=uint64

    Examples
    --------
    >>> together = sample_keys(1, np.array([7, 8]), COUNT)
    >>> bool(together[1] == sample_keys(1, np.array([8]), COUNT)[0])
    True
    """
    seeded = (np.asarray(numbers, dtype=np.int64) + seed).astype(np.uint64)
    return hash64(hash64(seeded * _GOLDEN) ^ np.uint64(stream + 1))


def corrupt_spans(
    tokens_T: np.ndarray,
    cu_seqlens_B1: np.ndarray,
    sample_numbers_B: np.ndarray,
    seed: int,
    *,
    masked_lm_prob: float = 0.15,
    num_sentinels: int = NUM_SENTINELS,
    mean_span_length: float = 1.0,
) -> CorruptedBatch:
    """Replace random spans of packed proteins by sentinels.

    Each protein of L residues loses ``masked_lm_prob * L`` of them, rounded up or down at random so that the
    fraction is exact on average, and at least one. With `mean_span_length` 1 every masked residue becomes its own
    sentinel and the encoder's length stays L; with m, the masked residues form about 1/m as many spans, all
    partitions and all places equally likely, and one sentinel stands for each span. Spans may touch.

    Parameters
    ----------
    tokens_T : ndarray, shape=(T,), dtype=int64
        Residue ids of all proteins, one after the other.
    cu_seqlens_B1 : ndarray, shape=(B+1,), dtype=int32
        Where each protein starts, and the end; no protein is empty.
    sample_numbers_B : ndarray, shape=(B,), dtype=int64
        ``epoch * number of records + position``; with `seed`, all that the corruption depends on.
    seed : int
    masked_lm_prob : float
        Fraction of the residues to mask.
    num_sentinels : int
        The most spans that a protein can have.
    mean_span_length : float
        In residues, at least 1.

    Returns
    -------
    CorruptedBatch

    Examples
    --------
    >>> from prott5nv.model.tokenizer import ProteinTokenizer
    >>> tokens, cu_seqlens = ProteinTokenizer().encode_batch(["MSLKRAVLGG", "MKV"])
    >>> batch = corrupt_spans(tokens, cu_seqlens, np.array([0, 1]), seed=1234)
    >>> batch.enc_cu_seqlens.tolist()
    [0, 10, 13]
    >>> bool((restore_spans(batch.enc_tokens, batch.dec_labels) == tokens).all())
    True
    """
    num_proteins = len(sample_numbers_B)
    length_B = np.diff(cu_seqlens_B1).astype(np.int64)
    assert length_B.size == num_proteins and length_B.min(initial=1) >= 1

    uniform_B = sample_keys(seed, sample_numbers_B, COUNT) / 2.0**64
    masked_B = np.floor(masked_lm_prob * length_B + uniform_B).astype(np.int64)
    masked_B = masked_B.clip(1, int(num_sentinels * mean_span_length))
    spans_B = np.rint(masked_B / mean_span_length).astype(np.int64).clip(1, num_sentinels)

    # A protein is a row of slots, each an untouched residue or a whole span: placing the spans is choosing slots,
    # and dividing the masked residues among the spans is choosing at which of them, after the first, a span begins.
    slots_B = length_B - masked_B + spans_B
    is_span_E = _choose(spans_B, slots_B, sample_keys(seed, sample_numbers_B, PLACE))
    begins_M = np.ones(masked_B.sum(), dtype=bool)
    after_first_M = np.ones_like(begins_M)
    after_first_M[_starts(masked_B)] = False
    begins_M[after_first_M] = _choose(spans_B - 1, masked_B - 1, sample_keys(seed, sample_numbers_B, LENGTH))
    span_start = np.flatnonzero(begins_M)

    slot_length_E = np.ones(len(is_span_E), dtype=np.int64)
    slot_length_E[is_span_E] = np.diff(span_start, append=len(begins_M))
    masked_T = np.repeat(is_span_E, slot_length_E)
    sentinels = FIRST_SENTINEL + _places(spans_B)
    enc_tokens_E = tokens_T[_starts(slot_length_E)].astype(np.int64)
    enc_tokens_E[is_span_E] = sentinels

    # The m-th masked residue of the batch stands behind m residues, the sentinels of its own and all earlier spans,
    # and the </s> of all earlier proteins.
    dec_cu_seqlens_B1 = _cumulative(masked_B + spans_B + 1)
    protein_of_M = np.repeat(np.arange(num_proteins), masked_B)
    residue_mask_S = np.zeros(dec_cu_seqlens_B1[-1], dtype=bool)
    residue_mask_S[np.arange(len(begins_M)) + np.cumsum(begins_M) + protein_of_M] = True
    dec_labels_S = np.full(len(residue_mask_S), EOS, dtype=np.int64)
    dec_labels_S[residue_mask_S] = tokens_T[masked_T]
    dec_labels_S[span_start + np.arange(len(span_start)) + protein_of_M[span_start]] = sentinels

    dec_tokens_S = np.roll(dec_labels_S, 1)
    dec_tokens_S[dec_cu_seqlens_B1[:-1]] = BOS
    return CorruptedBatch(
        enc_tokens_E, _cumulative(slots_B), dec_tokens_S, dec_labels_S, dec_cu_seqlens_B1, residue_mask_S
    )


def restore_spans(enc_tokens: np.ndarray, dec_labels: np.ndarray) -> np.ndarray:
    """Put the masked residues back: the inverse of `corrupt_spans`, for one protein or a packed batch.

    Parameters
    ----------
    enc_tokens : ndarray, shape=(E,), dtype=int64
    dec_labels : ndarray, shape=(S,), dtype=int64
        The targets of the same proteins.

    Returns
    -------
    ndarray, shape=(T,), dtype=int64
        The proteins.

    Raises
    ------
    ProtT5nvError
        If the targets' sentinels are not those of the input, in order.

    Examples
    --------
    >>> restore_spans(np.array([22, 32, 5, 33]), np.array([32, 7, 33, 16, 11, 2]))
    array([22,  7,  5, 16, 11])
    """
    is_span = enc_tokens >= FIRST_SENTINEL
    labels = dec_labels[dec_labels != EOS]
    is_sentinel = labels >= FIRST_SENTINEL
    if not np.array_equal(enc_tokens[is_span], labels[is_sentinel]):
        raise ProtT5nvError("the target's sentinels are not those of the input: these two are not the same proteins")
    slot_length = np.ones(len(enc_tokens), dtype=np.int64)
    slot_length[is_span] = np.diff(np.flatnonzero(is_sentinel), append=len(labels)) - 1
    tokens = np.repeat(enc_tokens, slot_length)
    tokens[np.repeat(is_span, slot_length)] = labels[~is_sentinel]
    return tokens


def _choose(count_B: np.ndarray, size_B: np.ndarray, key_B: np.ndarray) -> np.ndarray:
    """Mark `count_B` of each protein's `size_B` places, all choices equally likely: those with the smallest hashes."""
    assert len(size_B) < 1 << 20 and size_B.max(initial=0) <= 1 << _PLACE_BITS
    protein = np.repeat(np.arange(len(size_B), dtype=np.uint64), size_B)
    place = _places(size_B)
    draw = hash64(np.repeat(key_B, size_B) + place.astype(np.uint64) * _GOLDEN) >> np.uint64(64 - _DRAW_BITS)
    # Protein, hash and place in one integer: a single plain sort, several times faster than a lexsort, and no ties.
    keys = ((protein << np.uint64(_DRAW_BITS)) | draw) << np.uint64(_PLACE_BITS) | place.astype(np.uint64)
    keys.sort()
    # The sorted keys are still grouped by protein, so the first of each group are found as its first places are.
    smallest = keys[place < np.repeat(count_B, size_B)]
    chosen_protein = (smallest >> np.uint64(_DRAW_BITS + _PLACE_BITS)).astype(np.int64)
    chosen_place = (smallest & np.uint64((1 << _PLACE_BITS) - 1)).astype(np.int64)
    marks = np.zeros(len(keys), dtype=bool)
    marks[_starts(size_B)[chosen_protein] + chosen_place] = True
    return marks


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - lengths


def _cumulative(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _places(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... within each of the groups of these lengths."""
    return np.arange(lengths.sum()) - np.repeat(_starts(lengths), lengths)
