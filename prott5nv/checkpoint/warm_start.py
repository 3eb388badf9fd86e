"""Warm start: weights of a text model, or of a model for another length, to initialize training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prott5nv.checkpoint.parameter_names import parameter_shapes
from prott5nv.checkpoint.reader import read_nemo
from prott5nv.errors import ProtT5nvError, warn

if TYPE_CHECKING:
    import torch

    from prott5nv.model.config import ModelConfig

_EQUAL_FIELDS = (
    "num_layers",
    "decoder_num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "bias_activation_fusion",
)


def warm_start_weights(path: str | Path, config: ModelConfig) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint and adapt their shapes to another configuration.

    ProtT5nv itself was initialized from a T5 model of text in this way. The word table, the position table and the
    head's bias are truncated to the number of rows in `config`, or their rows are repeated if there are too few. Each
    such change causes a warning, and so does another vocabulary.

    Parameters
    ----------
    path : str or Path
        A ``.nemo`` file whose numbers and sizes of layers equal those of `config`.
    config : ModelConfig
        Architecture of the model to train.

    Returns
    -------
    dict of str to Tensor, dtype=float32
        Weights by their names in ``ProtT5``.

    Raises
    ------
    ProtT5nvError
        If numbers or sizes of layers differ, or the file is not a valid checkpoint.
    """
    import torch

    file = read_nemo(path, warm_start=True)
    for name in _EQUAL_FIELDS:
        theirs, ours = getattr(file.config, name), getattr(config, name)
        if theirs != ours:
            raise ProtT5nvError(f"{path}: {name}={theirs}, but this run has {ours}; only tables can change their size")
    state = {}
    for name, shape in parameter_shapes(config):
        tensor = file.state_dict.pop(name).to(torch.float32)
        rows, expected_rows = len(tensor), shape[0]
        if rows != expected_rows:
            change = "truncated" if rows > expected_rows else "repeated"
            warn(f"{path}: {name} has {rows} rows, {change} to {expected_rows}")
            tensor = tensor[torch.arange(expected_rows) % rows]
        state[name] = tensor
    return state
