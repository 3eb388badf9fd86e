"""Small networks on top of an encoder: rows of proteins in, one row of scores per residue or per protein out.

Proteins lie end to end, as in the encoder; no padding is computed.

Shapes: B proteins, T residues of all of them, R rows of output (T or B), D columns of the features, K outputs,
G rows with gaps between proteins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prott5nv.errors import ProtT5nvError

_SMALLEST_STD = 0.25  # of the average column's: a column that hardly varies, such as a rare letter, is not blown up


class Head(nn.Module):
    """Common to all heads: features are standardised, and numbers come out in their own unit.

    Parameters
    ----------
    width : int
        Columns of the features.
    num_outputs : int
        Classes, or 1 for a number.
    """

    per_residue = False

    def __init__(self, width: int, num_outputs: int):
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(width))
        self.register_buffer("feature_std", torch.ones(width))
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_std", torch.ones(()))

    def pool(self, rows_TD: Tensor, lengths: Sequence[int]) -> Tensor:
        """The rows that are standardised: those of residues, or the mean of each protein."""
        return rows_TD

    def body(self, rows_RD: Tensor, lengths: Sequence[int]) -> Tensor:
        """Scores of standardised rows."""
        raise NotImplementedError

    def standardise(self, rows_RD: Tensor) -> None:
        """Take mean and spread from pooled training rows: Tensor, shape=(R, D)."""
        self.feature_mean.copy_(rows_RD.mean(0))
        std_D = rows_RD.std(0, correction=0)
        self.feature_std.copy_(std_D.clamp(min=_SMALLEST_STD * float(std_D.mean())).clamp(min=torch.finfo().tiny))

    def forward(self, rows_TD: Tensor, lengths: Sequence[int]) -> Tensor:
        """Scores: Tensor, shape=(T, K) or (B, K), dtype=float32."""
        rows_RD = (self.pool(rows_TD, lengths) - self.feature_mean) / self.feature_std
        return self.body(rows_RD, lengths) * self.target_std + self.target_mean


class _ResidueHead(Head):
    per_residue = True


class _MeanHead(Head):
    def pool(self, rows_TD: Tensor, lengths: Sequence[int]) -> Tensor:
        return torch.stack([rows.mean(0) for rows in rows_TD.split(list(lengths))])


class ResidueLinear(_ResidueHead):
    """One linear layer on each residue."""

    def __init__(self, width: int, num_outputs: int):
        super().__init__(width, num_outputs)
        self.linear = nn.Linear(width, num_outputs)

    def body(self, rows_RD, lengths):
        return self.linear(rows_RD)


class ProteinLinear(_MeanHead):
    """One linear layer on the mean over residues."""

    def __init__(self, width: int, num_outputs: int):
        super().__init__(width, num_outputs)
        self.linear = nn.Linear(width, num_outputs)

    def body(self, rows_RD, lengths):
        return self.linear(rows_RD)


class ConvNet(_ResidueHead):
    """Upstream's head for residues: two convolutions over seven residues, 32 channels between them.

    Examples
    --------
    >>> ConvNet(64, 3)(torch.randn(7, 64), [5, 2]).shape
    torch.Size([7, 3])
    """

    def __init__(self, width: int, num_outputs: int, channels: int = 32, kernel: int = 7, dropout: float = 0.25):
        super().__init__(width, num_outputs)
        self.kernel = kernel
        self.first = nn.Conv1d(width, channels, kernel, padding=kernel // 2)
        self.second = nn.Conv1d(channels, num_outputs, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(dropout)

    def body(self, rows_RD, lengths):
        # Zeros between neighbours, as many as a kernel reaches: what each protein would see if it were padded alone.
        places_R = _places_with_gaps(lengths, self.kernel // 2).to(rows_RD.device)
        size = int(places_R[-1]) + 1
        inside_G = torch.zeros(size, device=rows_RD.device).index_fill(0, places_R, 1.0)
        x_DG = rows_RD.new_zeros(size, rows_RD.shape[1]).index_copy(0, places_R, rows_RD).T
        x_CG = self.dropout(torch.relu(self.first(x_DG[None]))) * inside_G
        return self.second(x_CG)[0].T[places_R]


class WindowLinear(_ResidueHead):
    """A linear layer over the residues around each one; with one-hot features, a profile of the neighbourhood."""

    def __init__(self, width: int, num_outputs: int, kernel: int = 15):
        super().__init__(width, num_outputs)
        self.kernel = kernel
        self.linear = nn.Conv1d(width, num_outputs, kernel, padding=kernel // 2)

    def body(self, rows_RD, lengths):
        places_R = _places_with_gaps(lengths, self.kernel // 2).to(rows_RD.device)
        size = int(places_R[-1]) + 1
        x_DG = rows_RD.new_zeros(size, rows_RD.shape[1]).index_copy(0, places_R, rows_RD).T
        return self.linear(x_DG[None])[0].T[places_R]


class MLP(_MeanHead):
    """Upstream's head for proteins: one hidden layer on the mean over residues."""

    def __init__(self, width: int, num_outputs: int, hidden_size: int = 256, dropout: float = 0.1):
        super().__init__(width, num_outputs)
        self.layers = nn.Sequential(
            nn.Linear(width, hidden_size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_size, num_outputs)
        )

    def body(self, rows_RD, lengths):
        return self.layers(rows_RD)


