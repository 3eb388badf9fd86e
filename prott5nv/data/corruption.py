"""Span corruption: replaces some residues by sentinels, and builds the targets from which the decoder learns them.

Shapes: B proteins, T packed tokens of the proteins, E packed encoder tokens, S packed decoder tokens, M masked
residues. A suffix ``_B1`` marks B + 1 cumulative lengths. A name without a suffix is a scalar.

All random numbers of a sample are hashes of the seed, the sample number and a position. There is no random generator
with a state. A sample is therefore the same alone and in any batch, on any rank, and a whole batch can be computed at
once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prott5nv.errors import ProtT5nvError
from prott5nv.model.tokenizer import BOS, EOS, FIRST_SENTINEL, NUM_SENTINELS

# Streams of random numbers: one for each use, so that the uses are independent.
COUNT, POSITION, LENGTH, CROP, SHUFFLE = range(5)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's step
_POSITION_BITS, _HASH_BITS = 16, 28  # of a sort key; the remaining 20 bits hold the number of the protein


class CorruptedBatch(NamedTuple):
    """Packed proteins after span corruption.

    Attributes
    ----------
    enc_tokens : ndarray, shape=(E,), dtype=int64
        The proteins, with a sentinel in place of every masked span.
    enc_cu_seqlens : ndarray, shape=(B+1,), dtype=int32
        Start of each protein in `enc_tokens`, and the total length.
    dec_tokens : ndarray, shape=(S,), dtype=int64
        Decoder input: ``<s> s0 aa0 s1 aa1 ...`` for each protein.
    dec_labels : ndarray, shape=(S,), dtype=int64
        Targets: ``s0 aa0 s1 aa1 ... </s>`` for each protein.
    dec_cu_seqlens : ndarray, shape=(B+1,), dtype=int32
        Start of each protein in `dec_tokens` and `dec_labels`, and the total length.
    residue_mask : ndarray, shape=(S,), dtype=bool
        True for the labels that are residues: neither a sentinel nor ``</s>``.
    """

    enc_tokens: np.ndarray
    enc_cu_seqlens: np.ndarray
    dec_tokens: np.ndarray
    dec_labels: np.ndarray
    dec_cu_seqlens: np.ndarray
    residue_mask: np.ndarray


def hash64(values: np.ndarray) -> np.ndarray:
    """Hash 64-bit integers with the finalizer of splitmix64 (Steele et al. 2014), which is a bijection.

    Parameters
    ----------
    values : ndarray, dtype=uint64

    Returns
    -------
    ndarray, dtype=uint64
        Has the same shape.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def sample_keys(seed: int, numbers: np.ndarray, stream: int) -> np.ndarray:
    """Return a 64-bit random number for each sample.

    Parameters
    ----------
    seed : int
    numbers : ndarray, shape=(B,), dtype=int64
        Sample numbers; for the stream `SHUFFLE`, numbers of epochs.
    stream : int
        What the number is used for: `COUNT`, `POSITION`, `LENGTH`, `CROP` or `SHUFFLE`.

    Returns
    -------
    ndarray, shape=(B,), dtype=uint64

    Examples
    --------
    >>> together = sample_keys(1, np.array([7, 8]), COUNT)
    >>> bool(together[1] == sample_keys(1, np.array([8]), COUNT)[0])
    True
    """
    # The hash of the seed is added, so that the streams of neighbouring seeds have no numbers in common.
    offset = hash64(np.array([seed % 2**64], dtype=np.uint64) + _GOLDEN)  # NumPy warns of overflow in scalars only
    return hash64(
        hash64(np.asarray(numbers, dtype=np.int64).astype(np.uint64) * _GOLDEN + offset) ^ np.uint64(stream + 1)
    )


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
    """Mask random spans of packed proteins.

    In a protein of L residues, ``masked_lm_prob * L`` residues are masked, but at least one. This number is rounded up
    or down at random, so that the fraction is exact on average. With a `mean_span_length` of 1, a sentinel replaces
    each masked residue, and the encoder's input has L tokens. With m, the masked residues form about 1/m as many spans,
    and a sentinel replaces each span. All ways to divide the masked residues into this number of spans, and all
    positions of the spans, are equally likely. Spans may be adjacent.

    Parameters
    ----------
    tokens_T : ndarray, shape=(T,), dtype=int64
        Residue ids of all proteins, concatenated.
    cu_seqlens_B1 : ndarray, shape=(B+1,), dtype=int32
        Start of each protein, and the total length. No protein is empty.
    sample_numbers_B : ndarray, shape=(B,), dtype=int64
        ``epoch * number of records + position in the epoch``. Together with `seed`, it determines the corruption.
    seed : int
    masked_lm_prob : float
        Fraction of the residues that are masked.
    num_sentinels : int
        Maximum number of spans in a protein.
    mean_span_length : float
        Mean number of residues in a span, at least 1.

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

    # A protein is a row of slots, and each slot is an unmasked residue or a whole span. Choosing the positions of the
    # spans means choosing slots. Choosing the lengths of the spans means choosing the masked residues, after the first
    # one, at which a span starts.
    slots_B = length_B - masked_B + spans_B
    is_span_E = _choose(spans_B, slots_B, sample_keys(seed, sample_numbers_B, POSITION))
    starts_span_M = np.ones(masked_B.sum(), dtype=bool)
    not_first_M = np.ones_like(starts_span_M)
    not_first_M[_starts(masked_B)] = False
    starts_span_M[not_first_M] = _choose(spans_B - 1, masked_B - 1, sample_keys(seed, sample_numbers_B, LENGTH))

    slot_length_E = np.ones(len(is_span_E), dtype=np.int64)
    slot_length_E[is_span_E] = np.diff(np.flatnonzero(starts_span_M), append=len(starts_span_M))
    masked_T = np.repeat(is_span_E, slot_length_E)
    sentinels = FIRST_SENTINEL + _positions(spans_B)
    enc_tokens_E = tokens_T[_starts(slot_length_E)].astype(np.int64)
    enc_tokens_E[is_span_E] = sentinels

    dec_cu_seqlens_B1 = _cumulative(masked_B + spans_B + 1)
    dec_labels_S, residue_mask_S = _targets(
        tokens_T[masked_T],
        sentinels,
        starts_span_M,
        np.repeat(np.arange(num_proteins), masked_B),
        dec_cu_seqlens_B1[-1],
    )
    dec_tokens_S = np.roll(dec_labels_S, 1)
    dec_tokens_S[dec_cu_seqlens_B1[:-1]] = BOS
    return CorruptedBatch(
        enc_tokens_E, _cumulative(slots_B), dec_tokens_S, dec_labels_S, dec_cu_seqlens_B1, residue_mask_S
    )


def max_targets(seq_length: int, masked_lm_prob: float) -> int:
    """Return an upper limit of the number of decoder tokens of a protein of `seq_length` residues.

    Examples
    --------
    >>> max_targets(512, 0.15)
    155
    """
    masked = min(seq_length, int(masked_lm_prob * seq_length) + 1)
    return 2 * masked + 1


def _targets(
    residues_M: np.ndarray, sentinels: np.ndarray, starts_span_M: np.ndarray, protein_of_M: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Build the labels, and the mask of those that are residues.

    The m-th masked residue of the batch follows m residues, the sentinels of its own and of all earlier spans, and the
    </s> of all earlier proteins.
    """
    span_start = np.flatnonzero(starts_span_M)
    is_residue_S = np.zeros(size, dtype=bool)
    is_residue_S[np.arange(len(residues_M)) + np.cumsum(starts_span_M) + protein_of_M] = True
    labels_S = np.full(size, EOS, dtype=np.int64)
    labels_S[is_residue_S] = residues_M
    labels_S[span_start + np.arange(len(span_start)) + protein_of_M[span_start]] = sentinels
    return labels_S, is_residue_S


