"""Base classes of heads: they normalize the features of an encoder and scale the output to the targets.

Shapes: B proteins, T residues of all of them, D columns of the features, K outputs, W residues of
a convolution's kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Lower limits relative to the average column or direction, so that one that barely varies (such as a rare letter) is
# not amplified.
_MIN_RELATIVE_STD = 0.25
_MIN_RELATIVE_TO_VALUE = 1e-6
_MIN_RELATIVE_VARIANCE = 1e-4


class Head(nn.Module):
    """Base class of all heads: it normalizes the features, and returns numbers in the unit of the targets.

    A subclass derives from ``ResidueHead`` or ``ProteinHead``, which implement :meth:`set_scale`, and implements
    :meth:`body`.

    Parameters
    ----------
    width : int
        Columns of the features (D).
    num_outputs : int
        Number of classes, or 1 for a number (K).

    Attributes
    ----------
    per_residue : bool
        Whether the output has one row per residue; otherwise it has one per protein.
    """

    per_residue = False
    feature_mean: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, width: int, num_outputs: int):
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(width))
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_std", torch.ones(()))

    def pool(self, rows_TD: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the rows that the network sees: unchanged, or the mean of each protein.

        Parameters
        ----------
        rows_TD : Tensor, shape=(T, D), dtype=float32
        lengths : sequence of int
            Number of rows of each protein.

        Returns
        -------
        Tensor, shape=(T, D) or (B, D), dtype=float32
        """
        return rows_TD

    def body(self, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the scores of pooled, centered and rescaled rows.

        Parameters
        ----------
        rows : Tensor, shape=(T, D) or (B, D), dtype=float32
        lengths : sequence of int
            Number of residues of each protein.

        Returns
        -------
        Tensor, shape=(R, K), dtype=float32
        """
        raise NotImplementedError

    def set_scale(self, rows: Tensor) -> None:
        """Set the scale of the features from pooled training rows, after ``feature_mean`` has been set."""
        raise NotImplementedError

    def rescale(self, rows: Tensor) -> Tensor:
        """Return centered rows at the scale that the layers of the head expect."""
        return rows

    def standardize(self, rows: Tensor) -> None:
        """Set mean and scale of the features.

        Parameters
        ----------
        rows : Tensor, shape=(T, D) or (B, D), dtype=float32
            Pooled rows of training proteins.
        """
        self.feature_mean.copy_(rows.mean(0))
        self.set_scale(rows)

    def forward(self, rows_TD: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the scores of a batch of proteins.

        Parameters
        ----------
        rows_TD : Tensor, shape=(T, D), dtype=float32
        lengths : sequence of int
            Number of rows of each protein.

        Returns
        -------
        Tensor, shape=(T, K) or (B, K), dtype=float32
        """
        rows = self.rescale(self.pool(rows_TD, lengths) - self.feature_mean)
        return self.body(rows, lengths) * self.target_std + self.target_mean


class ResidueHead(Head):
    """Whitens the features, because an encoder may encode composition much more strongly than the residue itself.

    The whitening matrix is multiplied into the weights of the first layer, so it costs nothing per residue.
    """

    per_residue = True
    whitening: Tensor

    def __init__(self, width: int, num_outputs: int):
        super().__init__(width, num_outputs)
        self.register_buffer("whitening", torch.eye(width))

    def set_scale(self, rows: Tensor) -> None:
        mean_D = self.feature_mean.to(rows.device)
        covariance_DD = torch.zeros(len(mean_D), len(mean_D), dtype=torch.float64)
        for part in rows.split(2**16):  # the centered copy of all rows could take gigabytes
            centered = part - mean_D
            covariance_DD += (centered.T @ centered).cpu().double()
        variances_D, directions_DD = torch.linalg.eigh(covariance_DD / len(rows))
        smallest = max(_MIN_RELATIVE_VARIANCE * float(variances_D.mean()), torch.finfo().tiny)
        self.whitening.copy_(directions_DD * variances_D.clamp(min=smallest).rsqrt())

    def unwhitened(self, weight_KDW: Tensor) -> Tensor:
        """Convert weights for whitened features to weights for the original ones: Tensor, shape=(K, D, W)."""
        return torch.einsum("de,kew->kdw", self.whitening, weight_KDW)


class ProteinHead(Head):
    """Scales the columns of the features to the same spread."""

    feature_std: Tensor

    def __init__(self, width: int, num_outputs: int):
        super().__init__(width, num_outputs)
        self.register_buffer("feature_std", torch.ones(width))

    def set_scale(self, rows: Tensor) -> None:
        std_D = rows.std(0, correction=0)
        # Below the last of these limits, differences between rows are rounding errors.
        smallest = max(
            torch.finfo().tiny,
            _MIN_RELATIVE_STD * float(std_D.mean()),
            _MIN_RELATIVE_TO_VALUE * float(rows.abs().max()),
        )
        self.feature_std.copy_(std_D.clamp(min=smallest))

    def rescale(self, rows: Tensor) -> Tensor:
        return rows / self.feature_std


class MeanHead(ProteinHead):
    """Sees the mean over the residues of each protein."""

    def pool(self, rows_TD: Tensor, lengths: Sequence[int]) -> Tensor:
        return torch.stack([rows.mean(0) for rows in rows_TD.split(list(lengths))])
