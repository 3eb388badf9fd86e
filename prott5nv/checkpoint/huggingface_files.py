"""Tokenizer files and model card of a Hugging Face folder."""

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
    """Return the content of ``tokenizer.json`` and ``tokenizer_config.json`` for ProtT5nv's token ids.

    The tokenizer gives one token per character. Lower case is read as upper case. Each character that is not a residue
    becomes one ``<unk>``. No tokens are added at the ends, because ProtT5nv's encoder gets only residues.

    Parameters
    ----------
    max_length : int
        Maximum number of residues of the model.
    num_sentinels : int
        Number of sentinel tokens ``<extra_id_...>`` of the model.

    Returns
    -------
    dict of str to dict
        Content by file name.
    """
    sentinels = [f"<extra_id_{number}>" for number in range(num_sentinels)]
    tokens = [*VOCABULARY[:FIRST_SENTINEL], *sentinels]
    ids = {token: index for index, token in enumerate(tokens)}
    added: list[dict[str, Any]] = [
        {"id": ids[token], "content": token, "special": True, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for token in (*_SPECIAL.values(), *sentinels)
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
            "vocab": ids,
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
`{sha256}`. It has {parameters:,} parameters, gives an embedding of {hidden_size} numbers per residue, and accepts at
most {positions} residues at once.

The architecture is that of Blenderbot in transformers, so the model needs no remote code. Embeddings are the encoder's
last hidden states, one row per residue. No special tokens are added.

```python
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
encoder = AutoModel.from_pretrained("FOLDER").get_encoder().eval()
batch = tokenizer(["MSLKRKNIALIPAAGIGVRFG", "MKTAYIAK"], return_tensors="pt", padding=True)
with torch.inference_mode():
    hidden = encoder(**batch).last_hidden_state  # ignore rows where attention_mask is 0
```

{card}
"""
