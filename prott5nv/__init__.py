"""ProtT5nv: pretrain, embed, fine-tune and score with a protein T5.

Public names are imported on first use, so that ``import prott5nv`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "EmbeddingStore": "prott5nv.io.embeddings_h5",
    "ModelConfig": "prott5nv.config",
    "ProtT5": "prott5nv.transformer",
    "ProtT5nvError": "prott5nv.errors",
    "ProtT5nvInference": "prott5nv.inference",
    "ProteinTokenizer": "prott5nv.tokenizer",
    "fill": "prott5nv.decoding.fill",
    "load": "prott5nv.checkpoint",
    "pseudo_perplexity": "prott5nv.decoding.marginals",
    "score_substitutions": "prott5nv.decoding.marginals",
    "score_variants": "prott5nv.decoding.variants",
    "seqs_to_embedding": "prott5nv.inference",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'prott5nv' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted(__all__)
