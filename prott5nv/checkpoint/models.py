"""Opening of a model of any kind: a ``.nemo`` file, the folder of a T5 model, or its name on the Hugging Face Hub."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prott5nv.assets import BUILTIN_MODEL
from prott5nv.checkpoint import reader
from prott5nv.checkpoint.hub import download, is_hub_name
from prott5nv.checkpoint.unsuited import refuse_unsuited_folder
from prott5nv.errors import ProtT5nvError
from prott5nv.io.text import valid_text

if TYPE_CHECKING:
    import torch

    from prott5nv.model.config import ModelConfig
    from prott5nv.model.encoder import Encoder

AMINO_ACIDS = "aa"


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes
    ----------
    path : Path
        File or folder.
    sha256 : str
        Checksum of the file, or of all files of the folder that the model is read from.
    attributes : dict of str to str
        What embeddings of this model record besides the checksum.
    """

    path: Path
    sha256: str
    attributes: dict[str, str] = field(default_factory=dict)


def load(path: str | Path, dtype: torch.dtype | None = None) -> Encoder:
    """Load a model for inference.

    Parameters
    ----------
    path : str or Path
        A ``.nemo`` file that this package, BioNeMo v1 or NeMo 1.x wrote; a folder with a protein T5 model (ProtT5,
        ProstT5 or Ankh) that transformers wrote; or the name of such a model on the Hugging Face Hub.
    dtype : torch.dtype, optional
        Data type of the loaded weights. The default is float32, regardless of the data type in the file.

    Returns
    -------
    ProtT5 or T5Encoder
        The model in evaluation mode on the CPU. Of a T5 model, it is the encoder.

    Raises
    ------
    ProtT5nvError
        If the file is damaged, hostile or has another architecture.
    """
    path, _ = local_path(path)
    if path.is_dir():
        from prott5nv.checkpoint.t5_folder import load_t5

        return load_t5(path, dtype)
    return reader.load(path, dtype)


def load_with_origin(
    model: str | Path, dtype: torch.dtype | None = None, *, input: str = AMINO_ACIDS
) -> tuple[Encoder, Origin]:
    """Load a model for inference, and record where it comes from.

    Parameters
    ----------
    model, dtype
        See :func:`load`.
    input : {"aa", "3di"}
        Kind of the input: amino acids, or structural states for ProstT5.

    Returns
    -------
    model : ProtT5 or T5Encoder
    origin : Origin

    Raises
    ------
    ProtT5nvError
        As for :func:`load`, and if the model does not take the kind of input.
    """
    path, attributes = local_path(model)
    if path.is_dir():
        from prott5nv.checkpoint.t5_folder import load_t5, read_t5_folder

        folder = read_t5_folder(path, input=input)
        before = folder.versions()
        encoder = load_t5(path, dtype, input=input)
        sha256 = folder.sha256()
        if folder.versions() != before:
            raise ProtT5nvError(f"{path}: a file was changed while the model was loaded; load it again")
        return encoder, Origin(path, sha256, attributes | {"input": input})
    if input != AMINO_ACIDS:
        name = "the built-in model" if path == BUILTIN_MODEL else path
        raise ProtT5nvError(f"{name} takes amino acids only; choose ProstT5 with --model, which takes {input}")
    nemo, sha256 = reader.load_with_checksum(path, dtype)
    return nemo, Origin(path, sha256, attributes)


def model_name(path: Path) -> str:
    """Return the name of a model for people: that of its file or folder, or its name on the Hugging Face Hub.

    Parameters
    ----------
    path : Path
        File or folder of the model.
    """
    if path.parent.name == "snapshots":  # a copy from the Hub in the cache of its library
        return valid_text(path.parent.parent.name.removeprefix("models--").replace("--", "/"))
    return valid_text(path.name.removesuffix(".nemo"))


def model_label(name: str, sha256: str) -> str:
    """Return the name and the first digits of the checksum, as tables, pages and messages show a model.

    Parameters
    ----------
    name, sha256 : str
    """
    return f"{name} {sha256[:8]}"


def checksum(model: str | Path) -> str:
    """Return the checksum of a model, as in :class:`Origin`, without loading its weights."""
    path, _ = local_path(model)
    if path.is_dir():
        from prott5nv.checkpoint.t5_folder import read_t5_folder

        return read_t5_folder(path).sha256()
    return reader.read_nemo(path, weights=False).sha256


def read_decoder_config(model: str | Path) -> ModelConfig:
    """Read the configuration of a model that has a span decoder, without its weights.

    Parameters
    ----------
    model : str or Path
        See :func:`load`.

    Returns
    -------
    ModelConfig

    Raises
    ------
    ProtT5nvError
        If the model has no span decoder, or cannot be read.
    """
    if is_hub_name(model) or Path(model).is_dir():
        if Path(model).is_dir():
            refuse_unsuited_folder(Path(model))
        raise no_span_decoder(model)
    return reader.read_nemo(model, weights=False).config


def no_span_decoder(model: str | Path) -> ProtT5nvError:
    """Return the error for a model that is used for scoring or filling, but can only embed."""
    return ProtT5nvError(
        f"{model}: this checkpoint has no span decoder, which scoring and filling need; use a ProtT5nv checkpoint "
        "(.nemo)"
    )


def local_path(model: str | Path) -> tuple[Path, dict[str, str]]:
    """Return the file or folder of a model, which is downloaded if necessary, and what embeddings record about it."""
    if not is_hub_name(model):
        return Path(model), {}
    folder, name = download(str(model))
    return folder, {"model": name}


def model_file(model: str | os.PathLike[str] | None) -> str | Path:
    """Return the path of a checkpoint, or its name on the Hugging Face Hub; None stands for the built-in model.

    Raises
    ------
    ProtT5nvError
        If the built-in model is requested and this installation lacks it, or `model` is not a path.
    """
    if isinstance(model, str):
        return model
    if isinstance(model, os.PathLike):
        return Path(model)
    if model is not None:
        raise ProtT5nvError(f"a model is given as the path of its file, not as a {type(model).__name__}")
    if not BUILTIN_MODEL.is_file():
        raise ProtT5nvError(f"this installation has no built-in model ({BUILTIN_MODEL}): give a .nemo file")
    return BUILTIN_MODEL
