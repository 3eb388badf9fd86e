"""Conversion between ``.nemo`` files and Hugging Face folders, which need no remote code.

ProtT5nv has the same architecture as ``BlenderbotForConditionalGeneration`` in transformers: pre-LN, learned positions,
a final LayerNorm in both stacks, biases everywhere, and a head that uses the word table. There are two differences. The
parameters have other names, and Blenderbot has separate projections for queries, keys and values where ProtT5nv has a
fused one. The conversion moves rows of weights and does not change their values.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prott5nv.assets import SENTENCEPIECE_MODEL
from prott5nv.checkpoint.huggingface_files import MODEL_CARD, tokenizer_files
from prott5nv.checkpoint.reader import read_nemo
from prott5nv.checkpoint.writer import save_nemo
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_folder
from prott5nv.model.config import ModelConfig
from prott5nv.model.tokenizer import BOS, EOS, PAD

if TYPE_CHECKING:
    import torch

WEIGHTS_FILE = "model.safetensors"

# Each module of a ProtT5 layer, and the modules of the Blenderbot layer with its rows. If there are several, ProtT5
# interleaves their rows by head.
_SELF_ATTENTION = {
    "input_layernorm": ("self_attn_layer_norm",),
    "self_attention.query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention.dense": ("self_attn.out_proj",),
}
_FEED_FORWARD = {"mlp.dense_h_to_4h": ("fc1",), "mlp.dense_4h_to_h": ("fc2",)}
_LAYER = {
    "encoder": {**_SELF_ATTENTION, "post_attention_layernorm": ("final_layer_norm",), **_FEED_FORWARD},
    "decoder": {
        **_SELF_ATTENTION,
        "post_attention_layernorm": ("encoder_attn_layer_norm",),
        "inter_attention.query": ("encoder_attn.q_proj",),
        "inter_attention.key_value": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
        "inter_attention.dense": ("encoder_attn.out_proj",),
        "post_inter_attention_layernorm": ("final_layer_norm",),
        **_FEED_FORWARD,
    },
}
_POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
_LAYER_NAME = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")


def nemo_to_huggingface(source: str | Path, folder: str | Path) -> None:
    """Convert a ``.nemo`` file to a folder for ``AutoModel`` and ``AutoTokenizer`` of transformers.

    Parameters
    ----------
    source : str or Path
        A ``.nemo`` file.
    folder : str or Path
        Folder to write. It must not exist yet, and appears only when it is complete.

    Raises
    ------
    ProtT5nvError
        If the file is not a valid checkpoint, the folder exists, Blenderbot does not support a setting of the model, or
        safetensors is not installed.
    """
    _require_safetensors()
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.exists():
        raise ProtT5nvError(f"{folder}: exists already; choose another name")
    file = read_nemo(source)
    if file.config.layernorm_epsilon != 1e-5:
        raise ProtT5nvError(f"{source}: layernorm_epsilon={file.config.layernorm_epsilon}; Blenderbot has 1e-5")
    card = Path(source).with_suffix(".md")
    tokenizer = tokenizer_files(file.config.max_position_embeddings, file.config.num_sentinel_tokens)
    texts = {
        "config.json": _json(_blenderbot_config(file.config, sorted(file.dtypes)[0])),
        **{name: _json(content) for name, content in tokenizer.items()},
        "README.md": MODEL_CARD.format(
            name=Path(source).stem,
            sha256=file.sha256,
            parameters=file.config.num_parameters,
            hidden_size=file.config.hidden_size,
            positions=file.config.max_position_embeddings,
            card=card.read_text(encoding="utf-8", errors="replace") if card.is_file() else "",
        ),
    }
    with whole_folder(folder) as temporary:
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        shutil.copyfile(SENTENCEPIECE_MODEL, temporary / SENTENCEPIECE_MODEL.name)
        state = to_blenderbot(file.state_dict, file.config)
        save_file(state, temporary / WEIGHTS_FILE, metadata={"format": "pt"})


def huggingface_to_nemo(folder: str | Path, path: str | Path) -> None:
    """Convert a folder that :func:`nemo_to_huggingface` wrote back to a ``.nemo`` file with the same weights.

    Parameters
    ----------
    folder : str or Path
        Folder with ``config.json`` and ``model.safetensors``.
    path : str or Path
        File to write. An existing file of that name is replaced.

    Raises
    ------
    ProtT5nvError
        If the folder has other content, its weights do not fit its configuration, or safetensors is not installed.
    """
    _require_safetensors()
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = ModelConfig.from_dict(values["prott5nv"])
        state = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        problem = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ProtT5nvError(f"{folder}: not a folder that 'prott5nv convert' wrote ({problem})") from None
    dtypes = {tensor.dtype for tensor in state.values()}
    try:
        save_nemo(path, config, from_blenderbot(state, config), dtype=dtypes.pop() if len(dtypes) == 1 else None)
    except ProtT5nvError as error:
        raise ProtT5nvError(f"{folder}: {error}") from None


def to_blenderbot(state_dict: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """Convert the parameters of ``ProtT5`` to those of Blenderbot.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Parameters by their names in ``ProtT5``.
    config : ModelConfig
        Architecture of the model.

    Returns
    -------
    dict of str to Tensor
        Parameters by their names in Blenderbot, which has the position table twice.
    """
    state = {
        "model.shared.weight": state_dict["embedding.word_embeddings.weight"],
        "final_logits_bias": state_dict["tokens_head.bias"][None],
    }
    for name in _POSITIONS:
        state[name] = state_dict["embedding.position_embeddings.weight"].clone()
    for stack in ("encoder", "decoder"):
        for kind in ("weight", "bias"):
            state[f"model.{stack}.layer_norm.{kind}"] = state_dict[f"{stack}.final_layernorm.{kind}"]
    for name, tensor in state_dict.items():
        if match := _LAYER_NAME.fullmatch(name):
            stack, layer, module, kind = match.groups()
            targets = _LAYER[stack][module]
            by_head = tensor.unflatten(0, (config.num_attention_heads if len(targets) > 1 else 1, len(targets), -1))
            for i, target in enumerate(targets):
                state[f"model.{stack}.layers.{layer}.{target}.{kind}"] = by_head[:, i].flatten(0, 1).contiguous()
    return state


def from_blenderbot(state_dict: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """Convert the parameters of Blenderbot to those of ``ProtT5``, the inverse of :func:`to_blenderbot`.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Parameters by their names in Blenderbot.
    config : ModelConfig
        Architecture of the model.

    Returns
    -------
    dict of str to Tensor
        Parameters by their names in ``ProtT5``.

    Raises
    ------
    ProtT5nvError
        If a parameter is missing, a name is unknown, or the two position tables differ.
    """
    import torch

    remaining = dict(state_dict)

    def take(name: str) -> torch.Tensor:
        if name not in remaining:
            raise ProtT5nvError(f"{WEIGHTS_FILE}: {name!r} is missing")
        return remaining.pop(name)

    encoder_positions, decoder_positions = map(take, _POSITIONS)
    if not torch.equal(encoder_positions, decoder_positions):
        raise ProtT5nvError(f"{WEIGHTS_FILE}: the two position tables differ; ProtT5nv has one shared table")
    state = {
        "embedding.word_embeddings.weight": take("model.shared.weight"),
        "embedding.position_embeddings.weight": encoder_positions,
        "tokens_head.bias": take("final_logits_bias")[0],
    }
    for stack, num_layers in config.layers_per_stack.items():
        for kind in ("weight", "bias"):
            state[f"{stack}.final_layernorm.{kind}"] = take(f"model.{stack}.layer_norm.{kind}")
            for layer in range(num_layers):
                for module, sources in _LAYER[stack].items():
                    heads = config.num_attention_heads if len(sources) > 1 else 1
                    parts = [take(f"model.{stack}.layers.{layer}.{source}.{kind}") for source in sources]
                    by_head = torch.stack([part.unflatten(0, (heads, -1)) for part in parts], dim=1)
                    state[f"{stack}.layers.{layer}.{module}.{kind}"] = by_head.flatten(0, 2)
    if remaining:
        raise ProtT5nvError(f"{WEIGHTS_FILE}: {min(remaining)[:200]!r} is not a parameter of ProtT5nv")
    return state


def _blenderbot_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the content of ``config.json``."""
    stack = {"ffn_dim": config.ffn_hidden_size, "attention_heads": config.num_attention_heads}
    return {
        "architectures": ["BlenderbotForConditionalGeneration"],
        "model_type": "blenderbot",
        "dtype": dtype,
        "vocab_size": config.padded_vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "d_model": config.hidden_size,
        "encoder_layers": config.num_layers,
        "decoder_layers": config.decoder_num_layers,
        **{f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in stack.items()},
        "activation_function": "gelu_pytorch_tanh" if config.bias_activation_fusion else "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": 0.0,
        "init_std": config.init_method_std,
        "is_encoder_decoder": True,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "decoder_start_token_id": BOS,
        # These switch off Blenderbot's defaults for chat, which would change generated sequences.
        "forced_eos_token_id": None,
        "encoder_no_repeat_ngram_size": 0,
        # The conversion back reads all settings from here. Blenderbot has no names for some of them.
        "prott5nv": asdict(config),
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _require_safetensors() -> None:
    if find_spec("safetensors") is None:
        raise ProtT5nvError("Hugging Face folders need safetensors: pip install 'prott5nv[hf]'")
