"""Conversion between ``.nemo`` files and Hugging Face folders, which need no remote code."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prott5nv.assets import SENTENCEPIECE_MODEL
from prott5nv.checkpoint.huggingface_files import model_card, tokenizer_files
from prott5nv.checkpoint.huggingface_names import (
    BLENDERBOT,
    BLENDERBOT_EPSILON,
    HEAD_BIAS,
    POSITIONS,
    XLM_ROBERTA_XL,
    blenderbot_config,
    blenderbot_difference,
    blenderbot_shapes,
    fused,
    to_blenderbot,
    to_xlm_roberta,
    xlm_roberta_config,
)
from prott5nv.checkpoint.reader import read_card, read_nemo
from prott5nv.checkpoint.safetensors_folder import WEIGHTS_FILE, SafetensorsFolder, read_json, write_safetensors
from prott5nv.checkpoint.writer import save_nemo
from prott5nv.errors import ProtT5nvError, warn
from prott5nv.io.atomic import whole_folder
from prott5nv.io.output import reserved_outputs
from prott5nv.io.work_folders import reserved
from prott5nv.model.config import ModelConfig

if TYPE_CHECKING:
    import torch


# Files of a converted folder. A folder with other files is never replaced.
_FILES = frozenset(
    {"config.json", "README.md", "tokenizer.json", "tokenizer_config.json", WEIGHTS_FILE, SENTENCEPIECE_MODEL.name}
)


def nemo_to_huggingface(
    source: str | Path, folder: str | Path, *, encoder_only: bool = False, overwrite: bool = False
) -> None:
    """Convert a ``.nemo`` file to a folder for ``AutoModel`` and ``AutoTokenizer`` of transformers.

    Parameters
    ----------
    source : str or Path
        A ``.nemo`` file.
    folder : str or Path
        Folder to write. It appears only when it is complete.
    encoder_only : bool, default False
        True writes the encoder alone as XLM-RoBERTa-XL, for embeddings and for programs that expect an encoder. False
        writes the whole model as Blenderbot, for scoring and generation with the decoder.
    overwrite : bool, default False
        Whether to replace an existing folder that has only the files of such a folder.

    Raises
    ------
    ProtT5nvError
        If the file is not a valid checkpoint, the folder exists, or Blenderbot does not support a setting of the model.
    """
    folder = Path(folder)
    if folder.exists():
        _check_folder(folder, overwrite)
    file = read_nemo(source)
    if not encoder_only and file.config.layernorm_epsilon != BLENDERBOT_EPSILON:
        raise ProtT5nvError(
            f"{source}: layernorm_epsilon={file.config.layernorm_epsilon}; Blenderbot has {BLENDERBOT_EPSILON}"
        )
    tokenizer = tokenizer_files(file.config.max_position_embeddings, file.config.num_sentinel_tokens)
    texts = {
        "config.json": _json((xlm_roberta_config if encoder_only else blenderbot_config)(file.config)),
        **{name: _json(content) for name, content in tokenizer.items()},
        "README.md": model_card(
            file,
            encoder_only=encoder_only,
            appendix=read_card(source),
        ),
    }
    with reserved(folder), whole_folder(folder, replace=overwrite) as temporary:
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        shutil.copyfile(SENTENCEPIECE_MODEL, temporary / SENTENCEPIECE_MODEL.name)
        convert = to_xlm_roberta if encoder_only else to_blenderbot
        state = convert(file.state_dict, file.config)
        write_safetensors(temporary / WEIGHTS_FILE, state, {"format": "pt"})


def huggingface_to_nemo(folder: str | Path, path: str | Path, *, overwrite: bool = False) -> None:
    """Convert a folder with the whole model back to a ``.nemo`` file with the same weights.

    Parameters
    ----------
    folder : str or Path
        Folder that :func:`nemo_to_huggingface` wrote, or that transformers saved after loading such a folder.
    path : str or Path
        File to write. It appears only when it is complete.
    overwrite : bool, default False
        Whether to replace an existing file.

    Raises
    ------
    ProtT5nvError
        If the folder contains the encoder alone or another model, its weights do not fit its configuration or are not
        finite, :func:`prott5nv.checkpoint.read_nemo` would refuse the file, or the file exists.

    Warns
    -----
    UserWarning
        If the folder has no bias for the decoder's head, because it was saved from ``AutoModel``. The bias is then
        zero.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ProtT5nvError(f"{folder}: a file; only a Hugging Face folder can be converted to a .nemo file")
    with reserved_outputs([path], overwrite=overwrite):
        config = _read_config(folder)
        state, dtype = _read_blenderbot(SafetensorsFolder(folder), config, folder)
        try:
            save_nemo(path, config, state, dtype=dtype, verify=True)
        except ProtT5nvError as error:
            raise ProtT5nvError(f"{folder}: {error}") from None


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse to replace an existing folder, unless it is allowed and no file of another origin would be lost."""
    if not folder.is_dir():
        raise ProtT5nvError(f"{folder}: exists already and is not a folder; choose another name")
    names = {path.name for path in folder.iterdir()}
    if names and not overwrite:
        raise ProtT5nvError(f"{folder}: exists already; choose another name, or replace it with --overwrite")
    if others := names - _FILES:
        raise ProtT5nvError(f"{folder}: contains {min(others)!r}, which convert did not write; choose another name")


def _read_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` and check every setting that changes what the model computes."""
    path = folder / "config.json"
    values = read_json(path)
    model_type = values.get("model_type")
    if model_type == XLM_ROBERTA_XL:
        raise ProtT5nvError(
            f"{folder}: contains the encoder alone, and a .nemo file needs the decoder too; convert a folder that "
            "'prott5nv convert --to hf' wrote"
        )
    settings = values.get("prott5nv")
    if model_type != BLENDERBOT or not isinstance(settings, dict):
        raise ProtT5nvError(
            f"{path}: not a ProtT5nv model (model_type={str(model_type)[:80]!r}); convert a folder that "
            "'prott5nv convert --to hf' wrote"
        )
    try:
        config = ModelConfig.from_dict(settings)
    except ProtT5nvError as error:
        raise ProtT5nvError(f"{path}: prott5nv: {error}") from None
    for name, value in asdict(config).items():  # ModelConfig also takes numbers as text, as YAML files have them
        given = settings.get(name)
        if isinstance(given, str) or (isinstance(given, float) and isinstance(value, int)):
            raise ProtT5nvError(f"{path}: prott5nv: {name}={given!r:.80}; expected {value!r}")
    if config.layernorm_epsilon != BLENDERBOT_EPSILON:
        raise ProtT5nvError(
            f"{path}: prott5nv: layernorm_epsilon={config.layernorm_epsilon}; Blenderbot has {BLENDERBOT_EPSILON}"
        )
    if difference := blenderbot_difference(values, config):
        raise ProtT5nvError(f"{path}: {difference}, as in the settings of 'prott5nv'")
    return config


