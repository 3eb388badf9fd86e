"""T5 models of transformers with random weights, as folders or in memory, and the vocabularies of protein T5 models."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from prott5nv.checkpoint.t5_names import encoder_sources, parse_config
from prott5nv.model.t5 import T5Encoder
from prott5nv.model.t5_tokenizer import T5Vocabulary

LETTERS = "ALGVSREDTIPKFQNYMHWCXBOUZ"  # ids 3 to 27
STATES = "algvsredtipkfqnymhwc"  # ids 128 to 147 of ProstT5
WORD_START = "\u2581"
VOCABULARY = T5Vocabulary("aa", tuple(range(3, 24)), unknown=23, unknown_name="X", prefix=(), suffix=(1,))

_PROTT5 = dict(d_model=1024, d_kv=128, d_ff=16384, num_heads=32, vocab_size=128)
_LARGE = dict(d_model=1536, d_kv=64, d_ff=3840, num_heads=16, relative_attention_num_buckets=64)
#: Settings of the published models, except for the number of layers.
CONFIGS = {
    "ProtT5-XL": _PROTT5,
    "ProstT5": _PROTT5 | dict(vocab_size=150, num_layers=1),
    "Ankh base": dict(d_model=768, d_kv=64, d_ff=3072, num_heads=12, relative_attention_num_buckets=64, vocab_size=144)
    | dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "Ankh large": _LARGE | dict(feed_forward_proj="gated-gelu", vocab_size=144, tie_word_embeddings=False),
    "Ankh2 large": _LARGE | dict(feed_forward_proj="gated-silu", vocab_size=144, tie_word_embeddings=False),
    "Ankh3 large": _LARGE | dict(feed_forward_proj="silu", vocab_size=256, tie_word_embeddings=False),
}
TINY = dict(d_model=32, d_kv=16, d_ff=64, num_heads=4, vocab_size=150, num_layers=2)


def random_model(kind: str = "T5EncoderModel", **settings):
    """Return a model of transformers whose weights are random, also the norms and the position bias."""
    import transformers

    config = transformers.T5Config(**{"num_layers": 2, **settings})
    with torch.device("meta"):
        model = getattr(transformers, kind)(config)
    model.to_empty(device="cpu").tie_weights()
    # Drawing a hundred million numbers takes seconds, so the numbers of a large matrix recur.
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(999_983, generator=generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            size = parameter.numel()
            start = int(torch.randint(len(numbers), (), generator=generator))
            drawn = numbers.roll(start).repeat(-(-size // len(numbers)))[:size].view(parameter.shape)
            if "layer_norm" in name:
                parameter.copy_(1 + 0.2 * drawn)
            elif parameter.shape[0] == config.vocab_size or "relative_attention_bias" in name:
                parameter.copy_(drawn)
            else:
                small = config.d_kv**-0.5 if name.endswith(".q.weight") else 1
                parameter.copy_(drawn * parameter.shape[1] ** -0.5 * small)
    return model.eval()


def converted(model, vocabulary: T5Vocabulary = VOCABULARY) -> T5Encoder:
    """Return our encoder with the weights of a model of transformers."""
    with torch.device("meta"):
        ours = T5Encoder(parse_config(model.config.to_dict(), "config.json"), vocabulary)
    theirs = model.state_dict()
    state = {"embedding.weight": theirs["shared.weight"].clone()}
    for name, parts, _ in encoder_sources(ours.config):
        state[name] = torch.cat([theirs[part] for part in parts])
    ours.load_state_dict(state, assign=True)
    return ours.eval()


def tokenizer(family: str):
    """Return a tokenizer of transformers with the vocabulary of ``ProtT5``, ``ProstT5`` or ``Ankh``."""
    from tokenizers import pre_tokenizers
    from transformers import T5Tokenizer

    start, extra = ("", 116) if family == "Ankh" else (WORD_START, 100)
    tokens = ["<pad>", "</s>", "<unk>", *(start + letter for letter in LETTERS)]
    tokens += [f"<extra_id_{number}>" for number in range(extra - 1, -1, -1)]
    built = T5Tokenizer(vocab=[(token, 0.0 if "<" in token else -2.0) for token in tokens], extra_ids=extra)
    if family == "Ankh":  # its vocabulary has no marks of spaces
        built.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if family == "ProstT5":
        built.add_tokens([*STATES, "<fold2AA>", "<AA2fold>"])
    return built


def sentencepiece_model(tokens: list[str]) -> bytes:
    """Return the smallest SentencePiece file with the given tokens."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    return b"".join(field(1, field(1, token.encode())) for token in tokens)


def save(folder: Path, model, family: str = "ProtT5") -> Path:
    """Write a folder as `save_pretrained` does, with the model and its tokenizer."""
    model.save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return folder


def save_bin(folder: Path, model, family: str = "ProtT5", shards: int = 1) -> Path:
    """Write a folder with ``pytorch_model.bin``, or several such files, as older versions of transformers did."""
    model.config.save_pretrained(folder)
    state = model.state_dict()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        index = {name: f"pytorch_model-{number % shards}.bin" for number, name in enumerate(state)}
        for file in set(index.values()):
            torch.save({name: tensor for name, tensor in state.items() if index[name] == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    tokenizer(family).save_pretrained(folder)
    return folder
