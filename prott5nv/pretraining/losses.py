"""The loss of each target token, the metrics that are made of it, and the detection of loss spikes.

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

#: Quantities that are summed over micro-batches, over ranks and, in validation, over batches.
SUMS = ("loss", "targets", "residue_loss", "residues", "residue_hits", "encoder_tokens")


def token_losses(logits_SV: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy of each target token, and the sums from which metrics are computed.

    Parameters
    ----------
    logits_SV : Tensor, shape=(S, V)
        This rank's shard of the vocabulary.
    batch : dict of Tensor
        A micro-batch of :class:`~prott5nv.data.dataset.PretrainingDataset`.

    Returns
    -------
    loss_S : Tensor, shape=(S,), dtype=float32
        In nats.
    sums : Tensor, shape=(6,), dtype=float32
        One value for each of `SUMS`, without gradients.
    """
    logits_SV, labels_S, is_residue_S = logits_SV.float(), batch["dec_labels"], batch["residue_mask"]
    loss_S: Tensor = vocab_parallel_cross_entropy(logits_SV.clone(), labels_S)  # it overwrites its argument
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
    """Return the logits of the whole vocabulary, from the shards of all tensor-parallel ranks.

    Parameters
    ----------
    logits_SV : Tensor, shape=(S, V)

    Returns
    -------
    Tensor, shape=(S, V * number of tensor-parallel ranks)
    """
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1:
        return logits_SV
    shards = [torch.empty_like(logits_SV) for _ in range(group.size())]
    dist.all_gather(shards, logits_SV.contiguous(), group=group)
    return torch.cat(shards, dim=-1)


def metrics_from_sums(sums: Tensor, prefix: str) -> dict[str, float]:
    """Compute the metrics of a step or a split.

    Parameters
    ----------
    sums : Tensor, shape=(6,)
        One value for each of `SUMS`.
    prefix : str
        Prefix of the names of the metrics: ``train``, ``val`` or ``test``.

    Returns
    -------
    dict of float
        The mean loss over all target tokens; loss, perplexity and accuracy over the masked residues.
    """
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
    """Detects losses far above those of the last 128 steps, by the rule with which OLMo skips steps.

    A loss that is a spike also enters the window, so that a permanent shift stops being detected.

    Parameters
    ----------
    deviations : float
        Number of standard deviations above the mean from which a loss is a spike.

    Attributes
    ----------
    recent : deque of float
        The last 128 losses. This is the whole state.

    Examples
    --------
    >>> spikes = LossSpikes(deviations=6.0)
    >>> any(spikes.add(2.9 + 0.01 * (step % 3)) for step in range(64)), spikes.add(3.0), spikes.add(2.9)
    (False, True, False)
    """

    WINDOW = 128

    def __init__(self, deviations: float):
        self.deviations = deviations
        self.recent: deque[float] = deque(maxlen=self.WINDOW)

    def add(self, loss: float) -> bool:
        """Add the loss of a step, and return whether it is a spike; the first 64 losses never are.

        Parameters
        ----------
        loss : float

        Returns
        -------
        bool
        """
        enough = len(self.recent) >= self.WINDOW // 2
        is_spike = enough and loss > fmean(self.recent) + self.deviations * stdev(self.recent)
        self.recent.append(loss)
        return is_spike
