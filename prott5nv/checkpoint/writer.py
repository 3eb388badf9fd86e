"""Writer of ``.nemo`` files that this package, BioNeMo v1 and NeMo 1.x can open."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import yaml

from prott5nv.assets import SENTENCEPIECE_MODEL, SENTENCEPIECE_VOCAB
from prott5nv.checkpoint.archive import BLOCK
from prott5nv.checkpoint.config_yaml import ARTIFACT
from prott5nv.checkpoint.parameter_names import parameter_shapes, prott5_to_nemo
from prott5nv.checkpoint.reader import CONFIG_MEMBER, WEIGHTS_MEMBER, read_nemo
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file

if TYPE_CHECKING:
    import torch
    from _typeshed import ReadableBuffer

    from prott5nv.model.config import ModelConfig


def save_nemo(
    path: str | Path,
    config: ModelConfig,
    state_dict: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype | None = None,
    settings: Mapping[str, Any] | None = None,
    verify: bool = False,
) -> None:
    """Write a model to a ``.nemo`` file. The file appears only when it is complete.

    The same model always gives the same bytes, so hashes of files can be compared.

    Parameters
    ----------
    path : str or Path
        File to write. An existing file of that name is replaced.
    config : ModelConfig
        Architecture of the model.
    state_dict : mapping of str to Tensor
        Parameters by their names in ``ProtT5``.
    dtype : torch.dtype, optional
        Data type of the weights in the file. The default is float32, as in NeMo.
    settings : mapping, optional
        Further settings for ``model_config.yaml``, such as those of the optimizer.
    verify : bool, default False
        Whether to read the file with :func:`prott5nv.checkpoint.read_nemo` before it gets its name, for settings from
        an untrusted source. A file that would be refused is not kept.

    Raises
    ------
    ProtT5nvError
        If the parameters do not fit `config` or are not finite in `dtype`, the file cannot be written, or it is
        refused.
    """
    import torch

    path = Path(path)
    state = _checked(config, state_dict, dtype or torch.float32)
    files = (SENTENCEPIECE_MODEL, SENTENCEPIECE_VOCAB)
    # NeMo puts the MD5 hash of a file before its name.
    artifacts = {f"{_md5(file)}_{file.name}": file for file in files}
    model_name, vocab_name = artifacts
    values = {**(settings or {}), **config.to_nemo()}
    values["tokenizer"] = {**values["tokenizer"], "model": ARTIFACT + model_name, "vocab_file": ARTIFACT + vocab_name}
    text = yaml.dump(values, Dumper=_Dumper, sort_keys=False)

    with whole_file(path) as temporary:
        with temporary.open("xb") as file:
            _write_header(file, ".", 0, tarfile.DIRTYPE)
            _write_member(file, CONFIG_MEMBER, text.encode())
            for name, source in artifacts.items():
                _write_member(file, name, source.read_bytes())
            _write_weights(file, state)
            file.write(bytes(2 * BLOCK))
        if verify:
            try:
                read_nemo(temporary)
            except ProtT5nvError as error:
                raise ProtT5nvError(str(error).replace(str(temporary), str(path))) from None


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


class _Dumper(yaml.SafeDumper):
    """Writes an object twice if it occurs twice, instead of an alias, which our reader would refuse."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _checked(
    config: ModelConfig, state_dict: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Check the parameters against the configuration, and return them by their names in the file."""
    shapes = dict(parameter_shapes(config))
    given_shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    if shapes != given_shapes:
        name = min(name for name in shapes.keys() | given_shapes if shapes.get(name) != given_shapes.get(name))
        given = f"has shape {given_shapes[name]}" if name in given_shapes else "is missing"
        expected = f"expected {shapes[name]}" if name in shapes else "expected no such parameter"
        raise ProtT5nvError(f"the parameters do not fit the configuration: {name!r} {given}; {expected}")
    tensors = {}
    for name in shapes:
        tensor = state_dict[name].detach().to("cpu", dtype).contiguous()
        if not tensor.isfinite().all():
            kind = str(dtype).removeprefix("torch.")
            raise ProtT5nvError(f"the parameter {name!r} contains NaN or infinity as {kind}; expected finite weights")
        # For a view, torch.save would write the whole storage.
        if tensor.untyped_storage().nbytes() != tensor.nbytes:
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
    """Write the weights, then the header in front of them, because only then their size is known."""
    import torch

    start = file.tell()
    file.write(bytes(BLOCK))
    appender = _Appender(file)
    try:
        torch.save(state, cast(BinaryIO, appender))
    except RuntimeError:  # the way in which PyTorch reports that the disk is full
        raise appender.error or OSError("the weights cannot be written") from None
    size = file.tell() - start - BLOCK
    file.write(bytes(-size % BLOCK))
    end = file.tell()
    file.seek(start)
    _write_header(file, WEIGHTS_MEMBER, size)
    file.seek(end)


class _Appender(io.RawIOBase):
    """The end of a file as a separate file. ``torch.save`` only appends to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise
