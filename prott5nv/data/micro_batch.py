"""Cuts the corrupted proteins of an optimizer step into micro-batches, of any size or of one constant size.

Compiled layers need tensors of one shape. A micro-batch of a constant size holds as many proteins as fit, and sequences
of filler after them. Filler has no targets, and no protein attends to it.

Shapes: B proteins of a micro-batch, E packed encoder tokens, S packed decoder tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from prott5nv.data.corruption import CorruptedBatch
from prott5nv.errors import ProtT5nvError
from prott5nv.model.tokenizer import PAD

IGNORED = -100  # label of filler, which PyTorch's cross-entropy leaves out

_SPREAD = 3.0  # standard deviations of the tokens of a step for which there is room
_EXCESS = 0.1  # fraction of the maximum by which a step may exceed it, before it takes another micro-batch
_MULTIPLE = 64  # the numbers of tokens are multiples of it, which suits matmuls


class MicroBatch(TypedDict):
    """Packed proteins of one forward pass.

    Attributes
    ----------
    enc_tokens, enc_cu_seqlens, dec_tokens, dec_labels, dec_cu_seqlens, residue_mask
        Tensors; see :class:`~prott5nv.data.corruption.CorruptedBatch`. In a micro-batch of constant size, filler
        follows the proteins; its labels are `IGNORED`.
    sample_numbers : Tensor, shape=(B,), dtype=int64
        Numbers of the samples.
    lengths : ndarray, shape=(B, 2), dtype=int64
        Number of encoder and of decoder tokens of each protein, without filler. Since it is an array of NumPy, it stays
        in host memory, where it can be read without waiting for a GPU.
    """

    enc_tokens: Tensor
    enc_cu_seqlens: Tensor
    dec_tokens: Tensor
    dec_labels: Tensor
    dec_cu_seqlens: Tensor
    residue_mask: Tensor
    sample_numbers: Tensor
    lengths: np.ndarray


class PackedStep(NamedTuple):
    """The micro-batches of an optimizer step, end to end.

    A worker process of the loader sends each tensor as an open file. Many systems allow a process about a thousand open
    files, so the number of tensors must not grow with the number of micro-batches.

    Attributes
    ----------
    tensors : dict of str to Tensor
        The tensors of :class:`MicroBatch` by name, concatenated.
    sizes : dict of str to ndarray, shape=(M,), dtype=int64
        How many elements of each tensor belong to each of the M micro-batches.
    lengths : ndarray, shape=(B, 2), dtype=int64
        The lengths of all proteins.
    """

    tensors: dict[str, Tensor]
    sizes: dict[str, np.ndarray]
    lengths: np.ndarray

    @classmethod
    def of(cls, micro_batches: Sequence[MicroBatch]) -> PackedStep:
        """Put one or more micro-batches end to end."""
        parts = {
            name: [batch[name] for batch in micro_batches]  # type: ignore[literal-required]
            for name in MicroBatch.__annotations__
        }
        lengths = np.concatenate(parts.pop("lengths"))
        sizes = {name: np.array([len(tensor) for tensor in tensors]) for name, tensors in parts.items()}
        return cls({name: torch.cat(tensors) for name, tensors in parts.items()}, sizes, lengths)

    def micro_batches(self) -> list[MicroBatch]:
        """Return the micro-batches, as views of these tensors."""
        columns = {name: tensor.split(self.sizes[name].tolist()) for name, tensor in self.tensors.items()}
        lengths = np.split(self.lengths, np.cumsum(self.sizes["sample_numbers"])[:-1])
        rows = zip(*columns.values(), lengths, strict=True)
        return [MicroBatch(**dict(zip([*columns, "lengths"], row, strict=True))) for row in rows]  # type: ignore[typeddict-item]


class BatchShape(NamedTuple):
    """Constant size of micro-batches.

    Attributes
    ----------
    encoder_tokens, decoder_tokens : int
        Numbers of tokens, with filler.
    sequences : int
        Number of sequences: proteins, filler, and empty ones.
    encoder_length, decoder_length : int
        Largest number of tokens of a sequence.

    Examples
    --------
    >>> BatchShape(2048, 1024, 16, 512, 256).filler(1500, 900)
    [(274, 62), (274, 62)]
    """

    encoder_tokens: int
    decoder_tokens: int
    sequences: int
    encoder_length: int
    decoder_length: int

    def count_proteins(self, lengths_B2: np.ndarray) -> int:
        """Return how many of these proteins, from the first one on, fit into a micro-batch.

        Parameters
        ----------
        lengths_B2 : ndarray, shape=(B, 2), dtype=int64
            Number of encoder and of decoder tokens of each protein.

        Returns
        -------
        int

        Raises
        ------
        ProtT5nvError
            If not even the first protein fits.
        """
        left_B2 = np.array([self.encoder_tokens, self.decoder_tokens]) - lengths_B2[: self.sequences].cumsum(axis=0)
        fillers_B = (-(-left_B2 // np.array([self.encoder_length, self.decoder_length]))).max(axis=1)
        # Every filler sequence has an encoder and a decoder token, because attention to nothing is undefined.
        fits_B = (left_B2.min(axis=1) >= fillers_B) & (np.arange(1, len(left_B2) + 1) + fillers_B <= self.sequences)
        if not fits_B.any():
            raise ProtT5nvError(f"a protein of {lengths_B2[0].sum()} tokens does not fit into a micro-batch of {self}")
        return int(fits_B.nonzero()[0][-1]) + 1

    def filler(self, encoder_tokens: int, decoder_tokens: int) -> list[tuple[int, int]]:
        """Return the number of encoder and decoder tokens of each filler sequence behind so many tokens of proteins."""
        left = self.encoder_tokens - encoder_tokens, self.decoder_tokens - decoder_tokens
        count = max(-(-left[0] // self.encoder_length), -(-left[1] // self.decoder_length))
        encoder, decoder = ([tokens // count + (i < tokens % count) for i in range(count)] for tokens in left)
        return list(zip(encoder, decoder, strict=True))


def choose_shape(
    lengths_B2: np.ndarray, proteins: int, max_tokens: int, encoder_length: int, decoder_length: int
) -> BatchShape:
    """Choose the constant size of micro-batches so that a step needs few of them and little filler.

    Parameters
    ----------
    lengths_B2 : ndarray, shape=(B, 2), dtype=int64
        Number of encoder and of decoder tokens of some proteins of the data.
    proteins : int
        Number of proteins of a step.
    max_tokens : int
        Number of tokens that a micro-batch should have at most, counting the encoder and the decoder.
    encoder_length, decoder_length : int
        Largest number of tokens of a protein.

    Returns
    -------
    BatchShape

    Examples
    --------
    >>> choose_shape(np.tile([250, 76], (100, 1)), 2688, 86016, 512, 256)
    BatchShape(encoder_tokens=61376, decoder_tokens=18752, sequences=385, encoder_length=512, decoder_length=256)
    """
    mean_2, deviation_2 = lengths_B2.mean(axis=0), lengths_B2.std(axis=0)
    step_2 = proteins * mean_2 + _SPREAD * math.sqrt(proteins) * deviation_2
    num_micro_batches = max(1, math.ceil(step_2.sum() / max_tokens - _EXCESS))
    longest_2 = np.array([encoder_length, decoder_length])
    # A protein that does not fit leaves half of its length on average.
    tokens_2 = np.maximum(step_2 / num_micro_batches + longest_2 / 2, 2 * longest_2)
    encoder_tokens, decoder_tokens = (int(-(-tokens // _MULTIPLE)) * _MULTIPLE for tokens in tokens_2)
    sequences = 16 + math.ceil(1.5 * encoder_tokens / mean_2[0])
    return BatchShape(encoder_tokens, decoder_tokens, sequences, encoder_length, decoder_length)


def cut_micro_batches(
    batch: CorruptedBatch,
    sample_numbers_B: np.ndarray,
    *,
    max_proteins: int | None = None,
    max_tokens: int | None = None,
    shape: BatchShape | None = None,
) -> list[MicroBatch]:
    """Cut packed proteins into micro-batches, in order.

    Parameters
    ----------
    batch : CorruptedBatch
    sample_numbers_B : ndarray, shape=(B,), dtype=int64
    max_proteins : int, optional
        Maximum number of proteins in a micro-batch, ignored if `max_tokens` is given.
    max_tokens : int, optional
        Maximum number of tokens, counting the encoder and the decoder, ignored if `shape` is given. A protein that
        alone has more tokens is a micro-batch of its own.
    shape : BatchShape, optional
        Constant size of the micro-batches. Without any of the three, all proteins are in one micro-batch.

    Returns
    -------
    list of MicroBatch
    """
    lengths_B2 = np.stack([np.diff(batch.enc_cu_seqlens), np.diff(batch.dec_cu_seqlens)], axis=1).astype(np.int64)
    micro_batches = []
    for first, last in _cuts(lengths_B2, max_proteins, max_tokens, shape):
        micro_batch = _micro_batch(batch, lengths_B2[first:last], sample_numbers_B, first, last)
        micro_batches.append(micro_batch if shape is None else _filled(micro_batch, shape))
    return micro_batches


def _cuts(
    lengths_B2: np.ndarray, max_proteins: int | None, max_tokens: int | None, shape: BatchShape | None
) -> Iterator[tuple[int, int]]:
    num_proteins = len(lengths_B2)
    tokens_B1 = np.concatenate([[0], lengths_B2.sum(axis=1).cumsum()])
    first = 0
    while first < num_proteins:
        if shape is not None:
            last = first + shape.count_proteins(lengths_B2[first:])
        elif max_tokens is not None:
            last = int(np.searchsorted(tokens_B1, tokens_B1[first] + max_tokens, side="right")) - 1
            last = max(last, first + 1)
        else:
            last = min(first + (max_proteins or num_proteins), num_proteins)
        yield first, last
        first = last


def _micro_batch(
    batch: CorruptedBatch, lengths_B2: np.ndarray, sample_numbers_B: np.ndarray, first: int, last: int
) -> MicroBatch:
    enc_cu_seqlens = batch.enc_cu_seqlens[first : last + 1]
    dec_cu_seqlens = batch.dec_cu_seqlens[first : last + 1]
    enc, dec = slice(enc_cu_seqlens[0], enc_cu_seqlens[-1]), slice(dec_cu_seqlens[0], dec_cu_seqlens[-1])
    return MicroBatch(
        enc_tokens=torch.from_numpy(batch.enc_tokens[enc]),
        enc_cu_seqlens=torch.from_numpy(enc_cu_seqlens - enc_cu_seqlens[0]),
        dec_tokens=torch.from_numpy(batch.dec_tokens[dec]),
        dec_labels=torch.from_numpy(batch.dec_labels[dec]),
        dec_cu_seqlens=torch.from_numpy(dec_cu_seqlens - dec_cu_seqlens[0]),
        residue_mask=torch.from_numpy(batch.residue_mask[dec]),
        sample_numbers=torch.from_numpy(sample_numbers_B[first:last]),
        lengths=lengths_B2,
    )


def _filled(batch: MicroBatch, shape: BatchShape) -> MicroBatch:
    """Return the micro-batch with filler behind its proteins."""
    filler = shape.filler(len(batch["enc_tokens"]), len(batch["dec_tokens"]))
    encoder_lengths, decoder_lengths = zip(*[*batch["lengths"].tolist(), *filler], strict=True)
    return MicroBatch(
        enc_tokens=_extended(batch["enc_tokens"], shape.encoder_tokens, PAD),
        enc_cu_seqlens=_cumulative(encoder_lengths, shape.sequences),
        dec_tokens=_extended(batch["dec_tokens"], shape.decoder_tokens, PAD),
        dec_labels=_extended(batch["dec_labels"], shape.decoder_tokens, IGNORED),
        dec_cu_seqlens=_cumulative(decoder_lengths, shape.sequences),
        residue_mask=_extended(batch["residue_mask"], shape.decoder_tokens, False),
        sample_numbers=batch["sample_numbers"],
        lengths=batch["lengths"],
    )


def _extended(values: Tensor, size: int, filler: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, size - len(values)), value=filler)


def _cumulative(lengths: tuple[int, ...], sequences: int) -> Tensor:
    """Return the starts of the sequences and the end of the last one; empty sequences complete their number."""
    cu_seqlens = np.zeros(sequences + 1, dtype=np.int32)
    cu_seqlens[1 : len(lengths) + 1] = np.cumsum(lengths)
    cu_seqlens[len(lengths) + 1 :] = cu_seqlens[len(lengths)]
    return torch.from_numpy(cu_seqlens)
