"""Is this file the public ProtT5nv checkpoint? The figures that NVIDIA published with it can tell.

BioNeMo v1's own test holds hidden states of two proteins (fp16, one padded batch; rounded here to 3 or 4 places). They
lie beside this module as ``public_checkpoint.json``.

Shapes: L residues, D hidden size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prott5nv.checkpoint.reader import load

_FIGURES = Path(__file__).with_name("public_checkpoint.json")

# In units of the typical size of a figure. Half precision moved those of a random model of this size by up to 0.003;
# between two models they differ by more than 1.
TOLERANCE = 0.05


class Comparison(NamedTuple):
    """One kind of figure of one protein.

    Attributes
    ----------
    protein : int
        1 or 2.
    kind : str
        What was compared.
    published, found : ndarray, shape=(n,)
    """

    protein: int
    kind: str
    published: np.ndarray
    found: np.ndarray

    @property
    def largest_difference(self) -> float:
        """Largest absolute difference."""
        return float(np.abs(self.published - self.found).max())

    @property
    def relative(self) -> float:
        """Largest difference, in units of the root mean square of the published figures."""
        return self.largest_difference / float(np.sqrt(np.mean(self.published**2)))


def compare(path: str | Path) -> list[Comparison]:
    """Embed the two proteins with a checkpoint in fp32 and set the results beside the published figures.

    Raises
    ------
    ProtT5nvError
        As :func:`prott5nv.load`.
    """
    import torch

    from prott5nv.model.tokenizer import ProteinTokenizer

    model = load(path)
    comparisons = []
    for number, protein in enumerate(json.loads(_FIGURES.read_text())["proteins"], start=1):
        tokens, cu_seqlens = ProteinTokenizer().encode_batch([protein["sequence"]])
        with torch.inference_mode():
            hidden_LD = model.encode(torch.from_numpy(tokens), torch.from_numpy(cu_seqlens)).numpy()
        found = {
            "row_norms": np.linalg.norm(hidden_LD, axis=1),
            "first_row_first_32": hidden_LD[0, :32],
            "last_row_first_32": hidden_LD[-1, :32],
            "mean_embedding_first_64": hidden_LD.mean(0)[:64],
        }
        for kind, values in found.items():
            comparisons.append(Comparison(number, kind.replace("_", " "), np.asarray(protein[kind]), values))
    return comparisons


def is_public(comparisons: list[Comparison]) -> bool:
    """Whether every figure is as close as half precision allows."""
    return all(comparison.relative <= TOLERANCE for comparison in comparisons)
