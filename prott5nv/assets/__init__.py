"""Paths of the data files inside the package: the built-in model, its model card, and ProtT5nv's vocabulary."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

BUILTIN_MODEL = _FOLDER / "builtin.nemo"
BUILTIN_CARD = _FOLDER / "builtin.md"
SENTENCEPIECE_MODEL = _FOLDER / "protein_sequence_sentencepiece.model"
SENTENCEPIECE_VOCAB = _FOLDER / "protein_sequence_sentencepiece.vocab"
