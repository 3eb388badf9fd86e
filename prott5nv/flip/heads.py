"""Small networks on top of an encoder: rows of proteins in, one row of scores per residue or per protein out.

Proteins lie end to end, as in the encoder; no padding is computed.

Shapes: B proteins, T residues of all of them, R rows of output (T or B), D columns of the features, K outputs,
G rows with gaps between proteins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prott5nv.errors import ProtT5nvError
from prott5nv.model.dropout import dropout as drop_some

_SMALLEST_STD = 0.25  # of the average column's: a column that hardly varies, such as a rare letter, is not blown up
_SMALLEST_VARIANCE = 1e-4  # of the average direction's, for the same reason


class Head(nn.Module):
    """Common to all heads: features are brought to one scale, and numbers come out in their own unit.

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
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_std", torch.ones(()))

    def pool(self, rows_TD: Tensor, lengths: Sequence[int]) -> Tensor:
        """The rows that the network sees: those of residues, or the mean of each protein."""
        return rows_TD

    def body(self, rows_RD: Tensor, lengths: Sequence[int]) -> Tensor:
        """Scores of pooled rows whose mean is zero, and that :meth:`scaled` has seen."""
        raise NotImplementedError

    def take_scale(self, rows_RD: Tensor) -> None:
        """Take the scale from pooled training rows, whose mean is known by now: Tensor, shape=(R, D)."""
        raise NotImplementedError

    def scaled(self, rows_RD: Tensor) -> Tensor:
        """Rows as the network wants them; as they are, where it brings them to scale itself."""
        return rows_RD

    def standardise(self, rows_RD: Tensor) -> None:
        """Take mean and scale from pooled training rows: Tensor, shape=(R, D)."""
        self.feature_mean.copy_(rows_RD.mean(0))
        self.take_scale(rows_RD)

    def forward(self, rows_TD: Tensor, lengths: Sequence[int]) -> Tensor:
        """Scores: Tensor, shape=(T, K) or (B, K), dtype=float32."""
        rows_RD = self.scaled(self.pool(rows_TD, lengths) - self.feature_mean)
        return self.body(rows_RD, lengths) * self.target_std + self.target_mean


class _ResidueHead(Head):
    """Sees features whitened: an encoder may write composition a hundred times louder than the residue itself.

    The whitening is multiplied into the first layer's weights, so it costs nothing per residue.
    """

    per_residue = True

    def __init__(self, width: int, num_outputs: int):
        super().__init__(width, num_outputs)
        self.register_buffer("whitening", torch.eye(width))

    def take_scale(self, rows_RD):
        mean_D = self.feature_mean.to(rows_RD.device)
        centred = (rows - mean_D for rows in rows_RD.split(2**16))  # not all at once: they may be gigabytes
        covariance_DD = sum((rows.T @ rows).cpu().double() for rows in centred) / len(rows_RD)
        variances_D, directions_DD = torch.linalg.eigh(covariance_DD)
        smallest = max(_SMALLEST_VARIANCE * float(variances_D.mean()), torch.finfo().tiny)
        self.whitening.copy_(directions_DD * variances_D.clamp(min=smallest).rsqrt())

    def on_features(self, weight_KDW: Tensor) -> Tensor:
        """Weights on whitened features, as weights on the features themselves: Tensor, shape=(K, D, W)."""
        return torch.einsum("de,kew->kdw", self.whitening, weight_KDW)


class _ProteinHead(Head):
    """Sees features whose columns have the same spread."""

    def __init__(self, width: int, num_outputs: int):
        super().__init__(width, num_outputs)
        self.register_buffer("feature_std", torch.ones(width))

    def take_scale(self, rows_RD):
        std_D = rows_RD.std(0, correction=0)
        self.feature_std.copy_(std_D.clamp(min=_SMALLEST_STD * float(std_D.mean())).clamp(min=torch.finfo().tiny))

    def scaled(self, rows_RD):
        return rows_RD / self.feature_std


