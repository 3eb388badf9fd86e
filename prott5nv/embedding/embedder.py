"""The embedding engine: one row per residue, by default from the last encoder layer after its final LayerNorm.

Proteins are streamed and packed into batches without padding; see :mod:`prott5nv.embedding.chunks`. The rows of a
protein do not depend on the other proteins.

Shapes: L residues of a protein, D hidden size, B windows, T packed residues.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from prott5nv.assets import BUILTIN_MODEL
from prott5nv.checkpoint.models import load_with_origin, model_file, model_label, model_name, no_span_decoder
from prott5nv.embedding.batching import LongProteins, TokenBudget, Window
from prott5nv.embedding.chunks import ChunkedRun
from prott5nv.embedding.formats import DTYPES
from prott5nv.embedding.pooling import POOLINGS
from prott5nv.embedding.proteins import Protein, named_sequences
from prott5nv.embedding.runner import BatchRunner, Form, started_ahead
from prott5nv.errors import ProtT5nvError, warn
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.model.config import ModelConfig
from prott5nv.model.device import can_compile, choose_hardware, residue_budget
from prott5nv.model.encoder import Encoder
from prott5nv.model.prott5 import ProtT5

LONG_RULES = ("truncate", "window", "error", "skip")

# At the rate of the encoder on one H200, this takes about two minutes, and compiling takes 12 seconds.
_RESIDUES_TO_COMPILE = 300_000_000


class LongProteinWarning(UserWarning):
    """Some proteins were longer than the model accepts, and were truncated or skipped as requested."""


class Embedder:
    """A loaded model that computes embeddings.

    Parameters
    ----------
    model : str, Path, ProtT5 or T5Encoder, optional
        A ``.nemo`` file, the folder of a T5 model, its name on the Hugging Face Hub, or a model in memory, which is
        copied. The default is the small built-in model.
    device : str
        ``auto`` chooses CUDA, otherwise MPS, otherwise the CPU. Any name that PyTorch knows, such as ``cuda:1``, is
        accepted.
    precision : str
        ``auto``, ``fp32``, ``bf16`` or ``fp16``. ``auto`` chooses bf16 where the hardware computes it natively.
        Results are float32 with every precision.
    max_tokens : int, optional
        Number of residues to compute at once. By default it is chosen for the hardware.
    compile : bool
        Whether ``torch.compile`` fuses the layers on a GPU, or the feed-forward networks elsewhere. The first batch
        then takes up to half a minute longer.
    max_length : int, optional
        Number of residues from which a protein counts as long; see the parameter `long` of :meth:`embed`. By default it
        is what the model accepts at once, and no protein is long for a model without a limit.
    input : {"aa", "3di"}
        Kind of the sequences: amino acids, or structural states of Foldseek, which only ProstT5 takes.
    layer : int, optional
        Number of the encoder layer whose output is the embedding, from 1. By default it is the last one after the final
        normalization. The output of other layers is not normalized, as in ``hidden_states`` of transformers.

    Attributes
    ----------
    config : EncoderConfig
        Architecture of the model.
    hardware : Hardware
        Device and precision, with the reason for the choice.
    tokenizer : ResidueTokenizer
        Converts residues to token ids.
    limit : int or None
        Number of residues that are computed at once; None if there is no limit.
    attributes : dict of str to str
        What an output records about the model and its settings, besides the checksum.
    model_sha256 : str
        Checksum of the model: of its file or folder, or of configuration and weights of a model in memory; see
        :meth:`prott5nv.model.encoder.Encoder.sha256`.
    max_tokens : int
        Number of residues to compute at once. It shrinks when a batch does not fit into memory, and grows again later.

    Raises
    ------
    ProtT5nvError
        If the checkpoint cannot be read, or the device is not available.

    Notes
    -----
    On a CPU, call :func:`prott5nv.limit_onednn_cache` at the start of a program that embeds many proteins. Otherwise
    oneDNN's cache of compiled kernels can grow by up to a gigabyte. The constructor does not do this, because it would
    change the environment of the whole process.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5
    >>> embedder = Embedder(ProtT5(ModelConfig.preset("tiny")))
    >>> [(protein, rows.shape) for protein, rows in embedder.embed(["MSLKR", "MS"])]
    [('MSLKR', (5, 64)), ('MS', (2, 64))]
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Encoder | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        max_tokens: int | None = None,
        compile: bool = False,
        max_length: int | None = None,
        input: str = "aa",
        layer: int | None = None,
    ) -> None:
        if max_tokens is not None and max_tokens < 1:
            raise ProtT5nvError(f"max_tokens={max_tokens}: must be at least 1")
        self.hardware = choose_hardware(device, precision)
        self._file: Path | None = None
        self.attributes: dict[str, str] = {}
        network: Encoder
        if isinstance(model, Encoder):
            if input != "aa":
                raise ProtT5nvError(f"input={input!r}: give the path of the model, because its vocabulary must be read")
            network = copy.deepcopy(model)
            self.model_sha256 = network.sha256()
        else:
            network, origin = load_with_origin(model_file(model), self.hardware.dtype, input=input)
            self._file, self.model_sha256 = origin.path, origin.sha256
            self.attributes |= origin.attributes
            if isinstance(network, ProtT5):
                del network.decoder  # Embeddings need the encoder only; the decoder takes more than half of the memory.
        self.config = network.config
        self.tokenizer = network.tokenizer
        self.limit = self._checked_limit(max_length)
        if layer is not None:
            self._end_after(network, layer)
        network.place(self.hardware.device, self.hardware.dtype)
        self._network = network.eval()
        budget = TokenBudget(max_tokens or residue_budget(self.config, self.hardware))
        self._runner = BatchRunner(self._network, self.hardware, budget)
        if compile:
            self.compile_layers()

    def _checked_limit(self, max_length: int | None) -> int | None:
        """Return the number of residues to compute at once, and record a choice that changes the embeddings."""
        limit = self.config.max_residues
        if max_length is None:
            return limit
        # Windows overlap by half of their length.
        if max_length < 2 or (limit is not None and max_length > limit):
            raise ProtT5nvError(
                f"max_length={max_length}: must be at least 2"
                + (f" and at most {limit} for this model" if limit else "")
            )
        if max_length != limit:
            self.attributes["max_length"] = str(max_length)
        return max_length

    def _end_after(self, network: Encoder, layer: int) -> None:
        """Let the encoder end after a layer, and record a choice that changes the embeddings."""
        number = len(network.encoder.layers)
        if not 1 <= layer <= number:
            raise ProtT5nvError(f"layer={layer}: the encoder has the layers 1 to {number}")
        if layer < number:
            network.end_after(layer)
            self.attributes["layer"] = str(layer)

    @property
    def max_tokens(self) -> int:
        """Number of residues to compute at once."""
        return self._runner.budget.tokens

    @max_tokens.setter
    def max_tokens(self, tokens: int) -> None:
        self._runner.budget = TokenBudget(tokens)

    @property
    def name(self) -> str:
        """Name of the model for people: that of its file or folder, or of its class for a model in memory."""
        return type(self._network).__name__ if self._file is None else model_name(self._file)

    @property
    def label(self) -> str:
        """Name of the model and the first digits of its checksum, as tables, pages and messages show them."""
        return model_label(self.name, self.model_sha256)

    @property
    def is_builtin(self) -> bool:
        """Whether this is the model inside the package."""
        return self._file is not None and self._file.resolve() == BUILTIN_MODEL.resolve()

    @property
    def decoder_config(self) -> ModelConfig:
        """Architecture of a model with a span decoder.

        Raises
        ------
        ProtT5nvError
            If the model has no span decoder, so that it can neither score nor fill.
        """
        if not isinstance(self.config, ModelConfig):
            raise no_span_decoder(self._file or type(self._network).__name__)
        return self.config

    @property
    def network(self) -> ProtT5:
        """Encoder and decoder. The decoder of a checkpoint file is loaded on first access.

        Raises
        ------
        ProtT5nvError
            If the model has no span decoder, its file has changed since the encoder was loaded, or `layer` is not the
            last one.
        """
        if "layer" in self.attributes:
            raise ProtT5nvError("the decoder needs the whole encoder: load the model without layer=")
        if not isinstance(self._network, ProtT5):
            raise no_span_decoder(self._file or type(self._network).__name__)
        if self._file is not None and not hasattr(self._network, "decoder"):
            whole, origin = load_with_origin(self._file, self.hardware.dtype)
            if origin.sha256 != self.model_sha256 or not isinstance(whole, ProtT5):
                raise ProtT5nvError(f"{self._file} has changed since it was loaded: load the model again")
            self._network.decoder = whole.decoder.to(self.hardware.device).eval()
        return self._network

    def compile_layers(self) -> None:
        """Let ``torch.compile`` fuse the layers on a GPU, or the feed-forward networks elsewhere.

        The next batch takes up to half a minute longer.
        """
        for module in self._network.fusible_parts():
            module.compile(dynamic=True)  # The number of residues differs from batch to batch.

    def gains_from_compiling(self, residues: int) -> bool:
        """Return whether embedding so many residues takes long enough to compile the layers first.

        Parameters
        ----------
        residues : int

        Returns
        -------
        bool
            False on a CPU, where the layers are fused already, and for T5 models, which no GPU has run yet.
        """
        on_gpu = self.hardware.precision != "fp32" and can_compile(self.hardware.device)
        return on_gpu and isinstance(self._network, ProtT5) and residues >= _RESIDUES_TO_COMPILE

    def embed(
        self,
        proteins: Iterable[Protein],
        *,
        pooling: str | None = None,
        long: str = "truncate",
        dtype: str = "float32",
        cleaning: Cleaning | None = DEFAULT_CLEANING,
        on_error: Callable[[Protein, ProtT5nvError], None] | None = None,
    ) -> Iterator[tuple[Protein, np.ndarray | None]]:
        """Embed a stream of proteins of any length, in bounded memory.

        Parameters
        ----------
        proteins : iterable of str, Bio.Seq, Bio.SeqRecord or Record
            Sequences, or objects with ``id`` and ``sequence`` or ``seq``, such as the records that
            :func:`prott5nv.io.reader.read_records` yields; see
            :func:`prott5nv.embedding.proteins.named_sequences`.
        pooling : str, optional
            A name in :data:`prott5nv.embedding.pooling.POOLINGS`, such as ``"mean"``, for one row per protein. By
            default there is one row per residue.
        long : str
            What to do with a protein of more residues than the attribute `limit`. ``truncate`` embeds its first
            residues. ``window`` embeds all residues in overlapping windows and averages the rows where windows
            overlap. ``error`` raises an error. ``skip`` leaves the protein out. A `LongProteinWarning` at the end
            counts and names the proteins that were truncated or skipped.
        dtype : {"float32", "float16"}
            Data type of the rows. float16 halves what is copied from a GPU and what is stored.
        cleaning : Cleaning or None
            What to do with gaps and nucleotides; see :mod:`prott5nv.io.cleaning`. A ``*`` at the end of a protein is
            removed. None embeds every character as it is.
        on_error : callable, optional
            Called with a protein that cannot be embedded and its error. By default the error is raised.

        Yields
        ------
        protein : str, Bio.Seq, Bio.SeqRecord or Record
            The proteins in input order, as they were passed.
        rows : ndarray, shape=(L, D) or (D,), dtype=float32 or float16
            One row for each residue of the clean sequence. None for a protein that was skipped.

        Raises
        ------
        ProtT5nvError
            If `proteins` is not a collection of proteins, if they are nucleotides, or if a protein has no residues, has
            gaps, contains a character that is not a residue, is too long under ``long="error"``, does not fit into
            memory even on its own, gives NaN or infinity, as fp16 can, or gives a value that is too large for `dtype`.

        Notes
        -----
        On a GPU, the rows of a chunk of proteins are computed while the rows of the chunk before it are yielded.
        """
        check_options(pooling, long, dtype)
        run = ChunkedRun(self._runner, self.tokenizer, self.limit, long, Form(pooling, dtype))
        for protein, rows in run.results(named_sequences(proteins, cleaning)):
            if isinstance(rows, ProtT5nvError):
                if on_error is None:
                    raise rows
                on_error(protein, rows)
                rows = None
            yield protein, rows
        if run.shortened.count:
            self._warn(run.shortened, long)
        self.tokenizer.warn_of_replaced()

    def encode_windows(self, windows: Sequence[Window]) -> list[np.ndarray]:
        """Compute the hidden states of token windows, batched by the budget of residues.

        Parameters
        ----------
        windows : sequence of Window
            Windows of at most ``config.max_residues`` tokens.

        Returns
        -------
        list of ndarray, shape=(T, D), dtype=float32
            Hidden states of each window, in the given order.

        Raises
        ------
        ProtT5nvError
            If a window does not fit into memory even on its own, or gives NaN or infinity.
        """
        encoded: list[np.ndarray] = []
        for batch in started_ahead(self._runner.start(windows), self._runner.ahead):
            for rows in batch.rows():
                if isinstance(rows, ProtT5nvError):
                    raise rows
                encoded.append(rows)
        return encoded

    def _warn(self, shortened: LongProteins, long: str) -> None:
        limit = self.limit
        action = f"truncated to their first {limit} residues" if long == "truncate" else "skipped"
        warn(
            f"proteins longer than {limit} residues, {action}: {shortened.count}, namely {shortened}; "
            "to use all of their residues, embed with long='window' (prott5nv embed --long window)",
            LongProteinWarning,
        )


def check_options(pooling: str | None, long: str, dtype: str = "float32") -> None:
    """Raise an error if an option of :meth:`Embedder.embed` has a value that does not exist."""
    if pooling is not None and pooling not in POOLINGS:
        choices = ", ".join(map(repr, POOLINGS))
        raise ProtT5nvError(f"pooling={pooling!r}: choose {choices}, or None for one row per residue")
    if long not in LONG_RULES:
        raise ProtT5nvError(f"long={long!r}: choose {', '.join(LONG_RULES)}")
    if dtype not in DTYPES:
        raise ProtT5nvError(f"dtype={dtype!r}: choose {' or '.join(DTYPES)}")
