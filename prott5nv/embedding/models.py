"""What a user may pass as a model, and the embedder for it."""

from __future__ import annotations

import os
from typing import Protocol, TypeAlias

from prott5nv.embedding.embedder import Embedder
from prott5nv.errors import ProtT5nvError
from prott5nv.model.encoder import Encoder


class HasEmbedder(Protocol):
    """An object that wraps an embedder, such as :class:`prott5nv.ProtT5nvInference`."""

    embedder: Embedder


#: Everything that a user may pass as a model: a checkpoint, a model in memory, a loaded one, or None for the
#: built-in model.
Model: TypeAlias = str | os.PathLike[str] | Encoder | Embedder | HasEmbedder | None


def as_embedder(
    model: Model, *, device: str = "auto", precision: str = "auto", max_tokens: int | None = None
) -> Embedder:
    """Return an embedder for anything that a user may pass as `model`.

    Parameters
    ----------
    model : str, Path, ProtT5, T5Encoder, Embedder, ProtT5nvInference or None
        A model that is already loaded is returned as it is. None is the built-in model.
    device, precision, max_tokens
        See :class:`prott5nv.Embedder`.

    Returns
    -------
    Embedder

    Raises
    ------
    ProtT5nvError
        If the model cannot be read, or it is already loaded and one of the other options is given.
    """
    if model is None or isinstance(model, str | os.PathLike | Encoder):
        return Embedder(model, device=device, precision=precision, max_tokens=max_tokens)
    if (device, precision, max_tokens) != ("auto", "auto", None):
        raise ProtT5nvError("this model is already loaded: give device, precision and max_tokens when loading it")
    return model if isinstance(model, Embedder) else model.embedder
