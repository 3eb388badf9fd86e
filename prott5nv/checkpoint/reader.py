"""Reader of ``.nemo`` files that this package, NeMo 1.x or anyone else wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prott5nv.checkpoint import config_yaml, sentencepiece_file
from prott5nv.checkpoint.archive import MAX_OTHER, Archive
from prott5nv.checkpoint.parameter_names import nemo_names, parameter_shapes, prott5_name
from prott5nv.checkpoint.weights import Weights
from prott5nv.errors import ProtT5nvError, warn
from prott5nv.io.source import read_small
from prott5nv.model.config import ModelConfig

if TYPE_CHECKING:
    import torch

    from prott5nv.model.prott5 import ProtT5

CONFIG_MEMBER = "model_config.yaml"
WEIGHTS_MEMBER = "model_weights.ckpt"

# Bytes for names and padding in the weights file.
_WEIGHTS_OVERHEAD = 1 << 22
_MOST_CARD = 1 << 20  # bytes
_FLOATS = ("float32", "float16", "bfloat16")
_WARM_START_ROWS = 1 << 19  # vocabularies of text models have 30 to 260 thousand tokens
# In a file for a warm start, these parameters may have another number of rows.
_TABLES = ("embedding.word_embeddings.weight", "embedding.position_embeddings.weight", "tokens_head.bias")


@dataclass
class NemoFile:
    """Content of a ``.nemo`` file.

    Attributes
    ----------
    path : Path
        Path of the file.
    config : ModelConfig
        Architecture of the model.
    raw_config : dict
        All settings in ``model_config.yaml`` as plain data.
    shapes : dict of str to tuple of int
        Shape of each parameter by its name in ``ProtT5``.
    dtypes : set of str
        Data types of the stored weights.
    tokenizer_model : bytes or None
        Content of the SentencePiece file. It is None if the archive has no tokenizer, which only a warm start accepts.
    sha256 : str
        SHA-256 hash of the whole file.
    state_dict : dict of str to Tensor
        Parameters by their names in ``ProtT5``, in the data type of the file. Tables that encoder and decoder share are
        included once. It is empty if the weights were not read.
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
    """Read a ``.nemo`` file without running any code from it and without unpacking its members to files.

    Parameters
    ----------
    path : str or Path
        A file that this package, BioNeMo v1 or NeMo 1.x wrote.
    weights : bool, default True
        Whether to read the weights. Otherwise ``state_dict`` is empty, and all checks except those of the weights'
        values are done. This takes only a moment.
    warm_start : bool, default False
        Whether to accept another vocabulary, with a warning, and tables with another number of rows. See
        :func:`prott5nv.checkpoint.warm_start_weights`.

    Returns
    -------
    NemoFile
        Content of the file.

    Raises
    ------
    ProtT5nvError
        If the file is damaged, hostile or has another architecture. The message names the file and the member, and
        what was expected.

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


def read_card(path: str | Path) -> str:
    """Read the model card beside a ``.nemo`` file, which has the same name with the suffix ``.md``.

    Parameters
    ----------
    path : str or Path
        The ``.nemo`` file.

    Returns
    -------
    str
        Empty if there is no card, or if it is a link or larger than 1 MB, so that it is not a card.
    """
    card = Path(path).with_suffix(".md")
    if card.is_symlink() or not card.exists():
        return ""
    try:
        return read_small(card, _MOST_CARD).decode(errors="replace")
    except (OSError, ProtT5nvError):
        return ""


def load(path: str | Path, dtype: torch.dtype | None = None) -> ProtT5:
    """Load the model in a ``.nemo`` file for inference.

    Parameters
    ----------
    path : str or Path
        A file that this package, BioNeMo v1 or NeMo 1.x wrote.
    dtype : torch.dtype, optional
        Data type of the loaded weights. The default is float32, regardless of the data type in the file.

    Returns
    -------
    ProtT5
        The model in evaluation mode on the CPU.

    Raises
    ------
    ProtT5nvError
        If the file is damaged, hostile or has another architecture.
    """
    with Archive(path) as archive:
        return _load(archive, dtype)


def load_with_checksum(path: str | Path, dtype: torch.dtype | None = None) -> tuple[ProtT5, str]:
    """Load the model in a ``.nemo`` file, and compute the checksum of that file.

    Parameters
    ----------
    path, dtype
        See :func:`load`.

    Returns
    -------
    model : ProtT5
        The model in evaluation mode on the CPU.
    sha256 : str
        SHA-256 hash of the file that the weights were read from, even if another file has taken its name meanwhile.

    Raises
    ------
    ProtT5nvError
        If the file is damaged, hostile or has another architecture.
    """
    with Archive(path) as archive:
        return _load(archive, dtype), archive.sha256()


def _load(archive: Archive, dtype: torch.dtype | None) -> ProtT5:
    import torch

    from prott5nv.model.prott5 import ProtT5

    file, stored, names = _inspect(archive)
    state = _read_weights(archive, stored, names)
    with torch.device("meta"):  # this allocates no memory for initial weights
        model = ProtT5(file.config)
    # Converting one tensor at a time avoids a second copy of all weights in memory.
    weights = {name: state.pop(name).to(dtype or torch.float32) for name in list(state)}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _inspect(archive: Archive, warm_start: bool = False) -> tuple[NemoFile, Weights, dict[str, list[str]]]:
    """Check everything except the weights' values.

    Returns
    -------
    file : NemoFile
        Content of the file without the weights.
    stored : Weights
        The weights, which are not read yet.
    names : dict of str to list of str
        Names of each parameter in the file, by its name in ``ProtT5``.
    """
    where = f"{archive.path}: {CONFIG_MEMBER}"
    raw_config = config_yaml.parse_config(archive.read(CONFIG_MEMBER, config_yaml.MAX_SIZE), where)
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
        shapes={name: stored.tensors[stored_names[0]].shape for name, stored_names in names.items()},
        dtypes={stored.tensors[stored_name].dtype for stored_names in names.values() for stored_name in stored_names},
        tokenizer_model=tokenizer_model,
    )
    return file, stored, names


def _read_tokenizer(archive: Archive, raw_config: dict[str, Any], warm_start: bool) -> bytes | None:
    """Check all members that the configuration names, and return the SentencePiece model among them."""
    named = config_yaml.artifact_members(raw_config, f"{archive.path}: {CONFIG_MEMBER}")
    contents = {name: archive.read(name, sentencepiece_file.MAX_SIZE) for name in named}
    for name, member in archive.members.items():
        if name not in (CONFIG_MEMBER, WEIGHTS_MEMBER, *named):
            archive.open(name, MAX_OTHER)
            warn(f"{archive.path}: skipped {name[:200]!r} ({member.size:,} bytes)")
    models = [name for name in named if name.endswith(".model")]
    try:
        if len(models) != 1:
            raise ProtT5nvError(
                f"{archive.path}: {CONFIG_MEMBER} names {len(models)} SentencePiece models; expected one"
            )
        sentencepiece_file.check_vocabulary(contents[models[0]], f"{archive.path}: {models[0]}")
    except ProtT5nvError as error:
        if not warm_start:
            raise
        warn(f"{error}; a warm start ignores the tokenizer")
    return contents[models[0]] if models else None


def _open_weights(archive: Archive, config: ModelConfig, warm_start: bool) -> tuple[Weights, dict[str, list[str]]]:
    """Check the weights against the configuration; return them and the names of each parameter in the file."""
    where = f"{archive.path}: {WEIGHTS_MEMBER}"
    # A parameter has at most four bytes. The file contains the tables twice.
    rows = config.padded_vocab_size + config.max_position_embeddings + (_WARM_START_ROWS if warm_start else 0)
    limit = 4 * config.num_parameters + 8 * rows * config.hidden_size + _WEIGHTS_OVERHEAD
    stored = Weights(archive.open(WEIGHTS_MEMBER, limit), where)
    unclaimed: dict[str | None, list[str]] = {}
    for stored_name in stored.tensors:
        unclaimed.setdefault(prott5_name(stored_name), []).append(stored_name)
    names = {}
    for name, shape in parameter_shapes(config):
        if name not in unclaimed:
            raise ProtT5nvError(f"{where}: {nemo_names(name)[0]!r} is missing; expected every parameter of the model")
        names[name] = unclaimed.pop(name)
        for stored_name in names[name]:
            tensor = stored.tensors[stored_name]
            if tensor.dtype not in _FLOATS:
                raise ProtT5nvError(f"{where}: {stored_name!r} is {tensor.dtype}; expected one of {', '.join(_FLOATS)}")
            resizable = warm_start and name in _TABLES and len(tensor.shape) == len(shape)
            if tensor.shape[resizable:] != shape[resizable:]:
                raise ProtT5nvError(f"{where}: {stored_name!r} has shape {tensor.shape}; expected {shape}")
    for surplus in unclaimed.values():
        raise ProtT5nvError(f"{where}: {surplus[0][:200]!r} is not a parameter of the model in {CONFIG_MEMBER}")
    return stored, names


def _read_weights(archive: Archive, stored: Weights, names: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    """Read all weights by their names in ``ProtT5``, and check that copies of shared tables are equal."""
    import torch

    tensors = stored.read(stored_name for stored_names in names.values() for stored_name in stored_names)
    for first, *copies in names.values():
        for copy in copies:
            if not torch.equal(tensors[first], tensors[copy]):
                raise ProtT5nvError(
                    f"{archive.path}: {WEIGHTS_MEMBER}: {copy!r} differs from {first!r}; expected one shared table"
                )
    return {name: tensors[stored_names[0]] for name, stored_names in names.items()}
