"""Heads: small networks that turn the rows of an encoder into one row of scores per residue or per protein.

The rows of all proteins of a batch are concatenated, as in the encoder, so no padding is computed.

Shapes: B proteins, T residues of all of them, R rows of output (T or B), D columns of the features, K outputs,
C channels, W residues of a convolution's kernel, G rows with gaps between the proteins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prott5nv.errors import ProtT5nvError
from prott5nv.flip.config import REGISTERED_HEADS
from prott5nv.flip.head_base import Head, MeanHead, ProteinHead, ResidueHead
from prott5nv.model.dropout import dropout as cheap_dropout

AnyHead = TypeVar("AnyHead", bound="Head")


class ResidueLinear(ResidueHead):
    """One linear layer on each residue."""

    def __init__(self, width: int, num_outputs: int):
        super().__init__(width, num_outputs)
        self.linear = nn.Linear(width, num_outputs)

    def body(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        return F.linear(rows, self.unwhitened(self.linear.weight[..., None])[..., 0], self.linear.bias)


class ProteinLinear(MeanHead):
    """One linear layer on the mean over the residues."""

    def __init__(self, width: int, num_outputs: int):
        super().__init__(width, num_outputs)
        self.linear = nn.Linear(width, num_outputs)

    def body(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        return cast(Tensor, self.linear(rows))


class ConvNet(ResidueHead):
    """Two convolutions along the protein: BioNeMo v1's head for residues.

    Parameters
    ----------
    width, num_outputs : int
        As for :class:`~prott5nv.flip.head_base.Head`.
    channels : int
        Channels between the two convolutions.
    kernel : int
        Residues that each convolution sees.
    dropout : float
        Dropout probability of the channels.

    Examples
    --------
    >>> ConvNet(64, 3, channels=32, kernel=7, dropout=0.25)(torch.randn(7, 64), [5, 2]).shape
    torch.Size([7, 3])
    """

    def __init__(self, width: int, num_outputs: int, channels: int, kernel: int, dropout: float):
        super().__init__(width, num_outputs)
        self.first = nn.Conv1d(width, channels, kernel)
        self.second = nn.Conv1d(channels, num_outputs, kernel)
        self.dropout = dropout

    def body(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        x_GD, positions_T = _separate(rows, lengths, self.first)
        is_residue_G1 = torch.zeros(len(x_GD), 1, device=rows.device).index_fill(0, positions_T, 1.0)
        x_GC = torch.relu(_convolve(x_GD, self.unwhitened(self.first.weight), self.first.bias))
        if self.training:
            x_GC = cheap_dropout(x_GC, self.dropout)
        return _convolve(x_GC * is_residue_G1, self.second.weight, self.second.bias)[positions_T]


class WindowLinear(ResidueHead):
    """One linear layer on the window of residues around each residue.

    Parameters
    ----------
    width, num_outputs : int
        As for :class:`~prott5nv.flip.head_base.Head`.
    kernel : int
        Residues of the window.
    """

    def __init__(self, width: int, num_outputs: int, kernel: int):
        super().__init__(width, num_outputs)
        self.linear = nn.Conv1d(width, num_outputs, kernel)

    def body(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        x_GD, positions_T = _separate(rows, lengths, self.linear)
        return _convolve(x_GD, self.unwhitened(self.linear.weight), self.linear.bias)[positions_T]


class MLP(MeanHead):
    """One hidden layer on the mean over the residues: BioNeMo v1's head for proteins.

    Parameters
    ----------
    width, num_outputs : int
        As for :class:`~prott5nv.flip.head_base.Head`.
    hidden_size : int
        Units of the hidden layer.
    dropout : float
        Dropout probability of the hidden units.
    """

    def __init__(self, width: int, num_outputs: int, hidden_size: int, dropout: float):
        super().__init__(width, num_outputs)
        self.layers = nn.Sequential(
            nn.Linear(width, hidden_size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_size, num_outputs)
        )

    def body(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        return cast(Tensor, self.layers(rows))


class LightAttention(ProteinHead):
    """The head of Stärk et al. (2021), which learns to which residues of a protein it attends.

    One convolution computes attention weights and another one values. The weighted sum and the maximum of the values
    over the residues enter a hidden layer.

    Parameters
    ----------
    width, num_outputs : int
        As for :class:`~prott5nv.flip.head_base.Head`.
    kernel : int
        Residues that each convolution sees.
    hidden_size : int
        Units of the hidden layer after the pooling.
    dropout : float
        Dropout probability of the values and of the hidden units.
    """

    def __init__(self, width: int, num_outputs: int, kernel: int, hidden_size: int, dropout: float):
        super().__init__(width, num_outputs)
        self.values = nn.Conv1d(width, width, kernel)
        self.attention = nn.Conv1d(width, width, kernel)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(
            nn.Linear(2 * width, hidden_size), nn.Dropout(dropout), nn.ReLU(), nn.Linear(hidden_size, num_outputs)
        )

    def body(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        x_GD, positions_T = _separate(rows, lengths, self.values)
        values_TD = self.dropout(_convolve(x_GD, self.values.weight, self.values.bias)[positions_T])
        attention_TD = _convolve(x_GD, self.attention.weight, self.attention.bias)[positions_T]
        pooled = []
        for value_LD, weight_LD in zip(values_TD.split(list(lengths)), attention_TD.split(list(lengths)), strict=True):
            attended_D = (value_LD * weight_LD.softmax(0)).sum(0)
            pooled.append(torch.cat([attended_D, value_LD.amax(0)]))
        return cast(Tensor, self.layers(torch.stack(pooled)))


HEADS: dict[str, dict[str, type[Head]]] = {
    "residue": {"convnet": ConvNet, "linear": ResidueLinear, "window": WindowLinear},
    "protein": {"mlp": MLP, "linear": ProteinLinear, "light_attention": LightAttention},
}


def register_head(name: str, level: str) -> Callable[[type[AnyHead]], type[AnyHead]]:
    """Return a decorator that makes a class available as ``task.head.name=NAME``.

    Parameters
    ----------
    name : str
        Name of the head in settings and in files of predictors.
    level : {"residue", "protein"}
        Whether the head has an output for each residue or for each protein.

    Returns
    -------
    callable
        Takes and returns a class that derives from ``ResidueHead``, ``MeanHead`` or ``ProteinHead``.
        Its constructor takes ``width``, ``num_outputs`` and, as further arguments, the settings in
        ``task.head.custom``.

    Raises
    ------
    ProtT5nvError
        If the level is unknown, the name belongs to another head, or the class does not fit the level.

    Examples
    --------
    >>> @register_head("bias_only", level="protein")
    ... class BiasOnly(MeanHead):
    ...     def __init__(self, width, num_outputs):
    ...         super().__init__(width, num_outputs)
    ...         self.bias = nn.Parameter(torch.zeros(num_outputs))
    ...     def body(self, rows, lengths):
    ...         return self.bias.expand(len(rows), -1)
    >>> make_head("protein", 64, 3, "bias_only")(torch.randn(7, 64), [5, 2]).shape
    torch.Size([2, 3])
    """
    if level not in HEADS:
        raise ProtT5nvError(f"level={level!r}: choose residue or protein")

    def register(head: type[AnyHead]) -> type[AnyHead]:
        base = ResidueHead if level == "residue" else ProteinHead
        if not issubclass(head, base):
            raise ProtT5nvError(f"{head.__name__}: a head for a {level} must derive from {base.__name__}")
        known = {known: cls for heads in HEADS.values() for known, cls in heads.items()}.get(name)
        if known is not None and known.__qualname__ != head.__qualname__:
            raise ProtT5nvError(f"a head called {name!r} exists already; choose another name")
        HEADS[level][name] = head
        REGISTERED_HEADS.add(name)
        return head

    return register


def make_head(level: str, width: int, num_outputs: int, name: str, **settings: Any) -> Head:
    """Create a head.

    Parameters
    ----------
    level : str
        ``residue`` or ``protein``.
    width, num_outputs : int
        As for :class:`~prott5nv.flip.head_base.Head`.
    name : str
        A key of ``HEADS[level]``.
    **settings
        Further arguments of the head's class.

    Returns
    -------
    Head
        Initialized with PyTorch's global random generator.

    Raises
    ------
    ProtT5nvError
        If the level has no head of that name, or the head has other settings.
    """
    if name not in HEADS[level]:
        raise ProtT5nvError(f"task.head.name={name}: heads for a {level} are {', '.join(HEADS[level])}")
    try:
        return HEADS[level][name](width, num_outputs, **settings)
    except TypeError as error:
        raise ProtT5nvError(f"task.head.name={name}: {error}") from None


def _separate(rows_TD: Tensor, lengths: Sequence[int], layer: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Put as many zeros between the proteins as the layer reaches, so that each sees what it would see alone.

    Returns
    -------
    Tensor, shape=(G, D)
        The rows with zeros between the proteins.
    Tensor, shape=(T,), dtype=int64
        Position of each row in it.
    """
    protein_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    positions_T = (torch.arange(len(protein_T)) + layer.kernel_size[0] // 2 * protein_T).to(rows_TD.device)
    x_GD = rows_TD.new_zeros(int(positions_T[-1]) + 1, rows_TD.shape[1]).index_copy_(0, positions_T, rows_TD)
    return x_GD, positions_T


def _convolve(x_GD: Tensor, weight_KDW: Tensor, bias_K: Tensor | None) -> Tensor:
    """Convolve along the rows: Tensor, shape=(G, K).

    The sum of one matmul per position of the window takes a third of the time of Conv1d on a CPU, and less than that if
    the number of rows is new, because oneDNN compiles each convolution for its number of rows.
    """
    reach = weight_KDW.shape[2] // 2
    padded_ED = F.pad(x_GD, (0, 0, reach, reach))
    result_GK = x_GD.new_zeros(()) if bias_K is None else bias_K
    for position, weight_DK in enumerate(weight_KDW.permute(2, 1, 0)):
        result_GK = torch.addmm(result_GK, padded_ED[position : position + len(x_GD)], weight_DK)
    return result_GK
