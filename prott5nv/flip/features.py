"""What a head sees of a protein: one-hot residues, embeddings computed once and kept on disk, or a living encoder.

All three give the rows of a batch of proteins end to end. Pooled features have one row per protein, the mean.

Shapes: P proteins of a task, B proteins of a batch, L residues of one, T rows of a batch, D columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from prott5nv.embedding.batching import window_starts
from prott5nv.embedding.embedder import Embedder
from prott5nv.io.atomic import whole_file
from prott5nv.model.prott5 import ProtT5
from prott5nv.model.tokenizer import FIRST_RESIDUE, RESIDUES, ProteinTokenizer


class Features(Protocol):
    """Anything with rows for proteins.

    Attributes
    ----------
    width : int
        D.
    """

    width: int

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Rows of some proteins: Tensor, shape=(T, D), dtype=float32, and how many of them each protein has."""


class OneHot:
    """One column per residue letter: what can be said without a language model.

    Parameters
    ----------
    sequences : sequence of str
    pooled : bool
        Whether to give the mean row of each protein, its composition.

    Examples
    --------
    >>> rows, lengths = OneHot(["MSLKR", "MS"]).batch([1, 0])
    >>> rows.shape, lengths
    (torch.Size([7, 25]), [2, 5])
    """

    width = len(RESIDUES)

    def __init__(self, sequences: Sequence[str], *, pooled: bool = False):
        tokens_T, self._starts = ProteinTokenizer().encode_batch(sequences)
        self._tokens_T = tokens_T.astype(np.uint8)
        self._pooled = pooled

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, list[int]]:
        tokens = [self._tokens_T[self._starts[i] : self._starts[i + 1]] for i in indices]
        lengths = [len(tokens_L) for tokens_L in tokens]
        columns_T = torch.from_numpy(np.concatenate(tokens)).long() - FIRST_RESIDUE
        # Letters without a token of their own have no column: their rows are zero.
        rows_TD = torch.zeros(len(columns_T), self.width)
        known_T = columns_T >= 0
        rows_TD[known_T, columns_T[known_T]] = 1.0
        if not self._pooled:
            return rows_TD, lengths
        return torch.stack([rows.mean(0) for rows in rows_TD.split(lengths)]), [1] * len(indices)


class StoredRows:
    """Embeddings in a memory-mapped file.

    Parameters
    ----------
    path : Path
        Rows of all proteins, end to end: float16, shape (sum of `lengths`, D).
    lengths : sequence of int
        Rows of each protein.
    """

    def __init__(self, path: Path, lengths: Sequence[int]):
        self._rows = np.load(path, mmap_mode="r")
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self.width = self._rows.shape[1]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, list[int]]:
        rows = [self._rows[self._starts[i] : self._starts[i + 1]] for i in indices]
        return torch.from_numpy(np.concatenate(rows)).float(), [len(each) for each in rows]


def stored_embeddings(
    sequences: Sequence[str],
    model: Path,
    folder: Path,
    *,
    pooled: bool,
    precision: str = "auto",
    device: str = "auto",
    on_progress: Callable[[int], None] = lambda residues: None,
) -> StoredRows:
    """Embed proteins, or find the embeddings that an earlier run left.

    Proteins longer than the model sees at once are embedded by overlapping windows. Numbers are kept as float16,
    which is finer than the bf16 they may have been computed in.

    Parameters
    ----------
    sequences : sequence of str
    model : Path
        A ``.nemo`` file.
    folder : Path
        Of the cache. A file in it is named by a hash of the model, the precision, the sequences and the pooling.
    pooled : bool
        Whether to keep only the mean row of each protein.
    precision, device : str
        As for :class:`prott5nv.Embedder`.
    on_progress : callable, optional
        Called with the residues of each protein that is done; not called where the embeddings are there already.
    """
    from prott5nv.embedding.job import file_sha256

    inference = Embedder(model, precision=precision, device=device)
    digest = hashlib.sha256(f"{file_sha256(model)} {inference.hardware.precision} {pooled}".encode())
    for sequence in sequences:
        digest.update(f"\n{sequence}".encode())
    path = folder / f"{digest.hexdigest()[:32]}.npy"
    lengths = [1] * len(sequences) if pooled else [len(sequence) for sequence in sequences]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shape = (sum(lengths), inference.config.hidden_size)
        with whole_file(path) as temporary:
            rows = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
            start = 0
            for sequence, found in inference.embed(sequences, pooling="mean" if pooled else None, long="window"):
                end = start + (1 if pooled else len(sequence))
                rows[start:end] = found
                start = end
                on_progress(len(sequence))
            rows.flush()
    return StoredRows(path, lengths)


class LiveEncoder(nn.Module):
    """The encoder itself, for training it together with a head.

    Parameters
    ----------
    model : ProtT5
        Its encoder and embedding tables are used as they are, not copied.
    sequences : sequence of str
    """

    def __init__(self, model: ProtT5, sequences: Sequence[str]):
        super().__init__()
        self.model = model
        self.width = model.config.hidden_size
        self._limit = model.config.max_position_embeddings
        tokens_T, starts = ProteinTokenizer().encode_batch(sequences)
        self._tokens = np.split(tokens_T, starts[1:-1])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, list[int]]:
        device = self.model.embedding.word_embeddings.weight.device
        lengths = [len(self._tokens[i]) for i in indices]
        # A long protein is cut into the windows that inference uses, and their rows are averaged where they overlap.
        pieces, places, first = [], [], 0
        for i, length in zip(indices, lengths, strict=True):
            for start in window_starts(length, self._limit):
                pieces.append(self._tokens[i][start : start + self._limit])
                places.append(np.arange(first + start, first + start + len(pieces[-1])))
            first += length
        cu_seqlens_B1 = torch.tensor(np.cumsum([0, *map(len, pieces)]), dtype=torch.int32, device=device)
        hidden_TD = self.model.encode(torch.from_numpy(np.concatenate(pieces)).to(device), cu_seqlens_B1).float()
        if len(pieces) == len(indices):
            return hidden_TD, lengths
        places_T = torch.from_numpy(np.concatenate(places)).to(device)
        windows_T = torch.bincount(places_T, minlength=first)
        summed_TD = hidden_TD.new_zeros(first, self.width).index_add(0, places_T, hidden_TD)
        return summed_TD / windows_T[:, None], lengths
