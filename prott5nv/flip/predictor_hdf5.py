"""Reader of predictor files of format 1: HDF5, with the metadata in an attribute.

``prott5nv finetune`` wrote them as ``model.h5`` before :mod:`prott5nv.flip.predictor_file` replaced them.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
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
    OSError
        If the file cannot be opened or is damaged.
    """
    try:
        with h5py.File(path, "r") as file:
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
                return torch.from_numpy(np.asarray(datasets[name][()]))

            encoder, head_state = read_tensors(stored, predictor_shapes(config, head, output_spec), read)
    except (KeyError, RuntimeError, ValueError) as error:
        if isinstance(error, ProtT5nvError):
            raise
        raise ProtT5nvError(f"a damaged HDF5 file: {' '.join(str(error).split())}") from None
    return PredictorParts(config, head, output_spec, None, encoder, head_state)


def _attribute(file: h5py.File) -> str:
    if file.attrs.keys() != {"prott5nv"}:
        raise ProtT5nvError("it must have the single attribute 'prott5nv'")
    text = file.attrs["prott5nv"]
    if not isinstance(text, str):
        raise ProtT5nvError("its attribute 'prott5nv' must be text")
    return text


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the datasets by ``encoder.`` or ``head.`` and their names; each must be uncompressed and in this file."""
    if set(file) != {"encoder", "head"}:
        raise ProtT5nvError("it must have exactly the groups 'encoder' and 'head'")
    datasets = {}
    for part in ("encoder", "head"):
        group = _member(file, part)
        if not isinstance(group, h5py.Group) or len(group) > _MAX_DATASETS:
            raise ProtT5nvError(f"{part!r} must be a group with at most {_MAX_DATASETS:,} datasets")
        for name in group:
            dataset = _member(group, name)
            if (
                not isinstance(dataset, h5py.Dataset)
                or dataset.is_virtual
                or dataset.external
                or dataset.chunks is not None
                or dataset.id.get_storage_size() != dataset.nbytes
            ):
                raise ProtT5nvError(f"'{part}/{name[:200]}' must be a dataset that lies uncompressed in this file")
            datasets[f"{part}.{name}"] = dataset
    return datasets


def _member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """Return a member of a group; links, which may lead to another file, are not followed."""
    if type(group.get(name, getlink=True)) is not h5py.HardLink:
        raise ProtT5nvError(f"{name[:200]!r} is a link, which is not allowed")
    return group[name]
