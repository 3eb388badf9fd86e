"""Reader of folders with a protein T5 model that transformers wrote: ProtT5, ProstT5, Ankh.

Names, shapes and data types of all tensors are checked before any weights are read. The weights are then read one
tensor at a time and converted to the precision of the model, so that loading needs little more memory than the model.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prott5nv.checkpoint.safetensors_folder import (
    CONFIG_FILE,
    DTYPES,
    INDEX_FILE,
    TORCH_FILE,
    TORCH_INDEX_FILE,
    WEIGHTS_FILE,
    SafetensorsFolder,
    check_form,
    is_finite,
    read_index,
    read_json,
)
from prott5nv.checkpoint.state_dict_pickle import StoredTensor
from prott5nv.checkpoint.t5_names import TABLES, Source, decoder_shapes, encoder_sources, parse_config
from prott5nv.checkpoint.t5_vocabulary import FILES, read_vocabulary
from prott5nv.checkpoint.unsuited import refuse_unsuited_folder
from prott5nv.checkpoint.weights import Weights
from prott5nv.errors import ProtT5nvError
from prott5nv.io.checksum import file_checksum
from prott5nv.model.t5 import T5Config, T5Encoder
from prott5nv.model.t5_tokenizer import INPUTS, T5Vocabulary

if TYPE_CHECKING:
    import torch

_MAX_DECODER_LAYERS = 1 << 10


class StoredWeights(Protocol):
    """The tensors in the files of a folder."""

    @property
    def tensors(self) -> Any:
        """Descriptions of all tensors by name."""

    def check(self, name: str, shape: tuple[int, ...]) -> Any:
        """Check that a tensor exists, and has a floating-point type and the expected shape."""

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor and check that its values are finite."""


