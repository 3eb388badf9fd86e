"""What passes between the process that answers HTTP requests and those that hold the model.

Shapes: L residues of a protein, D hidden size, A amino acids.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from prott5nv.decoding.variants import VariantScore
from prott5nv.io.record import Record
from prott5nv.model.tokenizer import ResidueTokenizer


class ModelInfo(NamedTuple):
    """A loaded model.

    Attributes
    ----------
    name, label, sha256 : str
        See :class:`prott5nv.Embedder`.
    hardware : str
        Description of device and precision.
    attributes : dict of str to str
        Settings that determine the embeddings.
    limit : int or None
        Number of residues that are computed at once; None if there is no limit.
    hidden_size : int
    batch_residues : int
        Number of residues in a batch.
    can_score : bool
        Whether the model has a decoder.
    is_builtin : bool
    tokenizer : ResidueTokenizer
    """

    name: str
    label: str
    sha256: str
    hardware: str
    attributes: dict[str, str]
    limit: int | None
    hidden_size: int
    batch_residues: int
    can_score: bool
    is_builtin: bool
    tokenizer: ResidueTokenizer


class Group(NamedTuple):
    """Clean proteins of one request, which are embedded together.

    Attributes
    ----------
    records : list of Record
    pooling, long, dtype
        See :meth:`prott5nv.Embedder.embed`.
    """

    records: list[Record]
    pooling: str | None
    long: str
    dtype: str

    @property
    def residues(self) -> int:
        """Number of residues."""
        return sum(len(record.sequence) for record in self.records)


class Refused(NamedTuple):
    """Why a protein has no result."""

    message: str


class ScoreQuery(NamedTuple):
    """A clean protein, and the variants to score; None for all single substitutions."""

    record: Record
    variants: list[str] | None


#: Scores of all substitutions, shape (L, A), of variants, or the reason why there are none.
Scores: TypeAlias = np.ndarray | list[VariantScore] | Refused


class Models(Protocol):
    """The replicas of the model. Any of them answers a call."""

    async def describe(self) -> ModelInfo:
        """Return what is known of the model."""
        ...

    async def embed(self, group: Group) -> list[np.ndarray | Refused]:
        """Return the embedding of each protein."""
        ...

    async def score(self, query: ScoreQuery) -> Scores:
        """Return the scores of a protein."""
        ...
