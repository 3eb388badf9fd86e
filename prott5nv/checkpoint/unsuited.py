"""Error messages for models that cannot be opened directly: they name the file or the command to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prott5nv.checkpoint.huggingface_names import BLENDERBOT, XLM_ROBERTA_XL
from prott5nv.checkpoint.safetensors_folder import CONFIG_FILE, read_json
from prott5nv.errors import ProtT5nvError

_ZIP = b"PK\x03\x04"  # torch.save writes zip archives
_FINE_TUNING = "result.json"  # prott5nv finetune writes it beside a predictor
_EMBEDDINGS = (".h5", ".hdf5", ".npz", ".parquet")


def unsuited_file(path: Path) -> ProtT5nvError:
    """Return the error for a file that is not a tar archive, as ``.nemo`` files are.

    Parameters
    ----------
    path : Path
        The file.
    """
    if path.suffix in _EMBEDDINGS:
        return ProtT5nvError(
            f"{path}: expected a .nemo checkpoint; files of this name hold embeddings, and prott5nv.EmbeddingStore "
            "reads them"
        )
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
    if is_zip or path.suffix == ".ckpt":
        beside = path.with_suffix(".nemo")
        remedy = (
            f"give {beside}"
            if beside.is_file()
            else "give the .nemo file that pretraining writes at its end (the same command again continues the run)"
        )
        return ProtT5nvError(f"{path}: not a tar file, but a training checkpoint; {remedy}")
    if path.suffix == ".safetensors":
        if (path.parent / CONFIG_FILE).is_file():
            return ProtT5nvError(f"{path}: not a tar file, but weights alone; give the folder {path.parent}")
        return ProtT5nvError(
            f"{path}: not a tar file, but weights alone; predictors are used with 'prott5nv predict {path}'"
        )
    return ProtT5nvError(f"{path}: not a tar file; expected a .nemo checkpoint")


def instead_of_folder(folder: Path) -> str:
    """Return what to give instead of a folder without a model, or which command uses it; empty if that is not known."""
    if checkpoints := sorted(folder.glob("*.nemo")) or sorted(folder.glob("*/*.nemo")):
        return f"give {checkpoints[0]}"
    if (folder / _FINE_TUNING).is_file():
        return f"it holds a predictor; use it with 'prott5nv predict {folder}'"
    return ""


def refuse_unsuited_folder(folder: Path) -> None:
    """Raise an error if a folder has no model, or a model that was exported from a ``.nemo`` file.

    Parameters
    ----------
    folder : Path
        The folder.

    Raises
    ------
    ProtT5nvError
        Names the file or the command to use instead.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        remedy = instead_of_folder(folder) or f"{CONFIG_FILE} is missing"
        raise ProtT5nvError(f"{folder}: not the folder of a Hugging Face model; {remedy}")
    values: Mapping[str, Any] = read_json(path)
    model_type = values.get("model_type")
    if model_type == BLENDERBOT and isinstance(values.get("prott5nv"), dict):
        raise ProtT5nvError(
            f"{folder}: a ProtT5nv model that was exported for other programs; convert it back with 'prott5nv convert "
            f"{folder} --to nemo {folder.name}.nemo', and give that file"
        )
    if model_type == XLM_ROBERTA_XL:
        raise ProtT5nvError(
            f"{folder}: an encoder for other programs, such as 'prott5nv convert --to hf-encoder' writes; give the "
            ".nemo file from which it was made"
        )
