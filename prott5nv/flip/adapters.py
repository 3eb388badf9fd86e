"""What of the encoder learns: nothing, low-rank adapters (LoRA, by Hugging Face's peft), or everything."""

from __future__ import annotations

from pathlib import Path

import torch

from prott5nv.checkpoint import load
from prott5nv.model.prott5 import ProtT5


def adapted_encoder(model: Path, mode: str, lora: dict, seed: int) -> ProtT5:
    """A model without its decoder, whose parameters require gradients as the mode says.

    Parameters
    ----------
    model : Path
        A ``.nemo`` file.
    mode : str
        ``frozen``, ``lora`` or ``full``.
    lora : dict
        ``rank``, ``alpha``, ``dropout`` and ``target_modules``.
    seed : int
        Of the adapters.
    """
    encoder = load(model)
    del encoder.decoder
    encoder.requires_grad_(mode == "full")
    if mode == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        torch.manual_seed(seed)
        config = LoraConfig(
            r=lora["rank"],
            lora_alpha=lora["alpha"],
            lora_dropout=lora["dropout"],
            target_modules=list(lora["target_modules"]),
        )
        inject_adapter_in_model(config, encoder.encoder)
    return encoder


def merged(model: ProtT5) -> ProtT5:
    """The model with its adapters added to the weights they adapt, so that it is a plain one again."""
    for module in model.modules():
        for name, child in list(module.named_children()):
            if hasattr(child, "get_base_layer"):  # peft's wrapper
                child.merge()
                setattr(module, name, child.get_base_layer())
    return model
