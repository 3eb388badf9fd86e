"""The file of a fine-tuned model: encoder, head and what its outputs mean, as safetensors with JSON metadata.

The metadata have the single key ``prott5nv``, a JSON object with these keys:

``format``
    Version of this layout, 2. Version 1 was an HDF5 file: see :mod:`prott5nv.flip.predictor_hdf5`.
``architecture``
    Every field of :class:`prott5nv.model.config.ModelConfig`, or for a T5 model every field of
    :class:`prott5nv.model.t5.T5Config` and, as ``vocabulary``, of :class:`prott5nv.model.t5_tokenizer.T5Vocabulary`.
    Null if the encoder is the built-in model, which is then not in the file.
``head``
    ``name`` and the settings of the head.
``output``
    Every field of :class:`prott5nv.flip.tasks.OutputSpec`.
``encoder_sha256``
    Hash of the model that training started from.

Tensors are float32. Their names are those in ``ProtT5``, without the decoder, or in ``T5Encoder`` behind ``encoder.``,
and those in the head behind ``head.``. A reader accepts exactly these keys and tensors; opening a file runs no code
from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import torch
from safetensors import SafetensorError
from torch import Tensor

from prott5nv.assets import BUILTIN_MODEL
from prott5nv.checkpoint import read_nemo
from prott5nv.checkpoint.parameter_names import parameter_shapes
from prott5nv.checkpoint.safetensors_folder import open_safetensors, write_safetensors
from prott5nv.checkpoint.t5_names import encoder_sources
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.config import LABELS, LEVELS, REGISTERED_HEADS, HeadConfig, head_names
from prott5nv.flip.head_base import Head
from prott5nv.flip.heads import make_head
from prott5nv.flip.tasks import OutputSpec
from prott5nv.io.atomic import whole_file
from prott5nv.io.text import parse_json
from prott5nv.model.config import ModelConfig
from prott5nv.model.encoder import Encoder
from prott5nv.model.t5 import T5Config, T5Encoder
from prott5nv.model.t5_tokenizer import T5Vocabulary

FORMAT = 2
MAX_METADATA = 1 << 20  # characters

_KEY = "prott5nv"
_MAX_HEAD_SETTING = 1 << 16

Config = TypeVar("Config")


@dataclass(frozen=True)
class PredictorParts:
    """Everything that a predictor file holds.

    Attributes
    ----------
    config : ModelConfig or T5Config
        Architecture of the encoder.
    head_settings : dict
        ``name`` and settings of the head.
    output_spec : OutputSpec
    encoder_sha256 : str or None
        Hash of the ``.nemo`` file that training started from; None in files of format 1, which do not record it.
    encoder : dict of str to Tensor
        Parameters by their names in ``ProtT5``, without the decoder, or in ``T5Encoder``. Empty if the encoder is the
        built-in model.
    head : dict of str to Tensor
        Parameters and buffers by their names in the head.
    vocabulary : T5Vocabulary or None
        Token ids of a T5 model; None for ProtT5nv, whose token ids are always the same.
    """

    config: ModelConfig | T5Config
    head_settings: dict[str, Any]
    output_spec: OutputSpec
    encoder_sha256: str | None
    encoder: dict[str, Tensor]
    head: dict[str, Tensor]
    vocabulary: T5Vocabulary | None = None


def save_predictor(
    path: Path,
    model: Encoder | None,
    head: Head,
    head_settings: Mapping[str, Any],
    output_spec: OutputSpec,
    encoder_sha256: str,
) -> None:
    """Write a predictor file.

    Parameters
    ----------
    path : Path
    model : ProtT5, T5Encoder or None
        Its decoder, if it has one, is left out. None stands for the built-in model, which is not copied into the file.
    head : Head
    head_settings : dict
        ``name`` and settings of the head, as :func:`prott5nv.flip.heads.make_head` takes them.
    output_spec : OutputSpec
    encoder_sha256 : str
        Hash of the ``.nemo`` file that training started from.

    Raises
    ------
    ProtT5nvError
        If the file cannot be written.
    """
    metadata = {
        "format": FORMAT,
        "architecture": None if model is None else _architecture(model),
        "head": dict(head_settings),
        "output": asdict(output_spec),
        "encoder_sha256": encoder_sha256,
    }
    weights = {} if model is None else model.state_dict()
    encoder = {name: tensor for name, tensor in weights.items() if not name.startswith("decoder.")}
    tensors = {
        f"{part}.{name}": tensor.detach().float().cpu().contiguous()
        for part, state in (("encoder", encoder), ("head", head.state_dict()))
        for name, tensor in state.items()
    }
    with whole_file(path) as temporary:
        write_safetensors(temporary, tensors, {_KEY: json.dumps(metadata)})


def read_predictor(path: Path) -> PredictorParts:
    """Read and check a predictor file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    PredictorParts

    Raises
    ------
    ProtT5nvError
        If anything in the file differs from the layout above. The caller adds the
        name of the file to the message.
    OSError
        If the file cannot be opened.
    """
    try:
        with open_safetensors(path) as file:
            metadata = file.metadata() or {}
            if metadata.keys() != {_KEY}:
                raise ProtT5nvError(f"its metadata must have the single key {_KEY!r}")
            values = parse_metadata(metadata[_KEY], {"format", "architecture", "head", "output", "encoder_sha256"})
            if values["format"] != FORMAT:
                raise ProtT5nvError(f"its format is {str(values['format'])[:20]}; this version reads {FORMAT}")
            sha256 = values["encoder_sha256"]
            if not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
                raise ProtT5nvError("encoder_sha256 must be 64 hexadecimal digits")
            is_whole = values["architecture"] is not None
            architecture, vocabulary = _split_vocabulary(values["architecture"] if is_whole else _builtin(sha256))
            config, head, output_spec = check_architecture(architecture, values["head"], values["output"], vocabulary)
            stored = {}
            for name in file.keys():  # noqa: SIM118 (a safe_open object is not iterable)
                tensor = file.get_slice(name)
                stored[name] = ("float32" if tensor.get_dtype() == "F32" else tensor.get_dtype(), tensor.get_shape())
            shapes = predictor_shapes(config, head, output_spec)
            if not is_whole:
                shapes = ((name, shape) for name, shape in shapes if name.startswith("head."))
            encoder, head_state = read_tensors(stored, shapes, file.get_tensor)
    except SafetensorError as error:
        raise ProtT5nvError(f"not a sound safetensors file: {error}") from None
    return PredictorParts(config, head, output_spec, sha256, encoder, head_state, vocabulary)


def _architecture(model: Encoder) -> dict[str, Any]:
    """Return the fields of the configuration, and of the vocabulary of a T5 model."""
    architecture = asdict(cast(Any, model.config))
    if isinstance(model, T5Encoder):
        architecture["vocabulary"] = asdict(model.tokenizer.vocabulary)
    return architecture


def _builtin(sha256: str) -> dict[str, Any]:
    """Return the architecture of the built-in model, which must be the one that a predictor was trained with."""
    checkpoint = read_nemo(BUILTIN_MODEL, weights=False)
    if checkpoint.sha256 != sha256:
        raise ProtT5nvError(
            f"it was trained with another built-in model ({sha256[:8]}, not {checkpoint.sha256[:8]}); train it again"
        )
    return asdict(checkpoint.config)


def _split_vocabulary(architecture: Any) -> tuple[Any, T5Vocabulary | None]:
    """Separate the vocabulary of a T5 model from its architecture."""
    if not isinstance(architecture, dict) or "vocabulary" not in architecture:
        return architecture, None
    remaining = {name: value for name, value in architecture.items() if name != "vocabulary"}
    return remaining, T5Vocabulary.from_dict(architecture["vocabulary"])


def parse_metadata(text: str, keys: set[str]) -> dict[str, Any]:
    """Parse a JSON object that must have exactly the given keys."""
    if len(text) > MAX_METADATA:
        raise ProtT5nvError(f"its metadata have {len(text):,} characters; at most {MAX_METADATA:,} are allowed")
    try:
        values = parse_json(text)
    except (ValueError, RecursionError):
        raise ProtT5nvError("its metadata are not JSON") from None
    _check_keys("its metadata", values, keys)
    return dict(values)


def check_architecture(
    architecture: Any, head: Any, output: Any, vocabulary: T5Vocabulary | None = None
) -> tuple[ModelConfig | T5Config, dict[str, Any], OutputSpec]:
    """Turn parsed metadata into objects.

    Parameters
    ----------
    architecture, head, output : Any
        Parsed JSON, which may hold anything.
    vocabulary : T5Vocabulary, optional
        Token ids of a T5 model, which must fit its architecture. Without it, the architecture is ProtT5nv's.

    Returns
    -------
    config : ModelConfig or T5Config
    head : dict
        ``name`` and settings.
    output_spec : OutputSpec

    Raises
    ------
    ProtT5nvError
        If a key is missing or unknown, or a value is not valid.
    """
    kind = ModelConfig if vocabulary is None else T5Config
    _check_keys("architecture", architecture, {field.name for field in fields(kind)})
    config = kind(**architecture)
    if vocabulary and isinstance(config, T5Config) and max(vocabulary.all_ids) >= config.vocab_size:
        raise ProtT5nvError(f"token {max(vocabulary.all_ids)}: the model has only {config.vocab_size} tokens")
    output_spec = _checked_output_spec(output)
    if not isinstance(head, dict) or head.get("name") not in head_names():
        raise ProtT5nvError(
            f"head.name must be one of {', '.join(head_names())}; for another head, import the module that registers "
            "it, or install it as an extension"
        )
    settings = {name: value for name, value in head.items() if name != "name"}
    if head["name"] not in REGISTERED_HEADS:
        _checked_config(get_type_hints(HeadConfig)[head["name"]], settings, "head")
    return config, head, output_spec


def predictor_shapes(
    config: ModelConfig | T5Config, head: Mapping[str, Any], output_spec: OutputSpec
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every tensor; lazily, because hostile metadata may claim a million layers."""
    if isinstance(config, T5Config):
        yield "encoder.embedding.weight", (config.vocab_size, config.d_model)
        for name, parts, (rows, *columns) in encoder_sources(config):
            yield f"encoder.{name}", (rows * len(parts), *columns)
    else:
        for name, shape in takewhile(lambda item: not item[0].startswith("decoder."), parameter_shapes(config)):
            yield f"encoder.{name}", shape
        yield "encoder.tokens_head.bias", (config.padded_vocab_size,)
    # The width has been found in the file by now. On the meta device, a head takes no memory.
    with torch.device("meta"):
        network = make_head(output_spec.level, config.hidden_size, output_spec.num_outputs, **head)
    for name, tensor in network.state_dict().items():
        yield f"head.{name}", tuple(tensor.shape)


