"""Protein T5 models: pretraining, embeddings, fine-tuning and scoring.

Public names are imported on first use, so that ``import prott5nv`` does not import PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prott5nv.bionemo import ProtT5nvInference
    from prott5nv.checkpoint import load
    from prott5nv.client import Client
    from prott5nv.decoding.fill import fill
    from prott5nv.decoding.marginals import pseudo_perplexity, score_substitutions
    from prott5nv.decoding.variants import score_variants
    from prott5nv.embedding.embedder import Embedder
    from prott5nv.embedding.pooling import register_pooling
    from prott5nv.embedding.sequences import seqs_to_embedding
    from prott5nv.embedding.store import EmbeddingStore
    from prott5nv.errors import ProtT5nvError
    from prott5nv.flip.api import finetune
    from prott5nv.flip.heads import register_head
    from prott5nv.flip.predictor import Predictor
    from prott5nv.io.cleaning import Cleaning
    from prott5nv.model.config import ModelConfig
    from prott5nv.model.onednn import limit_onednn_cache
    from prott5nv.model.prott5 import ProtT5
    from prott5nv.model.tokenizer import ProteinTokenizer
    from prott5nv.pretraining.optimizer_names import register_optimizer

__version__ = "0.1.0"

__all__ = [
    "Cleaning",
    "Client",
    "Embedder",
    "EmbeddingStore",
    "ModelConfig",
    "Predictor",
    "ProtT5",
    "ProtT5nvError",
    "ProtT5nvInference",
    "ProteinTokenizer",
    "__version__",
    "fill",
    "finetune",
    "limit_onednn_cache",
    "load",
    "pseudo_perplexity",
    "register_head",
    "register_optimizer",
    "register_pooling",
    "score_substitutions",
    "score_variants",
    "seqs_to_embedding",
]

_MODULES = {
    "Cleaning": "prott5nv.io.cleaning",
    "Client": "prott5nv.client",
    "Embedder": "prott5nv.embedding.embedder",
    "EmbeddingStore": "prott5nv.embedding.store",
    "ModelConfig": "prott5nv.model.config",
    "Predictor": "prott5nv.flip.predictor",
    "ProtT5": "prott5nv.model.prott5",
    "ProtT5nvError": "prott5nv.errors",
    "ProtT5nvInference": "prott5nv.bionemo",
    "ProteinTokenizer": "prott5nv.model.tokenizer",
    "fill": "prott5nv.decoding.fill",
    "finetune": "prott5nv.flip.api",
    "limit_onednn_cache": "prott5nv.model.onednn",
    "load": "prott5nv.checkpoint",
    "pseudo_perplexity": "prott5nv.decoding.marginals",
    "register_head": "prott5nv.flip.heads",
    "register_optimizer": "prott5nv.pretraining.optimizer_names",
    "register_pooling": "prott5nv.embedding.pooling",
    "score_substitutions": "prott5nv.decoding.marginals",
    "score_variants": "prott5nv.decoding.variants",
    "seqs_to_embedding": "prott5nv.embedding.sequences",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'prott5nv' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
