"""Reader of predictor files of format 1: HDF5, with the metadata in an attribute.

``prott5nv finetune`` wrote them as ``model.h5`` before :mod:`prott5nv.flip.predictor_file` replaced them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from prott5nv.errors import ProtT5nvError
from prott5nv.flip.predictor_file import (
    PredictorParts,
    check_architecture,
    parse_metadata,
    predictor_shapes,
    read_tensors,
)
from prott5nv.io.hdf5 import Dataset, HDF5File

_FORMAT = 1
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MAX_DATASETS = 1 << 16


def is_hdf5(path: Path) -> bool:
    """Return whether a file begins like an HDF5 file."""
    with open(path, "rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


def read_hdf5_predictor(path: Path) -> PredictorParts:
    """Read and check a predictor file of format 1.

    Parameters
    ----------
    path : Path

    Returns
    -------
    PredictorParts

    Raises
    ------
    ProtT5nvError
        If anything in the file differs from what ``prott5nv finetune`` wrote. The caller adds the
        name of the file to the message.
    """
    with HDF5File(path) as file:
        values = parse_metadata(_attribute(file), {"format", "meaning", "config"})
        if values["format"] != _FORMAT:
            raise ProtT5nvError(f"its format is {str(values['format'])[:20]}; HDF5 files have format {_FORMAT}")
        if not isinstance(values["meaning"], dict):
            raise ProtT5nvError("meaning: expected a JSON object")
        output = dict(values["meaning"])
        config, head, output_spec = check_architecture(values["config"], output.pop("head", None), output)
        datasets = _datasets(file)
        stored = {name: (str(dataset.dtype), dataset.shape) for name, dataset in datasets.items()}

        def read(name: str) -> Tensor:
            return torch.from_numpy(file.read(name.replace(".", "/", 1), datasets[name]))

        encoder, head_state = read_tensors(stored, predictor_shapes(config, head, output_spec), read)
    return PredictorParts(config, head, output_spec, None, encoder, head_state)


def _attribute(file: HDF5File) -> str:
    if file.attributes.keys() != {"prott5nv"}:
        raise ProtT5nvError("it must have the single attribute 'prott5nv'")
    text = file.attributes["prott5nv"]
    if not isinstance(text, str):
        raise ProtT5nvError("its attribute 'prott5nv' must be text")
    return text


def _datasets(file: HDF5File) -> dict[str, Dataset]:
    """Return the datasets by ``encoder.`` or ``head.`` and their names; each must be uncompressed."""
    if set(file.names()) != {"encoder", "head"}:
        raise ProtT5nvError("it must have exactly the groups 'encoder' and 'head'")
    datasets = {}
    for part in ("encoder", "head"):
        names = file.names(part)
        if len(names) > _MAX_DATASETS:
            raise ProtT5nvError(f"{part!r} must be a group with at most {_MAX_DATASETS:,} datasets")
        for name, dataset in zip(names, file.describe(*[f"{part}/{name}" for name in names]), strict=True):
            if dataset is None or dataset.offset is None:
                raise ProtT5nvError(f"'{part}/{name[:200]}' must be a dataset that lies uncompressed in this file")
            datasets[f"{part}.{name}"] = dataset
    return datasets
