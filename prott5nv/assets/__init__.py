"""Paths of the data files inside the package: the built-in model, its model card, and ProtT5nv's vocabulary."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

BUILTIN_MODEL = _FOLDER / "builtin.nemo"
BUILTIN_CARD = _FOLDER / "builtin.md"
#: Predictors for the built-in model, by the name that `prott5nv predict` takes. scripts/ship_predictors.py makes them.
READY_PREDICTORS = {name: _FOLDER / f"{name}.safetensors" for name in ("secondary_structure", "localization")}
# The figures are those of docs/benchmarks/decoder.md; update both when the model is replaced.
_BUILTIN_NOTE = (
    "the built-in model is a demonstration: its scores agree less with measured effects of mutations (ProteinGym, "
    "Spearman correlation 0.13) than the BLOSUM62 table (0.20); for scientific work, choose another model (--model)"
)
SENTENCEPIECE_MODEL = _FOLDER / "protein_sequence_sentencepiece.model"
SENTENCEPIECE_VOCAB = _FOLDER / "protein_sequence_sentencepiece.vocab"


def scores_note(is_builtin: bool) -> str:
    """Return what commands and heat maps with scores state about the model: something about the built-in one only."""
    return _BUILTIN_NOTE if is_builtin else ""


def config_folder() -> Path:
    """Return the folder of the YAML files of settings: inside an installed package, or beside it in a checkout."""
    inside = _FOLDER.parent / "conf"
    return inside if inside.is_dir() else _FOLDER.parents[1] / "conf"