def restore_spans(enc_tokens: np.ndarray, dec_labels: np.ndarray) -> np.ndarray:
    """Restore the masked residues of one protein or of a packed batch: the inverse of `corrupt_spans`.

    Parameters
    ----------
    enc_tokens : ndarray, shape=(E,), dtype=int64
    dec_labels : ndarray, shape=(S,), dtype=int64
        Targets of the same proteins.

    Returns
    -------
    ndarray, shape=(T,), dtype=int64
        Residue ids.

    Raises
    ------
    ProtT5nvError
        If the targets do not have the sentinels of the input in the same order.

    Examples
    --------
    >>> restore_spans(np.array([22, 32, 5, 33]), np.array([32, 7, 33, 16, 11, 2]))
    array([22,  7,  5, 16, 11])
    """
    is_span = enc_tokens >= FIRST_SENTINEL
    labels = dec_labels[dec_labels != EOS]
    is_sentinel = labels >= FIRST_SENTINEL
    if not np.array_equal(enc_tokens[is_span], labels[is_sentinel]):
        raise ProtT5nvError("the targets have other sentinels than the input: they are not the same proteins")
    slot_length = np.ones(len(enc_tokens), dtype=np.int64)
    slot_length[is_span] = np.diff(np.flatnonzero(is_sentinel), append=len(labels)) - 1
    tokens = np.repeat(enc_tokens, slot_length)
    tokens[np.repeat(is_span, slot_length)] = labels[~is_sentinel]
    return tokens


def _choose(count_B: np.ndarray, size_B: np.ndarray, key_B: np.ndarray) -> np.ndarray:
    """Choose `count_B` of the `size_B` positions of each protein, namely those with the smallest hashes."""
    assert len(size_B) < 1 << 20 and size_B.max(initial=0) <= 1 << _POSITION_BITS
    protein = np.repeat(np.arange(len(size_B), dtype=np.uint64), size_B)
    position = _positions(size_B)
    hashes = hash64(np.repeat(key_B, size_B) + position.astype(np.uint64) * _GOLDEN) >> np.uint64(64 - _HASH_BITS)
    # Protein, hash and position in one integer need only a plain sort, which is several times faster than a lexsort,
    # and there are no ties.
    keys = ((protein << np.uint64(_HASH_BITS)) | hashes) << np.uint64(_POSITION_BITS) | position.astype(np.uint64)
    keys.sort()
    # The sorted keys are still grouped by protein, so the first keys of each group are at its first positions.
    smallest = keys[position < np.repeat(count_B, size_B)]
    chosen_protein = (smallest >> np.uint64(_HASH_BITS + _POSITION_BITS)).astype(np.int64)
    chosen_position = (smallest & np.uint64((1 << _POSITION_BITS) - 1)).astype(np.int64)
    is_chosen = np.zeros(len(keys), dtype=bool)
    is_chosen[_starts(size_B)[chosen_protein] + chosen_position] = True
    return is_chosen


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - lengths


def _cumulative(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _positions(lengths: np.ndarray) -> np.ndarray:
    """Return 0, 1, ... within each group of these lengths."""
    return np.arange(lengths.sum()) - np.repeat(_starts(lengths), lengths)
