"""Queries of a search that are sequences: they are embedded in the same way as the proteins of the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from prott5nv.checkpoint.models import checksum, model_file
from prott5nv.embedding.embedder import Embedder
from prott5nv.embedding.pooling import POOLINGS
from prott5nv.embedding.store import EmbeddingStore
from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record, accession, location


def embedder_of(
    store: EmbeddingStore, model: str | os.PathLike[str] | None, *, device: str = "auto", precision: str = "auto"
) -> Embedder:
    """Load the model that made a store, with the settings that the store records.

    Parameters
    ----------
    store : EmbeddingStore
    model : str, Path or None
        The model, as for :class:`prott5nv.Embedder`. None is the built-in model.
    device, precision
        See :class:`prott5nv.Embedder`.

    Returns
    -------
    Embedder

    Raises
    ------
    ProtT5nvError
        If another model made the store, the store does not record its model or has a pooling that is not known, or the
        model cannot be read.
    """
    expected = store.attributes.get("model_sha256")
    if not expected:
        raise ProtT5nvError(
            f"{store.path}: the file does not record which model made it, so sequences cannot be compared with it; "
            "give a file of embeddings by the same model as QUERY"
        )
    pooling_of(store)
    chosen = model_file(model)
    if (actual := checksum(chosen)) != expected:
        name = store.attributes.get("model") or store.attributes.get("model_name") or "a model"
        what = "the built-in model" if model is None else str(model)
        raise ProtT5nvError(
            f"{store.path} was made by {name} (checksum {expected[:8]}), and {what} has the checksum {actual[:8]}; "
            "choose the model of the store with --model"
        )
    max_length, layer = (str(store.attributes.get(name, "")) for name in ("max_length", "layer"))
    return Embedder(
        chosen,
        device=device,
        precision=precision,
        max_length=int(max_length) if max_length else None,
        input=store.attributes.get("input", "aa"),
        layer=int(layer) if layer.isdecimal() else None,  # otherwise it is the last one, by the name of its module
    )


def pooling_of(store: EmbeddingStore) -> str:
    """Return the pooling that makes vectors like those that a search reads from a store."""
    pooling = str(store.attributes.get("pooling", "none"))
    if pooling == "none":
        return "mean"
    if pooling not in POOLINGS:
        raise ProtT5nvError(
            f"{store.path}: no pooling {pooling[:40]!r} exists; choose a store with {', '.join(POOLINGS)}"
        )
    return pooling


def embedded_queries(
    records: Iterable[Record],
    store: EmbeddingStore,
    embedder: Embedder,
    name: str,
    on_error: Callable[[Record, ProtT5nvError], None],
) -> Iterator[tuple[str, np.ndarray]]:
    """Embed proteins like those of a store.

    Parameters
    ----------
    records : iterable of Record
        Clean records.
    store : EmbeddingStore
    embedder : Embedder
        From :func:`embedder_of`.
    name : str
        Name of the input in messages.
    on_error : callable
        Called with a record that cannot be embedded and its error, which names file and line.

    Yields
    ------
    accession : str
    vector_D : ndarray, shape=(D,), dtype=float32
    """
    long = str(store.attributes.get("long", "truncate"))
    embedded = embedder.embed(
        records,
        pooling=pooling_of(store),
        long=long if long in ("truncate", "window") else "error",
        cleaning=None,
        on_error=lambda record, error: on_error(record, ProtT5nvError(f"{location(record, name)}: {error}")),
    )
    for record, vector_D in embedded:
        if vector_D is not None:
            yield accession(record.id), vector_D
