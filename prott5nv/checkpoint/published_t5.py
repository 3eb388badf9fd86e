"""Comparison of a T5 model with the embeddings that were published for ProtT5-XL.

The file ``published_t5.json`` next to this module contains numbers that ProtTrans's notebooks print, and the norms of
the rows in the test files of bio_embeddings, rounded to 4 decimal places. They were computed in fp32.

Shapes: L residues, D hidden size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prott5nv.checkpoint.public_checkpoint import embed_one, relative_difference
from prott5nv.model.encoder import Encoder

_FIGURES = Path(__file__).with_name("published_t5.json")
_END = 3  # columns at each end of a row that the notebooks print

# Largest accepted difference, relative to the root mean square of the published figures. Rounding the weights to fp16,
# as in prot_t5_xl_half_uniref50-enc, changes the rows of a random model by less than a tenth of it. The two published
# models, which have the same architecture, differ by more than 1.
TOLERANCE = 0.05


class Agreement(NamedTuple):
    """Difference between a model and the published figures of one model.

    Attributes
    ----------
    name : str
        The published model.
    figures : int
        Number of published figures.
    relative : float
        Largest absolute difference, relative to the root mean square of the published figures of the same kind.
    """

    name: str
    figures: int
    relative: float


def compare_t5(encoder: Encoder) -> list[Agreement]:
    """Compare a model with each published one.

    Parameters
    ----------
    encoder : Encoder

    Returns
    -------
    list of Agreement
        The most similar model first. A model whose hidden size is not that of ProtT5-XL is like none of them: the list
        is empty.
    """
    if encoder.config.hidden_size != 1024:
        return []
    models = json.loads(_FIGURES.read_text())["models"]
    return sorted((_agreement(encoder, model) for model in models), key=lambda one: one.relative)


def _agreement(encoder: Encoder, model: dict[str, Any]) -> Agreement:
    ends, norms = [], []  # pairs of published and computed figures
    for protein in model["ends"]:
        rows_LD = embed_one(encoder, protein["sequence"])[np.array(protein["residues"]) - 1]
        ends.append((protein["values"], np.concatenate([rows_LD[:, :_END], rows_LD[:, -_END:]], axis=1)))
    for protein in model["row_norms"]:
        norms.append((protein["norms"], np.linalg.norm(embed_one(encoder, protein["sequence"]), axis=1)))
    differences, figures = [], 0
    for pairs in (ends, norms):
        published, computed = (np.concatenate(each) for each in zip(*pairs, strict=True))
        differences.append(relative_difference(published, computed))
        figures += published.size
    return Agreement(model["name"], figures, max(differences))