class _MeanHead(_ProteinHead):
    def pool(self, rows_TD: Tensor, lengths: Sequence[int]) -> Tensor:
        return torch.stack([rows.mean(0) for rows in rows_TD.split(list(lengths))])


class ResidueLinear(_ResidueHead):
    """One linear layer on each residue."""

    def __init__(self, width: int, num_outputs: int):
        super().__init__(width, num_outputs)
        self.linear = nn.Linear(width, num_outputs)

    def body(self, rows_RD, lengths):
        return F.linear(rows_RD, self.on_features(self.linear.weight[..., None])[..., 0], self.linear.bias)


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
        self.first = nn.Conv1d(width, channels, kernel)
        self.second = nn.Conv1d(channels, num_outputs, kernel)
        self.dropout = dropout

    def body(self, rows_RD, lengths):
        x_GD, places_R = _set_apart(rows_RD, lengths, self.first)
        inside_G1 = torch.zeros(len(x_GD), 1, device=rows_RD.device).index_fill(0, places_R, 1.0)
        x_GC = torch.relu(_convolve(x_GD, self.on_features(self.first.weight), self.first.bias))
        if self.training:
            x_GC = drop_some(x_GC, self.dropout)
        return _convolve(x_GC * inside_G1, self.second.weight, self.second.bias)[places_R]


class WindowLinear(_ResidueHead):
    """A linear layer over the residues around each one; with one-hot features, a profile of the neighbourhood."""

    def __init__(self, width: int, num_outputs: int, kernel: int = 15):
        super().__init__(width, num_outputs)
        self.linear = nn.Conv1d(width, num_outputs, kernel)

    def body(self, rows_RD, lengths):
        x_GD, places_R = _set_apart(rows_RD, lengths, self.linear)
        return _convolve(x_GD, self.on_features(self.linear.weight), self.linear.bias)[places_R]


class MLP(_MeanHead):
    """Upstream's head for proteins: one hidden layer on the mean over residues."""

    def __init__(self, width: int, num_outputs: int, hidden_size: int = 256, dropout: float = 0.1):
        super().__init__(width, num_outputs)
        self.layers = nn.Sequential(
            nn.Linear(width, hidden_size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_size, num_outputs)
        )

    def body(self, rows_RD, lengths):
        return self.layers(rows_RD)


class LightAttention(_ProteinHead):
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
        self.values = nn.Conv1d(width, width, kernel)
        self.attention = nn.Conv1d(width, width, kernel)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(
            nn.Linear(2 * width, hidden_size), nn.Dropout(dropout), nn.ReLU(), nn.Linear(hidden_size, num_outputs)
        )

    def body(self, rows_RD, lengths):
        x_GD, places_R = _set_apart(rows_RD, lengths, self.values)
        values_TD = self.dropout(_convolve(x_GD, self.values.weight, self.values.bias)[places_R])
        attention_TD = _convolve(x_GD, self.attention.weight, self.attention.bias)[places_R]
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


def _set_apart(rows_TD: Tensor, lengths: Sequence[int], layer: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Proteins with zeros between them, as many as the layer reaches: what each would see if it were padded alone.

    Returns
    -------
    Tensor, shape=(G, D)
    Tensor, shape=(T,), dtype=int64
        Where each row went.
    """
    protein_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    places_T = (torch.arange(len(protein_T)) + layer.kernel_size[0] // 2 * protein_T).to(rows_TD.device)
    return rows_TD.new_zeros(int(places_T[-1]) + 1, rows_TD.shape[1]).index_copy_(0, places_T, rows_TD), places_T


def _convolve(x_GD: Tensor, weight_KDW: Tensor, bias_K: Tensor) -> Tensor:
    """Convolution along the rows: Tensor, shape=(G, K).

    As one line of an image whose channels lie together, which is how the rows lie already. Conv1d, for which they must
    be copied apart and back, takes half as long again.
    """
    image = x_GD.T[None, :, None]
    weight_KD1W = weight_KDW[:, :, None].contiguous(memory_format=torch.channels_last)
    return F.conv2d(image, weight_KD1W, bias_K, padding=(0, weight_KDW.shape[2] // 2))[0, :, 0].T
