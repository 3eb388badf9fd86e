"""Comparison of a T5 model with the embeddings that were published for ProtT5-XL.

The file ``published_t5.json`` next to this module contains numbers that ProtTrans's notebooks print, and the norms of
the rows in the test files of bio_embeddings, rounded to 4 decimal places. They were computed in fp32.

Shapes: L residues, D hidden size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

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


def _agreement(encoder: Encoder, model: dict[str, list[dict[str, list[list[float]]]]]) -> Agreement:
    ends_published, ends_computed, norms_published, norms_computed = [], [], [], []
    for protein in model["ends"]:
        rows_LD = _embed(encoder, str(protein["sequence"]))[np.array(protein["residues"]) - 1]
        ends_published.append(np.array(protein["values"]))
        ends_computed.append(np.concatenate([rows_LD[:, :_END], rows_LD[:, -_END:]], axis=1))
    for protein in model["row_norms"]:
        norms_published.append(np.array(protein["norms"]))
        norms_computed.append(np.linalg.norm(_embed(encoder, str(protein["sequence"])), axis=1))
    pairs = [
        (np.concatenate(ends_published), np.concatenate(ends_computed)),
        (np.concatenate(norms_published), np.concatenate(norms_computed)),
    ]
    relative = max(float(np.abs(a - b).max() / np.sqrt(np.mean(a**2))) for a, b in pairs)
    return Agreement(str(model["name"]), sum(published.size for published, _ in pairs), relative)


def _embed(encoder: Encoder, sequence: str) -> np.ndarray:
    """Compute the rows of a protein: ndarray, shape=(L, D), dtype=float32."""
    tokens_T, cu_seqlens = encoder.tokenizer.encode_batch([sequence])
    with torch.inference_mode():
        return encoder.encode(torch.from_numpy(tokens_T), torch.from_numpy(cu_seqlens)).float().numpy()