def _read_blenderbot(
    weights: SafetensorsFolder, config: ModelConfig, folder: Path
) -> tuple[dict[str, torch.Tensor], torch.dtype | None]:
    """Read the weights of Blenderbot by their names in ``ProtT5``.

    Everything except the values is checked first.

    Returns
    -------
    state : dict of str to Tensor
        Parameters by their names in ``ProtT5``.
    dtype : torch.dtype or None
        Data type of all weights, or None if they have several.
    """
    import torch

    # BlenderbotModel, which AutoModel returns, saves its parameters without the prefix and without the head's bias.
    prefixed = any(name.startswith("model.") for name in weights.tensors)
    prefix = "" if prefixed else "model."
    sources = {}
    for name, names, shape in blenderbot_shapes(config):
        names = tuple(each.removeprefix(prefix) for each in names)
        if name == HEAD_BIAS and not prefixed and names[0] not in weights.tensors:
            continue
        for each in names:
            weights.check(each, shape)
        sources[name] = names
    if surplus := weights.tensors.keys() - {each for names in sources.values() for each in names}:
        raise ProtT5nvError(f"{folder}: {min(surplus)[:200]!r} is not a parameter of ProtT5nv")

    state = {}
    for name, names in sources.items():
        parts = [weights.read(each) for each in names]
        if name == POSITIONS:
            if not torch.equal(*parts):
                raise ProtT5nvError(f"{folder}: the two position tables differ; ProtT5nv has one shared table")
            parts = parts[:1]
        state[name] = parts[0][0] if name == HEAD_BIAS else fused(parts, config)
    dtypes = {tensor.dtype for tensor in state.values()}
    if HEAD_BIAS not in state:
        warn(
            f"{folder}: saved from AutoModel, which has no bias for the decoder's head; the bias is set to zero. "
            "Embeddings do not depend on it. To keep it, save from AutoModelForSeq2SeqLM."
        )
        state[HEAD_BIAS] = torch.zeros(config.padded_vocab_size, dtype=next(iter(dtypes)))
    return state, dtypes.pop() if len(dtypes) == 1 else None


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
