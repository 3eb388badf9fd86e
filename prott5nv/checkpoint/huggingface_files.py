"""The text files of a Hugging Face folder: tokenizer and model card."""

from __future__ import annotations

import string
from typing import Any

from prott5nv.model.tokenizer import FIRST_SENTINEL, VOCABULARY

_SPECIAL = {
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
    "cls_token": "<cls>",
    "sep_token": "<sep>",
}


def tokenizer_files(max_length: int, num_sentinels: int) -> dict[str, dict[str, Any]]:
    """``tokenizer.json`` and ``tokenizer_config.json`` that give ProtT5nv's ids.

    One token a character: lower case is read as upper case, and whatever is no residue is ``<unk>``, never merged.
    Nothing is added at the ends, because ProtT5nv's encoder sees residues only.

    Parameters
    ----------
    max_length : int
        Residues that the model sees at once.
    num_sentinels : int
        As many ``<extra_id_...>`` as the model has: ProtT5nv's 96, or another number.
    """
    sentinels = [f"<extra_id_{number}>" for number in range(num_sentinels)]
    pieces = [*VOCABULARY[:FIRST_SENTINEL], *sentinels]
    added = [
        {"id": pieces.index(piece), "content": piece, "special": True, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for piece in (*_SPECIAL.values(), *sentinels)
    ]
    upper = [
        {"type": "Replace", "pattern": {"String": lower}, "content": lower.upper()} for lower in string.ascii_lowercase
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": {"type": "Sequence", "normalizers": upper},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {piece: index for index, piece in enumerate(pieces)},
            "unk_token": _SPECIAL["unk_token"],
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_SPECIAL,
        "additional_special_tokens": sentinels,
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": config}


MODEL_CARD = """---
library_name: transformers
pipeline_tag: feature-extraction
tags:
- protein
- embeddings
- prott5nv
---

# {name}

A ProtT5nv model, an encoder-decoder for proteins, written by `prott5nv convert` from a `.nemo` file with SHA-256
`{sha256}`. {parameters:,} parameters, {hidden_size} numbers a residue, at most {positions} residues at once.

The architecture is transformers' Blenderbot, so no remote code is needed. Embeddings are the encoder's last hidden
states, one row a residue; no special tokens are added.

```python
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
encoder = AutoModel.from_pretrained("FOLDER").get_encoder().eval()
batch = tokenizer(["MSLKRKNIALIPAAGIGVRFG", "MKTAYIAK"], return_tensors="pt", padding=True)
with torch.inference_mode():
    hidden = encoder(**batch).last_hidden_state  # rows where attention_mask is 0 mean nothing
```

{card}
"""
