"""Tokenizer files and model cards of Hugging Face folders."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

from prott5nv.io.text import valid_text
from prott5nv.model.tokenizer import FIRST_SENTINEL, VOCABULARY

if TYPE_CHECKING:
    from prott5nv.checkpoint.reader import NemoFile

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

    The tokenizer removes white space, so that ``M K T`` is read as ``MKT``, and gives one token per character.
    Lower case is read as upper case. Each character that is not a residue becomes one ``<unk>``. No tokens are added at
    the ends, because ProtT5nv's encoder gets only residues.

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
    replacements = [
        ({"Regex": r"\s+"}, ""),
        *(({"String": lower}, lower.upper()) for lower in string.ascii_lowercase),
    ]
    normalizers = [{"type": "Replace", "pattern": pattern, "content": content} for pattern, content in replacements]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
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


def model_card(file: NemoFile, *, encoder_only: bool, appendix: str) -> str:
    """Return the content of ``README.md``.

    Parameters
    ----------
    file : NemoFile
        The converted file.
    encoder_only : bool
        Whether the folder contains the encoder alone.
    appendix : str
        Model card of the ``.nemo`` file, which is added at the end.

    Returns
    -------
    str
        Markdown with the header that the Hugging Face Hub reads.
    """
    text = _ENCODER_CARD if encoder_only else _WHOLE_MODEL_CARD
    return text.format(
        name=valid_text(file.path.stem),
        sha256=file.sha256,
        parameters=file.config.num_parameters,
        hidden_size=file.config.hidden_size,
        positions=file.config.max_position_embeddings,
        appendix=appendix,
    )


_ENCODER_CARD = """---
library_name: transformers
pipeline_tag: feature-extraction
tags:
- protein
- embeddings
- prott5nv
---

# {name}: encoder

The encoder of a ProtT5nv model for proteins, written by `prott5nv convert --to hf-encoder` from a `.nemo` file with
SHA-256 `{sha256}`. It gives an embedding of {hidden_size} numbers per residue and accepts at most {positions} residues
at once.

This folder is for embeddings, `pipeline("feature-extraction")`, sentence-transformers, and token or sequence
classification. Scoring and generation need the decoder; for them, use the folder that `prott5nv convert --to hf`
writes.

The architecture is that of XLM-RoBERTa-XL in transformers, so the model needs no remote code. Embeddings are the last
hidden states, one row per residue. The tokenizer adds no special tokens and removes white space.

```python
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModel.from_pretrained("FOLDER").eval()
batch = tokenizer(["MSLKRKNIALIPAAGIGVRFG", "MKTAYIAK"], return_tensors="pt", padding=True)
with torch.inference_mode():
    hidden = model(**batch).last_hidden_state  # ignore rows where attention_mask is 0
mask = batch["attention_mask"][..., None]
per_protein = (hidden * mask).sum(1) / mask.sum(1)  # mean over the residues
```

What to know:

- ProtT5nv has no pooler, so `pooler_output` is zero. Use the mean over the residues, as sentence-transformers does.
- There is no classification token. The head of `AutoModelForSequenceClassification` reads the first residue, so train
  the encoder together with it.
- A pipeline gives exactly one row per residue with its default `batch_size=1`. With larger batches, rows of padding
  follow those of the shorter proteins.
- Longer proteins are an error in transformers. sentence-transformers cuts them without a warning.

{appendix}
"""

_WHOLE_MODEL_CARD = """---
library_name: transformers
tags:
- protein
- prott5nv
---

# {name}

A ProtT5nv model, an encoder-decoder for proteins, written by `prott5nv convert --to hf` from a `.nemo` file with
SHA-256 `{sha256}`. It has {parameters:,} parameters and accepts at most {positions} residues at once.

This folder contains the encoder and the decoder. It is for scoring and generation, for training both stacks, and for
conversion back to a `.nemo` file. Programs that expect an encoder, such as `pipeline("feature-extraction")` and
sentence-transformers, give wrong results with it or fail; for them, use the folder that
`prott5nv convert --to hf-encoder` writes.

The architecture is that of Blenderbot in transformers, so the model needs no remote code. The decoder fills masked
spans: in its input and output, each sentinel `<extra_id_N>` precedes the residues of one span. The tokenizer adds no
special tokens and removes white space.

```python
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForSeq2SeqLM.from_pretrained("FOLDER").eval()
batch = tokenizer(["MSLKRKNIALI<extra_id_0>AAGIGVRFG", "MKT<extra_id_0>YIAK"], return_tensors="pt", padding=True)
start = tokenizer(["<s><extra_id_0>"] * 2, return_tensors="pt")["input_ids"]
with torch.inference_mode():
    logits = model(**batch, decoder_input_ids=start).logits[:, -1]  # of the residue behind the sentinel
    hidden = model.get_encoder()(**batch).last_hidden_state  # ignore rows where attention_mask is 0
```

{appendix}
"""