class LightAttention(Head):
    """Stärk et al. (2021): a convolution decides where to look, another what to take; their sum and the maximum.

    Parameters
    ----------
    kernel : int
        Residues that each convolution sees.
    hidden_size : int
        Of the layer behind the pooling.
    """

    def __init__(self, width: int, num_outputs: int, kernel: int = 9, hidden_size: int = 32, dropout: float = 0.25):
        super().__init__(width, num_outputs)
        self.kernel = kernel
        self.values = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.attention = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(
            nn.Linear(2 * width, hidden_size), nn.Dropout(dropout), nn.ReLU(), nn.Linear(hidden_size, num_outputs)
        )

    def body(self, rows_RD, lengths):
        places_R = _places_with_gaps(lengths, self.kernel // 2).to(rows_RD.device)
        size = int(places_R[-1]) + 1
        x_DG = rows_RD.new_zeros(size, rows_RD.shape[1]).index_copy(0, places_R, rows_RD).T
        values_TD = self.dropout(self.values(x_DG[None])[0].T[places_R])
        attention_TD = self.attention(x_DG[None])[0].T[places_R]
        pooled = []
        for value_LD, weight_LD in zip(values_TD.split(list(lengths)), attention_TD.split(list(lengths)), strict=True):
            attended_D = (value_LD * weight_LD.softmax(0)).sum(0)
            pooled.append(torch.cat([attended_D, value_LD.amax(0)]))
        return self.layers(torch.stack(pooled))


HEADS = {
    "residue": {"convnet": ConvNet, "linear": ResidueLinear, "window": WindowLinear},
    "protein": {"mlp": MLP, "linear": ProteinLinear, "light_attention": LightAttention},
}
POOLED = (MLP, ProteinLinear)  # they see only the mean row, so only that need be kept


def make_head(level: str, width: int, num_outputs: int, name: str, **settings) -> Head:
    """A head by its name in `HEADS`.

    Raises
    ------
    ProtT5nvError
        If there is none of that name for the level, or it has no such setting.
    """
    if name not in HEADS[level]:
        raise ProtT5nvError(f"head.name={name}: heads for a {level} are {', '.join(HEADS[level])}")
    try:
        return HEADS[level][name](width, num_outputs, **settings)
    except TypeError as error:
        raise ProtT5nvError(f"head.name={name}: {error}") from None


def _places_with_gaps(lengths: Sequence[int], gap: int) -> Tensor:
    """Where each row goes when proteins are set apart: Tensor, shape=(T,), dtype=int64."""
    protein_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return torch.arange(len(protein_T)) + gap * protein_T