@dataclass
class T5Folder:
    """Content of a folder, without the weights.

    Attributes
    ----------
    path : Path
        The folder.
    config : T5Config
        Architecture of the encoder.
    vocabulary : T5Vocabulary
        Token ids of the residues.
    dtypes : set of str
        Data types of the stored weights of the encoder.
    decoder_layers : int
        Number of decoder layers in the files, which are not read; 0 if the folder has the encoder alone.
    files : tuple of Path
        All files that the model is read from.
    """

    path: Path
    config: T5Config
    vocabulary: T5Vocabulary
    dtypes: set[str]
    decoder_layers: int
    files: tuple[Path, ...]

    def versions(self) -> list[tuple[int, ...]]:
        """Return numbers that change when one of the files is changed or replaced."""
        stats = [path.stat() for path in self.files]
        return [(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats]

    def sha256(self) -> str:
        """Compute a checksum of the names and contents of all files, as hexadecimal digits."""
        digest = hashlib.sha256()
        for path in sorted(self.files):
            with path.open("rb") as file:
                digest.update(f"{path.name} {file_checksum(file)}\n".encode())
        return digest.hexdigest()


def read_t5_folder(path: str | Path, *, input: str = "aa") -> T5Folder:
    """Check everything in a folder except the values of the weights.

    Parameters
    ----------
    path : str or Path
        Folder with ``config.json``, a tokenizer, and weights in one or several files: safetensors or ``.bin``.
    input : {"aa", "3di"}
        Kind of the input: amino acids, or structural states for ProstT5.

    Returns
    -------
    T5Folder

    Raises
    ------
    ProtT5nvError
        If a file is missing, damaged or hostile, or a tensor is missing, surplus, or of another shape than the
        configuration states.
    """
    with ExitStack() as stack:
        folder, _, _ = _inspect(Path(path), input, stack)
    return folder


def load_t5(path: str | Path, dtype: torch.dtype | None = None, *, input: str = "aa") -> T5Encoder:
    """Load the encoder in a folder.

    Parameters
    ----------
    path
        See :func:`read_t5_folder`.
    dtype : torch.dtype, optional
        Precision of the model; see :meth:`prott5nv.model.t5.T5Encoder.stored_dtype`. The default is float32.
    input
        See :func:`read_t5_folder`.

    Returns
    -------
    T5Encoder
        The model in evaluation mode on the CPU.

    Raises
    ------
    ProtT5nvError
        As for :func:`read_t5_folder`, and if a weight is NaN or infinite, or too large for `dtype`.
    """
    import torch

    with ExitStack() as stack:
        folder, weights, sources = _inspect(Path(path), input, stack)
        with torch.device("meta"):  # this allocates no memory for initial weights
            model = T5Encoder(folder.config, folder.vocabulary)
        # All memory is allocated before the first tensor is read: what reading frees would leave gaps between them.
        state = {
            source.name: _empty(source, model.stored_dtype(source.name, dtype or torch.float32)) for source in sources
        }
        for source in sources:
            _fill(state[source.name], weights, source)
            if not is_finite(state[source.name]):
                raise ProtT5nvError(f"{path}: {source.parts[0]!r} has values that are too large for {dtype}")
    model.load_state_dict(state, assign=True)
    return model.eval()


def _inspect(path: Path, input: str, stack: ExitStack) -> tuple[T5Folder, StoredWeights, list[Source]]:
    """Check the folder, and return its description, its weights, and where each parameter is in the files."""
    if input not in INPUTS:
        raise ProtT5nvError(f"input={input!r}: choose {' or '.join(INPUTS)}")
    refuse_unsuited_folder(path)
    values = read_json(path / CONFIG_FILE)
    config = parse_config(values, str(path / CONFIG_FILE))
    end = values.get("eos_token_id", 1)
    vocabulary = read_vocabulary(path, input, end)
    if max(vocabulary.all_ids) >= config.vocab_size:
        raise ProtT5nvError(
            f"{path}: the vocabulary has the token id {max(vocabulary.all_ids)}, but vocab_size={config.vocab_size}"
        )
    weights, weight_files = _open_weights(path, stack)
    sources = []
    claimed = set(TABLES) & weights.tensors.keys()
    dtypes = set()
    # Hostile settings may claim a million layers. The first tensor that is missing ends the loop.
    for source in chain([_table_source(weights, config, path)], encoder_sources(config)):
        for part in source.parts:
            dtype = weights.check(part, source.shape).dtype
            dtypes.add(DTYPES.get(dtype, dtype))
        claimed.update(source.parts)
        sources.append(source)
    decoder_layers = _check_decoder(weights, config, values, claimed, path)
    if surplus := weights.tensors.keys() - claimed:
        raise ProtT5nvError(f"{path}: {min(surplus)[:200]!r} is not a parameter of the model in {CONFIG_FILE}")
    files = tuple(path / name for name in (CONFIG_FILE, *FILES, *weight_files) if (path / name).is_file())
    return T5Folder(path, config, vocabulary, dtypes, decoder_layers, files), weights, sources


def _open_weights(path: Path, stack: ExitStack) -> tuple[StoredWeights, list[str]]:
    """Open the weights of a folder; return them and the names of their files."""
    if (path / WEIGHTS_FILE).exists() or (path / INDEX_FILE).exists():
        weights = SafetensorsFolder(path)
        names = {tensor.file for tensor in weights.tensors.values()}
        return weights, [*names, *([] if WEIGHTS_FILE in names else [INDEX_FILE])]
    torch_files = TorchFiles(path, stack)
    return torch_files, torch_files.names


class TorchFiles:
    """The weights in ``pytorch_model.bin``, or in several files with an index.

    Parameters
    ----------
    folder : Path
        Folder of the files.
    stack : ExitStack
        Closes the files.

    Attributes
    ----------
    names : list of str
        Names of the files, with the index if there is one.
    tensors : dict of str to StoredTensor
        Descriptions of all tensors by name.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        if (folder / TORCH_FILE).is_file():
            index, self.names = None, [TORCH_FILE]
        elif (folder / TORCH_INDEX_FILE).exists():
            index = read_index(folder / TORCH_INDEX_FILE, ".bin")
            self.names = [*sorted(set(index.values())), TORCH_INDEX_FILE]
        else:
            expected = f"{WEIGHTS_FILE}, {INDEX_FILE}, {TORCH_FILE} or {TORCH_INDEX_FILE}"
            raise ProtT5nvError(f"{folder}: has no weights; expected {expected}")
        self.tensors: dict[str, StoredTensor] = {}
        self._files: dict[str, tuple[Path, Weights]] = {}
        for path in (folder / name for name in self.names if name != TORCH_INDEX_FILE):
            if not path.is_file():
                raise ProtT5nvError(f"{path}: no such file; {TORCH_INDEX_FILE} names it")
            weights = Weights(stack.enter_context(path.open("rb")), str(path))
            if twice := self.tensors.keys() & weights.tensors.keys():
                raise ProtT5nvError(f"{path}: {min(twice)[:200]!r} is also in {self._files[min(twice)][0].name}")
            self.tensors |= weights.tensors
            self._files |= dict.fromkeys(weights.tensors, (path, weights))
        if index is not None and index != {name: path.name for name, (path, _) in self._files.items()}:
            raise ProtT5nvError(f"{folder / TORCH_INDEX_FILE}: the files contain other tensors than this index lists")
        self._where = str(folder / TORCH_FILE if index is None else folder)

    def check(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """Check that a tensor exists, and has a floating-point type and the expected shape."""
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ProtT5nvError(f"{self._where}: {name!r} is missing; expected every parameter of the model")
        check_form(f"{self._files[name][0]}: {name!r}", tensor, DTYPES.values(), shape)
        return tensor

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor and check that its values are finite."""
        return self._files[name][1].read([name])[name]


def _table_source(weights: StoredWeights, config: T5Config, path: Path) -> Source:
    """Return where the embedding table is. Copies of it in the file must be equal."""
    import torch

    names = [name for name in TABLES if name in weights.tensors] or [TABLES[0]]
    shape = (config.vocab_size, config.d_model)
    for name in names:
        weights.check(name, shape)
    if len(names) > 1 and not torch.equal(*map(weights.read, names)):
        raise ProtT5nvError(f"{path}: {names[1]!r} differs from {names[0]!r}; expected one shared table")
    return Source("embedding.weight", (names[0],), shape)


def _check_decoder(weights: StoredWeights, config: T5Config, values: Any, claimed: set[str], path: Path) -> int:
    """Check the tensors of the decoder, if there is one, and add them to `claimed`; return its number of layers."""
    if not any(name.startswith(("decoder.", "lm_head.")) for name in weights.tensors):
        return 0
    num_layers = values.get("num_decoder_layers") or config.num_layers
    if type(num_layers) is not int or not 0 < num_layers <= _MAX_DECODER_LAYERS:
        raise ProtT5nvError(
            f"{path / CONFIG_FILE}: num_decoder_layers={str(num_layers)[:40]} is not a number of layers"
        )
    for name, shape, required in decoder_shapes(config, num_layers):
        if required or name in weights.tensors:
            weights.check(name, shape)
            claimed.add(name)
    return num_layers


def _empty(source: Source, dtype: torch.dtype) -> torch.Tensor:
    """Allocate a parameter."""
    import torch

    rows = source.shape[0] * len(source.parts)
    return torch.empty((rows, *source.shape[1:]), dtype=dtype)


def _fill(parameter: torch.Tensor, weights: StoredWeights, source: Source) -> None:
    """Read the tensors of a parameter into it, one below the other."""
    for part, name in zip(parameter.split(source.shape[0]), source.parts, strict=True):
        part.copy_(weights.read(name))
