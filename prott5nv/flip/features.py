"""Input of a head: one-hot residues, embeddings computed once and cached on disk, or an encoder that is trained.

All three return the rows of a batch of proteins, concatenated. Pooled features have one row per protein, the mean.

Shapes: L residues of a protein, T rows of a batch, D columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from prott5nv.embedding.batching import window_starts
from prott5nv.embedding.embedder import Embedder
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.row_cache import DTYPE, open_rows, write_rows
from prott5nv.io.record import Record
from prott5nv.model.encoder import Encoder
from prott5nv.model.finite import check_finite
from prott5nv.model.tokenizer import FIRST_RESIDUE, RESIDUES, ProteinTokenizer


class Features(Protocol):
    """The rows of the proteins of a task.

    Attributes
    ----------
    width : int
        Number of columns (D).
    """

    width: int

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Return the concatenated rows of some proteins.

        Parameters
        ----------
        indices : sequence of int
            Indices of the proteins.

        Returns
        -------
        Tensor, shape=(T, D), dtype=float32
        list of int
            Number of rows of each protein.
        """


class OneHot:
    """One column per residue letter: features that need no language model.

    Parameters
    ----------
    sequences : sequence of str
    pooled : bool, default False
        Whether to return the mean row of each protein, which is its composition.

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
        """Return the concatenated rows of some proteins; see :meth:`Features.batch`."""
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
    """Rows in a memory-mapped file.

    Parameters
    ----------
    path : Path
        A ``.npy`` file with the concatenated rows of all proteins: shape=(sum of `lengths`, D), dtype=float16. See
        `prott5nv.flip.row_cache`.
    lengths : sequence of int
        Number of rows of each protein.
    """

    def __init__(self, path: Path, lengths: Sequence[int]):
        self._rows = open_rows(path, lengths)
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self.width = int(self._rows.shape[1])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Return the concatenated rows of some proteins; see :meth:`Features.batch`."""
        rows = [self._rows[self._starts[i] : self._starts[i + 1]] for i in indices]
        return torch.from_numpy(np.concatenate(rows)).float(), [len(each) for each in rows]


def stored_embeddings(
    names: Sequence[str],
    sequences: Sequence[str],
    model: str | Path,
    folder: Path,
    *,
    pooled: bool,
    precision: str = "auto",
    device: str = "auto",
    on_progress: Callable[[int], object] = lambda residues: None,
) -> StoredRows:
    """Embed proteins, or open the embeddings that an earlier run has cached.

    If a run is killed, the next one continues with the first protein that is not in the cache.

    Proteins longer than the model's position table are embedded by overlapping windows. Embeddings are stored as
    float16, which has more precision than bf16.

    Parameters
    ----------
    names, sequences : sequence of str
        Names of the proteins for error messages, and their residues.
    model : str or Path
        See :class:`prott5nv.embedding.embedder.Embedder`.
    folder : Path
        Folder of the cache. The name of a file in it is a hash of the model, the precision, the sequences and `pooled`.
    pooled : bool
        Whether to store only the mean row of each protein.
    precision, device : str
        As for :class:`prott5nv.embedding.embedder.Embedder`.
    on_progress : callable, optional
        Called with the number of residues that an interrupted run has embedded, and with that of each protein after it
        has been embedded. It is not called if all embeddings are cached.

    Returns
    -------
    StoredRows

    Raises
    ------
    ProtT5nvError
        If the model cannot be read, a protein cannot be embedded or its embedding is not finite, or the cache is
        damaged or cannot be written.
    """
    embedder = Embedder(model, precision=precision, device=device)
    digest = hashlib.sha256(f"{embedder.model_sha256} {embedder.hardware.precision} {pooled}".encode())
    for sequence in sequences:
        digest.update(f"\n{sequence}".encode())
    path = folder / f"{digest.hexdigest()[:32]}.npy"
    lengths = [1] * len(sequences) if pooled else [len(sequence) for sequence in sequences]

    def embed(first: int) -> Iterator[np.ndarray]:
        if first:
            on_progress(sum(map(len, sequences[:first])))
        proteins = [
            Record(name, sequence, name, 0) for name, sequence in zip(names[first:], sequences[first:], strict=True)
        ]
        # The sequences of a task are clean.
        embedded = embedder.embed(proteins, pooling="mean" if pooled else None, long="window", cleaning=None)
        for protein, rows in embedded:
            assert rows is not None  # long="window" skips no protein
            check_finite(rows, protein.id, embedder.hardware.precision)
            yield _as_float16(np.atleast_2d(rows), protein.id)
            on_progress(len(protein.sequence))

    if not path.is_file():
        write_rows(path, lengths, embedder.config.hidden_size, embed)
    return StoredRows(path, lengths)


def _as_float16(rows_LD: np.ndarray, name: str) -> np.ndarray:
    """Convert rows to the data type of the cache, and refuse values beyond its range."""
    with np.errstate(over="ignore"):
        converted_LD = rows_LD.astype(DTYPE)
    if not np.isfinite(converted_LD).all():
        raise ProtT5nvError(
            f"{name}: its embedding has values beyond the range of float16, in which fine-tuning stores embeddings; "
            "choose mode=full or mode=lora, which store none"
        )
    return converted_LD


class LiveEncoder(nn.Module):
    """The encoder itself, which is trained together with a head.

    Parameters
    ----------
    model : Encoder
        Used as it is, not copied.
    sequences : sequence of str
    """

    def __init__(self, model: Encoder, sequences: Sequence[str]):
        super().__init__()
        self.model = model
        self.width = model.config.hidden_size
        self._limit = model.config.max_residues
        tokens_T, starts = model.tokenizer.encode_batch(sequences)
        model.tokenizer.warn_of_replaced()
        self._tokens = np.split(tokens_T, starts[1:-1])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Return the concatenated rows of some proteins; see :meth:`Features.batch`."""
        device = next(self.model.parameters()).device
        lengths = [len(self._tokens[i]) for i in indices]
        # A long protein is cut into the same windows as in inference; rows are averaged where windows overlap.
        windows, positions, first = [], [], 0
        for i, length in zip(indices, lengths, strict=True):
            limit = self._limit or length
            for start in window_starts(length, limit):
                windows.append(self._tokens[i][start : start + limit])
                positions.append(np.arange(first + start, first + start + len(windows[-1])))
            first += length
        cu_seqlens_B1 = torch.tensor(np.cumsum([0, *map(len, windows)]), dtype=torch.int32, device=device)
        hidden_TD = self.model.encode(torch.from_numpy(np.concatenate(windows)).to(device), cu_seqlens_B1).float()
        if len(windows) == len(indices):
            return hidden_TD, lengths
        positions_T = torch.from_numpy(np.concatenate(positions)).to(device)
        windows_T = torch.bincount(positions_T, minlength=first)
        summed_TD = hidden_TD.new_zeros(first, self.width).index_add(0, positions_T, hidden_TD)
        return summed_TD / windows_T[:, None], lengths
