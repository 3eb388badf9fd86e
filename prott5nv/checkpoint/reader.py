"""Reading a ``.nemo`` file: ours, NeMo 1.x's, or a stranger's."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prott5nv.checkpoint import config_yaml, sentencepiece_file
from prott5nv.checkpoint.archive import MAX_OTHER, Archive
from prott5nv.checkpoint.parameter_names import nemo_names, parameter_shapes, prott5_name
from prott5nv.checkpoint.weights import Weights
from prott5nv.errors import ProtT5nvError
from prott5nv.model.config import ModelConfig

if TYPE_CHECKING:
    import torch

    from prott5nv.model.prott5 import ProtT5

CONFIG_MEMBER = "model_config.yaml"
WEIGHTS_MEMBER = "model_weights.ckpt"

# Weights are at most four bytes a parameter; names, padding and the second copy of the tables come on top.
_WEIGHTS_SLACK = 1 << 22
_FLOATS = ("float32", "float16", "bfloat16")
_WARM_START_ROWS = 1 << 19  # vocabularies of text models have 30 to 260 thousand pieces
# A warm start may bring these with another number of rows.
_TABLES = ("embedding.word_embeddings.weight", "embedding.position_embeddings.weight", "tokens_head.bias")


@dataclass
class NemoFile:
    """What a ``.nemo`` file holds.

    Attributes
    ----------
    path : Path
    config : ModelConfig
        The architecture.
    raw_config : dict
        The whole ``model_config.yaml``, as data.
    shapes : dict of str to tuple of int
        Shape of each parameter, by its name in ``ProtT5``.
    dtypes : set of str
        Dtypes of the stored weights.
    tokenizer_model : bytes or None
        The SentencePiece file; None where a file for a warm start has none.
    sha256 : str
        Hash of the whole file.
    state_dict : dict of str to Tensor
        Parameters by their names in ``ProtT5``, shared tables once, in the dtype of the file.
    """

    path: Path
    config: ModelConfig
    raw_config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    dtypes: set[str]
    tokenizer_model: bytes | None
    sha256: str = ""
    state_dict: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)


def read_nemo(path: str | Path, *, weights: bool = True, warm_start: bool = False) -> NemoFile:
    """Read a ``.nemo`` file without running anything from it and without unpacking it.

    Parameters
    ----------
    path : path-like
        Written by this package, BioNeMo v1 or NeMo 1.x.
    weights : bool
        False leaves ``state_dict`` empty: all checks but those of the numbers themselves, in a moment.
    warm_start : bool
        True accepts another vocabulary, with a warning, and tables of other lengths: see :func:`warm_start_weights`.

    Returns
    -------
    NemoFile

    Raises
    ------
    ProtT5nvError
        If the file is damaged, hostile or another model. The message names the file, the member and what was expected.

    Examples
    --------
    >>> import tempfile
    >>> from prott5nv.checkpoint import save_nemo
    >>> from prott5nv.model.prott5 import ProtT5
    >>> model = ProtT5(ModelConfig.preset("tiny"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_nemo(f"{folder}/tiny.nemo", model.config, model.state_dict())
    ...     file = read_nemo(f"{folder}/tiny.nemo", weights=False)
    >>> file.config == model.config, file.dtypes
    (True, {'float32'})
    """
    with Archive(path) as archive:
        file, stored, names = _inspect(archive, warm_start)
        file.sha256 = archive.sha256()
        if weights:
            file.state_dict = _read_weights(archive, stored, names)
    return file


def load(path: str | Path, dtype: torch.dtype | None = None) -> ProtT5:
    """The model in a ``.nemo`` file, ready for inference.

    Parameters
    ----------
    path : path-like
    dtype : torch.dtype, optional
        Of the weights; float32 by default, whatever the file holds.

    Returns
    -------
    ProtT5
        In eval mode, on the CPU.

    Raises
    ------
    ProtT5nvError
        As :func:`read_nemo`.
    """
    import torch

    from prott5nv.model.prott5 import ProtT5

    with Archive(path) as archive:
        file, stored, names = _inspect(archive)
        state = _read_weights(archive, stored, names)
    with torch.device("meta"):  # no memory for initial weights
        model = ProtT5(file.config)
    weights = {name: state.pop(name).to(dtype or torch.float32) for name in list(state)}  # never two copies of all
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _inspect(archive: Archive, warm_start: bool = False) -> tuple[NemoFile, Weights, dict[str, list[str]]]:
    """What the file is, its weights yet to be read, and the names in the file of each parameter."""
    where = f"{archive.path}: {CONFIG_MEMBER}"
    raw_config = config_yaml.parse(archive.read(CONFIG_MEMBER, config_yaml.MAX_SIZE), where)
    try:
        config = ModelConfig.from_nemo(raw_config)
    except ProtT5nvError as error:
        raise ProtT5nvError(f"{where}: {error}") from None
    tokenizer_model = _read_tokenizer(archive, raw_config, warm_start)
    stored, names = _open_weights(archive, config, warm_start)
    file = NemoFile(
        path=archive.path,
        config=config,
        raw_config=raw_config,
        shapes={name: stored.tensors[theirs[0]].shape for name, theirs in names.items()},
        dtypes={stored.tensors[each].dtype for theirs in names.values() for each in theirs},
        tokenizer_model=tokenizer_model,
    )
    return file, stored, names


def _read_tokenizer(archive: Archive, raw_config: dict[str, Any], warm_start: bool) -> bytes | None:
    """Check every member that the configuration names; return the SentencePiece model among them."""
    named = config_yaml.artifacts(raw_config, f"{archive.path}: {CONFIG_MEMBER}")
    contents = {name: archive.read(name, sentencepiece_file.MAX_SIZE) for name in named}
    for name, member in archive.members.items():
        if name not in (CONFIG_MEMBER, WEIGHTS_MEMBER, *named):
            archive.open(name, MAX_OTHER)
            warnings.warn(f"{archive.path}: skipped {name[:200]!r}, {member.size:,} bytes", stacklevel=4)
    models = [name for name in named if name.endswith(".model")]
    try:
        if len(models) != 1:
            raise ProtT5nvError(f"{archive.path}: {CONFIG_MEMBER} names {len(models)} SentencePiece models, not one")
        sentencepiece_file.check(contents[models[0]], f"{archive.path}: {models[0]}")
    except ProtT5nvError as error:
        if not warm_start:
            raise
        warnings.warn(f"{error}; a warm start ignores the tokenizer", stacklevel=4)
    return contents[models[0]] if models else None


def _open_weights(archive: Archive, config: ModelConfig, warm_start: bool) -> tuple[Weights, dict[str, list[str]]]:
    """The weights, checked against the configuration, and the names in the file of each parameter."""
    where = f"{archive.path}: {WEIGHTS_MEMBER}"
    rows = config.padded_vocab_size + config.max_position_embeddings + (_WARM_START_ROWS if warm_start else 0)
    limit = 4 * config.num_parameters + 8 * rows * config.hidden_size + _WEIGHTS_SLACK
    stored = Weights(archive.open(WEIGHTS_MEMBER, limit), where)
    unclaimed: dict[str | None, list[str]] = {}
    for theirs in stored.tensors:
        unclaimed.setdefault(prott5_name(theirs), []).append(theirs)
    names = {}
    for name, shape in parameter_shapes(config):
        if name not in unclaimed:
            raise ProtT5nvError(f"{where}: {nemo_names(name)[0]!r} is missing; expected every parameter of the model")
        names[name] = unclaimed.pop(name)
        for theirs in names[name]:
            tensor = stored.tensors[theirs]
            if tensor.dtype not in _FLOATS:
                raise ProtT5nvError(f"{where}: {theirs!r} is {tensor.dtype}; expected one of {', '.join(_FLOATS)}")
            resizable = warm_start and name in _TABLES and len(tensor.shape) == len(shape)
            if tensor.shape[resizable:] != shape[resizable:]:
                raise ProtT5nvError(f"{where}: {theirs!r} has shape {tensor.shape}; expected {shape}")
    for surplus in unclaimed.values():
        raise ProtT5nvError(f"{where}: {surplus[0][:200]!r} is no parameter of the model in {CONFIG_MEMBER}")
    return stored, names


def _read_weights(archive: Archive, stored: Weights, names: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    import torch

    tensors = stored.read(theirs for several in names.values() for theirs in several)
    for theirs in names.values():
        for copy in theirs[1:]:
            if not torch.equal(tensors[theirs[0]], tensors[copy]):
                raise ProtT5nvError(
                    f"{archive.path}: {WEIGHTS_MEMBER}: {copy!r} differs from {theirs[0]!r}; expected one shared table"
                )
    return {name: tensors[theirs[0]] for name, theirs in names.items()}
