"""Pooling: from one row per residue to one row per protein. :func:`register_pooling` adds a pooling.

:class:`prott5nv.Embedder`, the choices and the help text of ``prott5nv embed --pooling``, and the file formats all read
that dictionary. The name of the pooling is stored with the embeddings. Importing this module imports no NumPy, so that
``prott5nv embed --help`` stays fast.

Shapes: B proteins, D hidden size, L residues of a protein, T packed residues.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from prott5nv.errors import ProtT5nvError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: A function from rows of residues to one row.
Pooling: TypeAlias = "Callable[[np.ndarray], np.ndarray]"


def mean(rows_LD: np.ndarray) -> np.ndarray:
    """Average over the residues of the protein.

    Parameters
    ----------
    rows_LD : ndarray, shape=(L, D), dtype=float32

    Returns
    -------
    ndarray, shape=(D,), dtype=float32
    """
    return rows_LD.mean(axis=0, dtype="float64").astype("float32")


#: Pooling functions by name. Each maps an array of shape (L, D) to one of shape (D,), both float32. The first line of
#: its docstring appears in the help text of the command line.
POOLINGS: dict[str, Pooling] = {"mean": mean}


def _mean_on_device(hidden_TD: Tensor, lengths_B: Tensor) -> Tensor:
    import torch

    # The check of `lengths_B`, which `unsafe` leaves out, would wait for the device.
    return torch.segment_reduce(hidden_TD.float(), "mean", lengths=lengths_B, axis=0, unsafe=True)


#: The same pooling for a packed batch on a GPU, where a pooling has it. Each function maps the hidden states, of shape
#: (T, D), and the lengths of the proteins, of shape (B,), to a tensor of shape (B, D) and float32.
DEVICE_POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": _mean_on_device}


def register_pooling(name: str) -> Callable[[Pooling], Pooling]:
    """Return a decorator that makes a function available as ``pooling=NAME`` and ``--pooling NAME``.

    Parameters
    ----------
    name : str
        Name of the pooling, which is stored with the embeddings.

    Returns
    -------
    callable
        Takes and returns a function that maps an array of shape (L, D) to one of shape (D,), both float32.

    Raises
    ------
    ProtT5nvError
        If the name belongs to another pooling.

    Examples
    --------
    >>> import prott5nv
    >>> @prott5nv.register_pooling("max")
    ... def maximum(rows_LD):
    ...     "Maximum over the residues of the protein."
    ...     return rows_LD.max(axis=0)
    >>> prott5nv.seqs_to_embedding(["MSLKR"], pooling="max").shape
    (1, 448)
    """

    def register(function: Pooling) -> Pooling:
        known = POOLINGS.get(name)
        if name == "none" or (known and known.__qualname__ != function.__qualname__):
            raise ProtT5nvError(f"a pooling called {name!r} exists already; choose another name")
        POOLINGS[name] = function
        return function

    return register
