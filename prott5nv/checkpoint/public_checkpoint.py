"""Test whether a checkpoint is the public ProtT5nv checkpoint, by the results that NVIDIA published with it.

A test in BioNeMo v1 contains hidden states of two proteins, computed in fp16 in one padded batch. The file
``public_checkpoint.json`` next to this module contains figures from them, rounded to 3 or 4 decimal places.

Shapes: L residues, D hidden size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from prott5nv.checkpoint.reader import load

if TYPE_CHECKING:
    from prott5nv.model.encoder import Encoder

_FIGURES = Path(__file__).with_name("public_checkpoint.json")

# Largest accepted difference, relative to the root mean square of the published figures. Computation in fp16 changed
# the figures of a random model of the same size by up to 0.003. The figures of different models differ by more than 1.
TOLERANCE = 0.05


class Comparison(NamedTuple):
    """Published and computed figures of one kind for one protein.

    Attributes
    ----------
    protein : int
        Number of the protein, 1 or 2.
    kind : str
        Kind of the figures, such as ``"row norms"``.
    published, computed : ndarray, shape=(N,)
        The figures of the public checkpoint, and those of the given one.
    """

    protein: int
    kind: str
    published: np.ndarray
    computed: np.ndarray

    @property
    def largest_difference(self) -> float:
        """Largest absolute difference."""
        return float(np.abs(self.published - self.computed).max())

    @property
    def relative(self) -> float:
        """Largest absolute difference, relative to the root mean square of the published figures."""
        return relative_difference(self.published, self.computed)


def compare(path: str | Path) -> list[Comparison]:
    """Embed the two proteins with a checkpoint in fp32, and compare the results with the published figures.

    Parameters
    ----------
    path : str or Path
        A ``.nemo`` file with a hidden size of 768.

    Returns
    -------
    list of Comparison
        One comparison for each protein and kind of figure.

    Raises
    ------
    ProtT5nvError
        If the file is not a valid checkpoint.
    """
    model = load(path)
    comparisons = []
    for number, protein in enumerate(json.loads(_FIGURES.read_text())["proteins"], start=1):
        hidden_LD = embed_one(model, protein["sequence"])
        computed = {
            "row_norms": np.linalg.norm(hidden_LD, axis=1),
            "first_row_first_32": hidden_LD[0, :32],
            "last_row_first_32": hidden_LD[-1, :32],
            "mean_embedding_first_64": hidden_LD.mean(0)[:64],
        }
        for kind, values in computed.items():
            comparisons.append(Comparison(number, kind.replace("_", " "), np.asarray(protein[kind]), values))
    return comparisons


def relative_difference(published: np.ndarray, computed: np.ndarray) -> float:
    """Return the largest absolute difference, relative to the root mean square of the published figures.

    Parameters
    ----------
    published, computed : ndarray, shape=(N,)
    """
    return float(np.abs(published - computed).max() / np.sqrt(np.mean(published**2)))


def embed_one(encoder: Encoder, sequence: str) -> np.ndarray:
    """Compute the rows of a protein.

    Parameters
    ----------
    encoder : Encoder
    sequence : str

    Returns
    -------
    ndarray, shape=(L, D), dtype=float32
    """
    import torch

    tokens_L, cu_seqlens = encoder.tokenizer.encode_batch([sequence])
    with torch.inference_mode():
        return encoder.encode(torch.from_numpy(tokens_L), torch.from_numpy(cu_seqlens)).float().numpy()


def is_public(comparisons: list[Comparison]) -> bool:
    """Return whether all figures are within :data:`TOLERANCE` of the published ones.

    Parameters
    ----------
    comparisons : list of Comparison
        Result of :func:`compare`.
    """
    return all(comparison.relative <= TOLERANCE for comparison in comparisons)
