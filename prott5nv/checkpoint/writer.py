"""Writing a ``.nemo`` file that this package, BioNeMo v1 and NeMo 1.x open."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml

from prott5nv.assets import SENTENCEPIECE_MODEL, SENTENCEPIECE_VOCAB
from prott5nv.checkpoint.archive import BLOCK
from prott5nv.checkpoint.config_yaml import ARTIFACT
from prott5nv.checkpoint.parameter_names import parameter_shapes, prott5_to_nemo
from prott5nv.checkpoint.reader import CONFIG_MEMBER, WEIGHTS_MEMBER
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file

if TYPE_CHECKING:
    import torch

    from prott5nv.model.config import ModelConfig


def save_nemo(
    path: str | Path,
    config: ModelConfig,
    state_dict: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a model; the file appears under its name only when it is complete.

    The same model gives the same bytes, so that hashes of files can be compared.

    Parameters
    ----------
    path : path-like
        Where to write; an older file of that name is replaced.
    config : ModelConfig
    state_dict : mapping of str to Tensor
        Parameters by their names in ``ProtT5``.
    dtype : torch.dtype, optional
        Of the weights in the file; float32 by default, as NeMo writes them.
    settings : mapping, optional
        More keys for ``model_config.yaml``, such as those of the optimizer.

    Raises
    ------
    ProtT5nvError
        If the parameters are not those of ``config``, or the file cannot be written.
    """
    import torch

    path = Path(path)
    state = _checked(config, state_dict, dtype or torch.float32)
    files = (SENTENCEPIECE_MODEL, SENTENCEPIECE_VOCAB)
    artifacts = {f"{hashlib.md5(file.read_bytes()).hexdigest()}_{file.name}": file for file in files}
    model_name, vocab_name = artifacts
    values = {**(settings or {}), **config.to_nemo()}
    values["tokenizer"] = {**values["tokenizer"], "model": ARTIFACT + model_name, "vocab_file": ARTIFACT + vocab_name}
    text = yaml.dump(values, Dumper=_Dumper, sort_keys=False)

    with whole_file(path) as temporary, temporary.open("xb") as file:
        _write_header(file, ".", 0, tarfile.DIRTYPE)
        _write_member(file, CONFIG_MEMBER, text.encode())
        for name, source in artifacts.items():
            _write_member(file, name, source.read_bytes())
        _write_weights(file, state)
        file.write(bytes(2 * BLOCK))


class _Dumper(yaml.SafeDumper):
    """Writes a value that occurs twice out twice: our own reader refuses aliases."""

    def ignore_aliases(self, data):
        return True


def _checked(
    config: ModelConfig, state_dict: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The state dict under its names in the file; refused where it does not fit the configuration."""
    shapes = dict(parameter_shapes(config))
    if shapes != {name: tuple(tensor.shape) for name, tensor in state_dict.items()}:
        found = {(name, tuple(tensor.shape)) for name, tensor in state_dict.items()}
        name, shape = min(found ^ set(shapes.items()), key=str)
        raise ProtT5nvError(f"parameters and configuration do not fit each other: look at {name!r}, shape {shape}")
    tensors = {}
    for name in shapes:
        tensor = state_dict[name].detach().to("cpu", dtype).contiguous()
        if tensor.untyped_storage().nbytes() != tensor.nbytes:  # torch.save would write all that a view looks into
            tensor = tensor.clone()
        tensors[name] = tensor
    return prott5_to_nemo(tensors)


def _write_header(file: BinaryIO, name: str, size: int, kind: bytes = tarfile.REGTYPE) -> None:
    header = tarfile.TarInfo(f"./{name}" if name != "." else "./")
    header.size, header.type, header.mode = size, kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    file.write(header.tobuf(tarfile.GNU_FORMAT))


def _write_member(file: BinaryIO, name: str, content: bytes) -> None:
    _write_header(file, name, len(content))
    file.write(content + bytes(-len(content) % BLOCK))


def _write_weights(file: BinaryIO, state: dict[str, torch.Tensor]) -> None:
    """Stream the weights behind a place kept for their header, whose size field is known only afterwards."""
    import torch

    place = file.tell()
    file.write(bytes(BLOCK))
    torch.save(state, _Appender(file))
    size = file.tell() - place - BLOCK
    file.write(bytes(-size % BLOCK))
    end = file.tell()
    file.seek(place)
    _write_header(file, WEIGHTS_MEMBER, size)
    file.seek(end)


class _Appender(io.RawIOBase):
    """The rest of a file as a file of its own, for ``torch.save``, which only appends."""

    def __init__(self, file: BinaryIO):
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        return self._file.write(data)
