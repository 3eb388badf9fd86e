"""Embeddings of a list of sequences, in one call.

Shapes: L residues of a protein, D hidden size, B proteins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import overload

import numpy as np

from prott5nv.embedding.models import Model, as_embedder
from prott5nv.embedding.proteins import ProteinLike
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning


@overload
def seqs_to_embedding(
    sequences: Iterable[ProteinLike],
    model: Model = None,
    pooling: None = None,
    device: str = "auto",
    precision: str = "auto",
    long: str = "truncate",
    max_tokens: int | None = None,
    cleaning: Cleaning | None = DEFAULT_CLEANING,
    progress: bool = False,
) -> list[np.ndarray | None]: ...
@overload
def seqs_to_embedding(
    sequences: Iterable[ProteinLike],
    model: Model = None,
    *,
    pooling: str,
    device: str = "auto",
    precision: str = "auto",
    long: str = "truncate",
    max_tokens: int | None = None,
    cleaning: Cleaning | None = DEFAULT_CLEANING,
    progress: bool = False,
) -> np.ndarray: ...
def seqs_to_embedding(
    sequences: Iterable[ProteinLike],
    model: Model = None,
    pooling: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    long: str = "truncate",
    max_tokens: int | None = None,
    cleaning: Cleaning | None = DEFAULT_CLEANING,
    progress: bool = False,
) -> list[np.ndarray | None] | np.ndarray:
    """Embed a list of proteins.

    Parameters
    ----------
    sequences : iterable of str, Bio.Seq, Bio.SeqRecord or Record
        Proteins in one-letter code, such as a list, a pandas Series or a generator. Objects with ``id`` and
        ``sequence`` or ``seq`` are accepted, too.
    model : str, Path, ProtT5, Embedder or ProtT5nvInference, optional
        A ``.nemo`` file, or a model that is already loaded, which saves the loading time of further calls. The default
        is the small built-in model.
    pooling : str, optional
        ``"mean"`` for one row per protein; see :meth:`prott5nv.Embedder.embed`.
    device, precision
        See :class:`prott5nv.Embedder`. They cannot be given together with a loaded model.
    long : str
        ``truncate``, ``window``, ``error`` or ``skip``; see :meth:`prott5nv.Embedder.embed`.
    max_tokens
        See :class:`prott5nv.Embedder`. It cannot be given together with a loaded model.
    cleaning : Cleaning or None
        What to do with gaps and nucleotides: see :meth:`prott5nv.Embedder.embed`.
    progress : bool, default False
        Whether to show a progress bar, in a terminal or a notebook.

    Returns
    -------
    list of ndarray, shape=(L, D), dtype=float32
        One array per protein in input order, with one row per residue of the clean sequence. None stands for a protein
        that was skipped.
        With pooling, the result is one ndarray, shape=(B, D), dtype=float32, with rows of NaN for skipped proteins.

    Raises
    ------
    ProtT5nvError
        If `sequences` is a single sequence, a mapping or a data frame, a protein cannot be embedded, or an option is
        not valid.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5, seqs_to_embedding
    >>> model = ProtT5(ModelConfig.preset("tiny"))
    >>> [rows.shape for rows in seqs_to_embedding(["MSLKR", "MS"], model)]
    [(5, 64), (2, 64)]
    >>> seqs_to_embedding(["MSLKR", "MS"], model, pooling="mean").shape
    (2, 64)
    """
    embedder = as_embedder(model, device=device, precision=precision, max_tokens=max_tokens)
    embedded: Iterable[tuple[ProteinLike, np.ndarray | None]] = embedder.embed(
        sequences, pooling=pooling, long=long, cleaning=cleaning
    )
    if progress:
        from tqdm.auto import tqdm  # in a notebook, its import warns if ipywidgets is missing

        embedded = tqdm(embedded, total=len(sequences) if isinstance(sequences, Sized) else None, unit=" proteins")
    embeddings = [rows for _, rows in embedded]
    if pooling is None:
        return embeddings
    pooled_BD = np.full((len(embeddings), embedder.config.hidden_size), np.nan, dtype=np.float32)
    for index, row_D in enumerate(embeddings):
        if row_D is not None:
            pooled_BD[index] = row_D
    return pooled_BD
