"""Starting to train from another model: of text, or of another length."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from prott5nv.checkpoint.parameter_names import parameter_shapes
from prott5nv.checkpoint.reader import read_nemo
from prott5nv.errors import ProtT5nvError

if TYPE_CHECKING:
    import torch

    from prott5nv.model.config import ModelConfig

_SAME = (
    "num_layers",
    "decoder_num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "bias_activation_fusion",
)


def warm_start_weights(path: str | Path, config: ModelConfig) -> dict[str, torch.Tensor]:
    """Weights to start training from, in the shapes of ``config``.

    As ProtT5nv itself started from a T5 of text: the word table, the position table and the head's bias are cut to the
    rows of ``config``, or repeated where they are shorter. Each such change is a warning, and so is another vocabulary.

    Parameters
    ----------
    path : path-like
        A ``.nemo`` file with the layers and widths of ``config``.
    config : ModelConfig
        The model that will be trained.

    Returns
    -------
    dict of str to Tensor, dtype=float32
        By parameter name in ``ProtT5``.

    Raises
    ------
    ProtT5nvError
        If layers or widths differ, or the file is not a sound checkpoint.
    """
    import torch

    file = read_nemo(path, warm_start=True)
    for name in _SAME:
        theirs, ours = getattr(file.config, name), getattr(config, name)
        if theirs != ours:
            raise ProtT5nvError(f"{path}: {name}={theirs}, and this run has {ours}; only tables can change size")
    state = {}
    for name, shape in parameter_shapes(config):
        tensor = file.state_dict.pop(name).to(torch.float32)
        rows, wanted = len(tensor), shape[0]
        if rows != wanted:
            done = "cut" if rows > wanted else "repeated"
            warnings.warn(f"{path}: {name} has {rows} rows, {done} to {wanted}", stacklevel=2)
            tensor = tensor[torch.arange(wanted) % rows]
        state[name] = tensor
    return state
