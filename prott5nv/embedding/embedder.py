"""Embeddings: one row per residue, the last encoder layer after its final LayerNorm.

Proteins are streamed, sorted by length within a bounded window, cut into batches by a budget of residues, run without
padding, and handed back in input order. What a protein's rows are does not depend on the others.

Shapes: L residues of a protein, D hidden size; B proteins, T packed residues.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Protocol, TypeAlias, overload

import numpy as np
import torch

from prott5nv.assets import BUILTIN_MODEL
from prott5nv.checkpoint import load
from prott5nv.embedding.batching import LongProteins, Window, batches_of, join, window_starts
from prott5nv.errors import ProtT5nvError
from prott5nv.model.device import bound_compiled_products, choose_hardware, residue_budget
from prott5nv.model.prott5 import ProtT5
from prott5nv.model.tokenizer import ProteinTokenizer

LONG_RULES = ("truncate", "window", "error", "skip")

# Results of one window wait in memory for their turn; more batches than this do not sort better.
_BATCHES_PER_CHUNK = 4

_LENGTH_OF = attrgetter("length")  # of a window


class LongProteinWarning(UserWarning):
    """Proteins longer than the model's positions were cut, or left out, as the caller's rule says."""


class HasEmbedder(Protocol):
    """What wraps a loaded model, such as :class:`prott5nv.ProtT5nvInference`."""

    embedder: Embedder


class NamedProtein(Protocol):
    """What a :class:`prott5nv.io.record.Record` has."""

    id: str
    sequence: str


class Embedder:
    """A loaded model.

    Parameters
    ----------
    model : str, Path or ProtT5, optional
        A ``.nemo`` file, or a model in memory, which is copied. By default the small model inside this package.
    device : str
        ``auto`` (CUDA, else MPS, else CPU), or any name PyTorch knows, such as ``cuda:1``.
    precision : str
        ``auto``, ``fp32``, ``bf16`` or ``fp16``. Auto is bf16 where the hardware computes it natively.
        Results are float32 whatever the precision.
    max_tokens : int, optional
        Residues to compute at once; chosen for the hardware by default.
    compile : bool
        Whether to let ``torch.compile`` fuse the feed-forward layers, which takes half a minute at the first batch.

    Attributes
    ----------
    config : ModelConfig
    hardware : Hardware
        What was chosen, and why.

    Raises
    ------
    ProtT5nvError
        If the checkpoint cannot be read, or the device is not there.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5
    >>> embedder = Embedder(ProtT5(ModelConfig.preset("tiny")))
    >>> [(protein, rows.shape) for protein, rows in embedder.embed(["MSLKR", "MS"])]
    [('MSLKR', (5, 64)), ('MS', (2, 64))]
    """

    def __init__(
        self,
        model: str | Path | ProtT5 | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        max_tokens: int | None = None,
        compile: bool = False,
    ):
        if max_tokens is not None and max_tokens < 1:
            raise ProtT5nvError(f"max_tokens={max_tokens}: must be at least 1")
        bound_compiled_products()
        self.hardware = choose_hardware(device, precision)
        self.tokenizer = ProteinTokenizer()
        self._file = None if isinstance(model, ProtT5) else model_file(model)
        if self._file is None:
            encoder = copy.deepcopy(model)
        else:
            encoder = self._read()
            del encoder.decoder  # embeddings come from the encoder; this is more than half of the memory
        self.config = encoder.config
        self._encoder = encoder.to(self.hardware.device, self.hardware.dtype).eval()
        self.max_tokens = max_tokens or residue_budget(self.config, self.hardware)
        if compile:
            for layer in self._encoder.encoder.layers:
                layer.mlp.compile(dynamic=True)  # no batch has the residues of another

    @property
    def network(self) -> ProtT5:
        """Encoder and decoder; the decoder of a file is read when it is first asked for."""
        if not hasattr(self._encoder, "decoder"):
            self._encoder.decoder = self._read().decoder.to(self.hardware.device).eval()
        return self._encoder

    def _read(self) -> ProtT5:
        return load(self._file, dtype=self.hardware.dtype)

    def embed(
        self,
        proteins: Iterable[str | NamedProtein],
        *,
        pooling: str | None = None,
        long: str = "truncate",
        on_error: Callable[[str | NamedProtein, ProtT5nvError], None] | None = None,
    ) -> Iterator[tuple[str | NamedProtein, np.ndarray | None]]:
        """Embed a stream of proteins, of any number, in bounded memory.

        Parameters
        ----------
        proteins : iterable of str or Record
            Sequences, or anything with ``id`` and ``sequence``, such as what :func:`prott5nv.io.reader.read_records`
            yields.
        pooling : str, optional
            ``"mean"`` for one row per protein, the mean over its residues.
        long : str
            What to do with proteins of more than ``config.max_position_embeddings`` residues: ``truncate`` to their
            beginning, ``window`` (overlapping windows, averaged where they overlap), ``error`` or ``skip``.
            What was cut or skipped is counted and named in a `LongProteinWarning` at the end.
        on_error : callable, optional
            Called with a protein that cannot be embedded and the error, which is raised by default.

        Yields
        ------
        protein : str or Record
            In input order.
        rows : ndarray, shape=(L, D) or (D,), dtype=float32
            None for a protein that was skipped.

        Raises
        ------
        ProtT5nvError
            If a protein has no residues, holds something that is no residue, is too long under ``long="error"``, or
            does not fit into memory even alone.
        """
        _check_options(pooling, long)
        shortened = LongProteins()
        for chunk in self._chunks(proteins):
            windows, failures = [], {}
            for index, (name, protein) in enumerate(chunk):
                try:
                    windows += self._windows(index, name, protein, long, shortened)
                except ProtT5nvError as error:
                    failures[index] = error
            rows = self._rows(windows, len(chunk), failures)
            for index, (_, protein) in enumerate(chunk):
                if index in failures:
                    if on_error is None:
                        raise failures[index]
                    on_error(protein, failures[index])
                found = None if index in failures else rows[index]
                rows[index] = None  # the caller's now
                if found is not None and pooling:
                    found = found.mean(axis=0, dtype=np.float64).astype(np.float32)
                yield protein, found
        if shortened.count:
            self._warn(shortened, long)

    def _chunks(self, proteins: Iterable[str | NamedProtein]) -> Iterator[list[tuple[str, str | NamedProtein]]]:
        """Cut the stream into stretches that are sorted and computed together, and name each protein."""
        chunk, residues = [], 0
        for number, protein in enumerate(proteins, 1):
            sequence = getattr(protein, "sequence", protein)
            name = getattr(protein, "id", f"sequence {number}")
            if not isinstance(sequence, str):
                raise ProtT5nvError(f"{name} is a {type(sequence).__name__}: sequences must be strings of residues")
            chunk.append((name, protein))
            residues += len(sequence)
            if residues >= _BATCHES_PER_CHUNK * self.max_tokens:
                yield chunk
                chunk, residues = [], 0
        if chunk:
            yield chunk

    def _windows(
        self, index: int, name: str, protein: str | NamedProtein, long: str, shortened: LongProteins
    ) -> list[Window]:
        sequence = getattr(protein, "sequence", protein)
        length, limit = len(sequence), self.config.max_position_embeddings
        if not length:
            raise ProtT5nvError(f"{name} has no residues")
        (tokens_T, _) = self.tokenizer.encode_batch([sequence], [name])
        if length <= limit:
            return [Window(index, 0, tokens_T, name)]
        if long == "error":
            raise ProtT5nvError(
                f"{name} has {length} residues and this model sees at most {limit} at once: "
                "use long='window' for all of them, or 'truncate' for the first"
            )
        if long == "window":
            return [Window(index, i, tokens_T[i : i + limit], name) for i in window_starts(length, limit)]
        shortened.add(name, length)
        return [] if long == "skip" else [Window(index, 0, tokens_T[:limit], name)]

    def _rows(self, windows: list[Window], count: int, failures: dict[int, ProtT5nvError]) -> list[np.ndarray | None]:
        """Rows of each protein of a window; proteins that fail are added to `failures`."""
        hidden: dict[int, list[tuple[int, np.ndarray]]] = {}
        # Longest first: where memory runs out, it does so at the beginning.
        for batch in batches_of(sorted(windows, key=lambda window: -window.length), _LENGTH_OF, self.max_tokens):
            for window, found in zip(batch, self._encode(batch), strict=True):
                if isinstance(found, ProtT5nvError):
                    failures[window.protein] = found
                else:
                    hidden.setdefault(window.protein, []).append((window.start, found))
        return [join(hidden.pop(index, None)) for index in range(count)]

    def encode_windows(self, windows: Sequence[Window]) -> list[np.ndarray]:
        """Hidden states of token windows, batched by the token budget.

        Parameters
        ----------
        windows : sequence of Window
            Each at most ``config.max_position_embeddings`` tokens.

        Returns
        -------
        list of ndarray, shape=(T, D), dtype=float32
            One for each window, in the given order.

        Raises
        ------
        ProtT5nvError
            If a window does not fit into memory even alone.
        """
        found = []
        for batch in batches_of(windows, _LENGTH_OF, self.max_tokens):
            for rows in self._encode(batch):
                if isinstance(rows, ProtT5nvError):
                    raise rows
                found.append(rows)
        return found

    def _encode(self, batch: list[Window]) -> list[np.ndarray | ProtT5nvError]:
        """Rows of each window; where memory does not suffice, of one half of the batch after the other."""
        try:
            return self._forward([window.tokens_T for window in batch])
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        # Outside the except clause, which would keep the failed attempt's tensors alive.
        if self.hardware.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) == 1:
            length = len(batch[0].tokens_T)
            return [ProtT5nvError(f"{batch[0].name}: not enough memory for its {length} residues alone")]
        half = len(batch) // 2
        self.max_tokens = min(self.max_tokens, sum(len(window.tokens_T) for window in batch[:half]))
        return self._encode(batch[:half]) + self._encode(batch[half:])

    @torch.inference_mode()
    def _forward(self, tokens: list[np.ndarray]) -> list[np.ndarray]:
        lengths = [len(tokens_T) for tokens_T in tokens]
        cu_seqlens_B1 = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
        tokens_T = torch.from_numpy(np.concatenate(tokens))
        device = self.hardware.device
        hidden_TD = self._encoder.encode(tokens_T.to(device), cu_seqlens_B1.to(device))
        rows_TD = hidden_TD.cpu().float().numpy()  # widened after the transfer, which is halved thereby
        # Copies: a slice that someone keeps would hold the whole batch in memory.
        return [rows.copy() for rows in np.split(rows_TD, np.cumsum(lengths)[:-1])]

    def _warn(self, shortened: LongProteins, long: str) -> None:
        limit = self.config.max_position_embeddings
        done = f"cut to their first {limit} residues" if long == "truncate" else "skipped"
        warnings.warn(
            f"proteins longer than {limit} residues, {done}: {shortened.count}, namely {shortened}; "
            "long='window' embeds all of their residues",
            LongProteinWarning,
            stacklevel=3,
        )


#: What a user may pass as a model: a file, a model in memory, or a loaded one; None is the built-in model.
Model: TypeAlias = str | Path | ProtT5 | Embedder | HasEmbedder | None


@overload
def seqs_to_embedding(
    sequences: Sequence[str],
    model: Model = None,
    pooling: None = None,
    device: str = "auto",
    precision: str = "auto",
    long: str = "truncate",
    max_tokens: int | None = None,
) -> list[np.ndarray | None]: ...
@overload
def seqs_to_embedding(
    sequences: Sequence[str],
    model: Model = None,
    *,
    pooling: str,
    device: str = "auto",
    precision: str = "auto",
    long: str = "truncate",
    max_tokens: int | None = None,
) -> np.ndarray: ...
def seqs_to_embedding(
    sequences: Sequence[str],
    model: Model = None,
    pooling: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    long: str = "truncate",
    max_tokens: int | None = None,
) -> list[np.ndarray | None] | np.ndarray:
    """Embed proteins.

    Parameters
    ----------
    sequences : sequence of str
        Proteins in one-letter code.
    model : str, Path, ProtT5, Embedder or ProtT5nvInference, optional
        A ``.nemo`` file, or a model that is loaded already, which saves time from the second call on.
        By default the small model inside this package.
    pooling : str, optional
        ``"mean"`` for one row per protein.
    device, precision, max_tokens
        As for :class:`Embedder`; they belong to the model and cannot be given with a loaded one.
    long : str
        ``truncate``, ``window``, ``error`` or ``skip``; see :meth:`Embedder.embed`.

    Returns
    -------
    list of ndarray, shape=(L, D), dtype=float32
        In input order, one row per residue; None for a protein that ``long="skip"`` left out.
        With ``pooling="mean"``: ndarray, shape=(B, D), dtype=float32; rows of NaN for proteins left out.

    Raises
    ------
    ProtT5nvError
        If a protein cannot be embedded, or an option is not valid.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5, seqs_to_embedding
    >>> model = ProtT5(ModelConfig.preset("tiny"))
    >>> [rows.shape for rows in seqs_to_embedding(["MSLKR", "MS"], model)]
    [(5, 64), (2, 64)]
    >>> seqs_to_embedding(["MSLKR", "MS"], model, pooling="mean").shape
    (2, 64)
    """
    check_sequences(sequences)
    embedder = as_embedder(model, device=device, precision=precision, max_tokens=max_tokens)
    rows = [found for _, found in embedder.embed(sequences, pooling=pooling, long=long)]
    if pooling is None:
        return rows
    pooled_BD = np.full((len(rows), embedder.config.hidden_size), np.nan, dtype=np.float32)
    for index, found in enumerate(rows):
        if found is not None:
            pooled_BD[index] = found
    return pooled_BD


def as_embedder(
    model: Model, *, device: str = "auto", precision: str = "auto", max_tokens: int | None = None
) -> Embedder:
    """Load whatever a user passes as `model`, unless it is loaded already.

    Parameters
    ----------
    model : str, Path, ProtT5, Embedder, ProtT5nvInference or None
        None is the built-in model.
    device, precision, max_tokens
        As for :class:`Embedder`.

    Returns
    -------
    Embedder

    Raises
    ------
    ProtT5nvError
        If the model cannot be read, or it is loaded already and one of the other options is given.
    """
    loaded = model if isinstance(model, Embedder) else getattr(model, "embedder", None)
    if loaded is None:
        return Embedder(model, device=device, precision=precision, max_tokens=max_tokens)
    if (device, precision, max_tokens) != ("auto", "auto", None):
        raise ProtT5nvError("this model is loaded already: give device, precision and max_tokens when it is loaded")
    return loaded


def check_sequences(sequences: Sequence[str]) -> None:
    """Refuse one string, whose letters would be taken for proteins."""
    if isinstance(sequences, str):
        raise ProtT5nvError("sequences is one string: pass a list of proteins, [sequence] for one")


def model_file(model: str | Path | None) -> Path:
    """The checkpoint that a name stands for: None is the built-in model."""
    if model is not None:
        return Path(model)
    if not BUILTIN_MODEL.is_file():
        raise ProtT5nvError(f"this installation has no built-in model ({BUILTIN_MODEL}): name a .nemo file")
    return BUILTIN_MODEL


def _check_options(pooling: str | None, long: str) -> None:
    if pooling not in (None, "mean"):
        raise ProtT5nvError(f"pooling={pooling!r}: choose 'mean', or None for one row per residue")
    if long not in LONG_RULES:
        raise ProtT5nvError(f"long={long!r}: choose {', '.join(LONG_RULES)}")


def _is_out_of_memory(error: BaseException) -> bool:
    # The CPU allocator has no exception type of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
