"""An embedding run: the request, which can be sent to another process, and the listener, which receives progress.

Importing this module imports no PyTorch, so that a worker process can limit its threads first.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.io.inputs import InputFiles
from prott5nv.io.text import each_warning_once

if TYPE_CHECKING:
    from prott5nv.embedding.job import Summary
    from prott5nv.embedding.survey import Survey


@dataclass(frozen=True)
class Request:
    """Everything that a user can choose for the embedding of a file.

    Attributes
    ----------
    source : str or InputFiles
        Input file or pipe; ``-`` for standard input; or several of these.
    output : Path
        File to write.
    model : str, optional
        Checkpoint, its folder, or its name on the Hugging Face Hub; the default is the built-in model.
    device, precision, max_length, input, layer
        See :class:`prott5nv.Embedder`.
    compile : bool, optional
        As for :class:`prott5nv.Embedder`; None compiles on a GPU if the input is large enough to pay for it.
    pooling, long, dtype, skip_errors, shard, id_column, sequence_column, cleaning, key, overwrite
        See :func:`prott5nv.embedding.job.embed_file`.
    """

    source: str | InputFiles
    output: Path
    model: str | None = None
    device: str = "auto"
    precision: str = "auto"
    compile: bool | None = None
    max_length: int | None = None
    input: str = "aa"
    layer: int | None = None
    pooling: str | None = None
    long: str = "truncate"
    dtype: str = "float32"
    skip_errors: bool = False
    shard: tuple[int, int] | None = None
    id_column: str | None = None
    sequence_column: str | None = None
    cleaning: Cleaning = DEFAULT_CLEANING
    key: str = "accession"
    overwrite: bool = False

    @property
    def model_options(self) -> dict[str, Any]:
        """Arguments of :class:`prott5nv.Embedder` besides the model and the device."""
        return {
            "precision": self.precision,
            "compile": bool(self.compile),
            "max_length": self.max_length,
            "input": self.input,
            "layer": self.layer,
        }


class Listener:
    """Base class of objects that receive the progress of a run. The methods do nothing; override those you need."""

    def on_start(self, model: str, hardware: str) -> None:
        """Receive the label of the model and a description of the hardware when the model is loaded."""

    def on_survey(self, survey: Survey) -> None:
        """Receive the counts of the input before any protein is embedded."""

    def on_compile(self) -> None:
        """Learn that the layers are compiled, because the input is large."""

    def on_progress(self, residues: int) -> None:
        """Receive the number of residues finished since the last call."""

    def on_warning(self, message: str) -> None:
        """Receive the text of a warning."""


def run(request: Request, listener: Listener) -> Summary:
    """Load the model and embed a file in this process.

    Parameters
    ----------
    request : Request
        Input, output and options.
    listener : Listener
        Receives the progress.

    Returns
    -------
    Summary

    Raises
    ------
    ProtT5nvError
        If the model cannot be loaded or the input cannot be embedded; see :func:`prott5nv.embedding.job.embed_file`.
    OSError
        If the disk is full.
    """
    from prott5nv.embedding.embedder import Embedder, LongProteinWarning
    from prott5nv.embedding.job import embed_file

    with _warnings_sent_to(listener):
        # The survey reports long proteins before the work starts.
        warnings.simplefilter("ignore", LongProteinWarning)
        embedder = Embedder(request.model, device=request.device, **request.model_options)

        def on_survey(survey: Survey) -> None:
            listener.on_survey(survey)
            if request.compile is None and embedder.gains_from_compiling(survey.residues):
                listener.on_compile()
                embedder.compile_layers()

        listener.on_start(embedder.label, f"{embedder.hardware}; batches of up to {embedder.max_tokens} residues")
        return embed_file(
            request.source,
            request.output,
            embedder,
            pooling=request.pooling,
            long=request.long,
            dtype=request.dtype,
            skip_errors=request.skip_errors,
            shard=request.shard,
            id_column=request.id_column,
            sequence_column=request.sequence_column,
            cleaning=request.cleaning,
            key=request.key,
            overwrite=request.overwrite,
            on_survey=on_survey,
            on_progress=listener.on_progress,
        )


def check_shard(shard: tuple[int, int]) -> None:
    """Check the number of a shard and the number of shards.

    Parameters
    ----------
    shard : tuple of int
        Number of a shard, counted from 1, and number of shards.

    Raises
    ------
    ProtT5nvError
        If these are not two integers in order.
    """
    try:
        number, count = map(operator.index, shard)
    except (TypeError, ValueError):
        raise ProtT5nvError(f"shard={shard!r}: give two integers, such as (2, 4) for the second of four") from None
    if not 1 <= number <= count:
        raise ProtT5nvError(f"shard={number}/{count}: choose I/N with I from 1 to N")


@contextmanager
def _warnings_sent_to(listener: Listener) -> Iterator[None]:
    """Send warnings to the listener within the block, each text once."""
    with warnings.catch_warnings():
        warnings.showwarning = each_warning_once(listener.on_warning)
        yield
