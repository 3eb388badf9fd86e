"""Choice of the encoder parameters that are trained: none, low-rank adapters (LoRA, by Hugging Face's peft), or all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from prott5nv.checkpoint import load
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.config import LoraConfig
from prott5nv.model.encoder import Encoder
from prott5nv.model.prott5 import ProtT5


def load_trainable_encoder(model: str | Path, mode: str, lora: LoraConfig, seed: int) -> Encoder:
    """Load an encoder, and let only the parameters that the mode trains require gradients.

    Parameters
    ----------
    model : str or Path
        See :func:`prott5nv.load`.
    mode : str
        ``frozen``, ``lora`` or ``full``.
    lora : LoraConfig
        The adapters of mode ``lora``.
    seed : int
        Seed of the adapters' initialization.

    Returns
    -------
    ProtT5 or T5Encoder
        Without its decoder, in float32, on the CPU.

    Raises
    ------
    ProtT5nvError
        If the file cannot be read, or the encoder has none of ``lora.target_modules``.
    """
    encoder = load(model)
    if isinstance(encoder, ProtT5):
        del encoder.decoder
    encoder.requires_grad_(mode == "full")
    if mode == "lora":
        import peft

        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.target_modules)
        )
        try:
            peft.inject_adapter_in_model(config, encoder.encoder)
        except ValueError as error:
            raise ProtT5nvError(f"lora.target_modules={lora.target_modules}: {error}") from None
    return encoder


def merge_adapters(model: Encoder) -> Encoder:
    """Add the adapters to the weights that they adapt, in place, so that the model is a plain one again."""
    for module in model.modules():
        for name, child in list(module.named_children()):
            if hasattr(child, "get_base_layer"):  # peft's wrapper of a linear layer
                wrapper = cast(Any, child)
                wrapper.merge()
                setattr(module, name, wrapper.get_base_layer())
    return model