def read_tensors(
    stored: Mapping[str, tuple[str, Iterable[int]]],
    shapes: Iterable[tuple[str, tuple[int, ...]]],
    read: Callable[[str], Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Check names, data types and shapes of all tensors, and then read them.

    Parameters
    ----------
    stored : dict of str to (str, sequence of int)
        Data type and shape of each tensor in the file.
    shapes : iterable of (str, tuple of int)
        Expected names and shapes.
    read : callable
        Returns a tensor by its name.

    Returns
    -------
    encoder : dict of str to Tensor
        Tensors of the encoder, without the prefix of their names.
    head : dict of str to Tensor
        Tensors of the head, likewise.

    Raises
    ------
    ProtT5nvError
        If a tensor is missing, surplus, of another type or shape, or not finite.
    """
    surplus = set(stored)
    names = []
    for name, shape in shapes:
        if name not in stored:
            raise ProtT5nvError(f"{name} is missing")
        dtype, stored_shape = stored[name][0], tuple(stored[name][1])
        if dtype != "float32" or stored_shape != shape:
            raise ProtT5nvError(f"{name} is {dtype} with shape {stored_shape}; expected float32 with shape {shape}")
        surplus.discard(name)
        names.append(name)
    if surplus:
        raise ProtT5nvError(f"{min(surplus)[:200]!r} is not a tensor of this model")
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "head": {}}
    for name in names:
        tensor = read(name)
        if not tensor.isfinite().all():
            raise ProtT5nvError(f"{name} holds NaN or infinity")
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return parts["encoder"], parts["head"]


def _checked_output_spec(values: Any) -> OutputSpec:
    _check_keys("output", values, {field.name for field in fields(OutputSpec)})
    classes = values["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) and name for name in classes):
        raise ProtT5nvError("output.classes must be a list of names")
    for name in ("task", "split"):
        if not isinstance(values[name], str):
            raise ProtT5nvError(f"output.{name} must be text")
    for name, allowed in (("level", LEVELS), ("label", LABELS)):
        if values[name] not in allowed:
            raise ProtT5nvError(f"output.{name} must be {' or '.join(allowed)}")
    if len(set(classes)) < len(classes) or bool(classes) != (values["label"] == "class"):
        raise ProtT5nvError("output.classes must be different names for label class, and empty for label number")
    if values["level"] == "residue" and any(len(name) > 1 for name in classes):
        raise ProtT5nvError("output.classes must be single letters for level residue")
    return OutputSpec(**{**values, "classes": tuple(classes)})


def _checked_config(cls: type[Config], values: dict[str, Any], where: str) -> Config:
    """Create a configuration object from parsed JSON, whose types are checked exactly."""
    hints = get_type_hints(cls)
    _check_keys(where, values, set(hints))
    for name, value in values.items():
        if type(value) is not hints[name] and not (hints[name] is float and type(value) is int):
            raise ProtT5nvError(f"{where}.{name} must be {hints[name].__name__}")
        if value > _MAX_HEAD_SETTING:
            raise ProtT5nvError(f"{where}.{name} must be at most {_MAX_HEAD_SETTING:,}")
    return cls(**values)


def _check_keys(where: str, values: Any, expected: set[str]) -> None:
    if not isinstance(values, dict):
        raise ProtT5nvError(f"{where}: expected a JSON object")
    if missing := expected - values.keys():
        raise ProtT5nvError(f"{where}: {min(missing)!r} is missing")
    if unknown := values.keys() - expected:
        raise ProtT5nvError(f"{where}: {min(unknown)[:80]!r} is unknown")
