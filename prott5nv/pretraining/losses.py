"""The loss of each target token, and what is reported of many.

Shapes: S packed decoder tokens, V vocabulary rows of this tensor-parallel rank.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean, stdev

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor

#: What is added up over micro-batches, ranks and, in validation, batches.
SUMS = ("loss", "targets", "residue_loss", "residues", "residue_hits", "encoder_tokens")


def token_losses(logits_SV: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each target token, and the sums that metrics are made of.

    Parameters
    ----------
    logits_SV : Tensor, shape=(S, V)
        This rank's slice of the vocabulary.
    batch : dict of Tensor
        As :mod:`prott5nv.data.dataset` makes it.

    Returns
    -------
    Tensor, shape=(S,), dtype=float32
        In nats.
    Tensor, shape=(6,), dtype=float32
        One value for each of `SUMS`, without gradients.
    """
    logits_SV, labels_S, is_residue_S = logits_SV.float(), batch["dec_labels"], batch["residue_mask"]
    loss_S = vocab_parallel_cross_entropy(logits_SV.clone(), labels_S)  # it overwrites its argument
    with torch.no_grad():
        hits_S = gather_vocabulary(logits_SV).argmax(-1) == labels_S
        values = (
            loss_S.sum(),
            loss_S.new_tensor(len(labels_S)),
            loss_S[is_residue_S].sum(),
            is_residue_S.sum(),
            (hits_S & is_residue_S).sum(),
            loss_S.new_tensor(len(batch["enc_tokens"])),
        )
        return loss_S, torch.stack([value.float() for value in values])


def gather_vocabulary(logits_SV: Tensor) -> Tensor:
    """Scores of the whole vocabulary, from the slices of all tensor-parallel ranks."""
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1:
        return logits_SV
    parts = [torch.empty_like(logits_SV) for _ in range(group.size())]
    dist.all_gather(parts, logits_SV.contiguous(), group=group)
    return torch.cat(parts, dim=-1)


def metrics_of(sums: Tensor, prefix: str) -> dict[str, float]:
    """Loss over all targets; loss, perplexity and accuracy over residues alone; by name with a prefix."""
    total = dict(zip(SUMS, sums.double().tolist(), strict=True))
    targets, residues = max(total["targets"], 1), max(total["residues"], 1)
    residue_loss = total["residue_loss"] / residues
    return {
        f"{prefix}_loss": total["loss"] / targets,
        f"{prefix}_residue_loss": residue_loss,
        f"{prefix}_residue_perplexity": math.exp(min(residue_loss, 80.0)),
        f"{prefix}_residue_accuracy": total["residue_hits"] / residues,
    }


class LossSpikes:
    """Finds losses that stand out from those of the last 128 steps; the rule is that of OLMo's skipped steps.

    A loss that stood out counts from then on like any other, so that a lasting change is not taken for spikes for ever.

    Parameters
    ----------
    deviations : float
        By how many standard deviations above the mean.

    Attributes
    ----------
    recent : deque of float
        The last 128 losses: all the state there is.

    Examples
    --------
    >>> spikes = LossSpikes(deviations=6.0)
    >>> any(spikes.found(2.9 + 0.01 * (step % 3)) for step in range(64)), spikes.found(3.0), spikes.found(2.9)
    (False, True, False)
    """

    WINDOW = 128

    def __init__(self, deviations: float):
        self.deviations = deviations
        self.recent: deque[float] = deque(maxlen=self.WINDOW)

    def found(self, loss: float) -> bool:
        """Whether a step's loss stands out; never in the first 64 steps."""
        known = len(self.recent) >= self.WINDOW // 2
        stands_out = known and loss > fmean(self.recent) + self.deviations * stdev(self.recent)
        self.recent.append(loss)
        return stands_out
