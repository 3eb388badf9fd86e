"""The loss of each target token, the metrics that are made of it, and the checks of the loss of a step.

Shapes: S packed decoder tokens, V vocabulary rows of this tensor-parallel rank.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor

from prott5nv.data.micro_batch import IGNORED, MicroBatch

#: Quantities that are summed over micro-batches, over ranks and, in validation, over batches.
SUMS = ("loss", "targets", "residue_loss", "residues", "residue_hits", "encoder_tokens")


def token_losses(logits_SV: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy of each target token, and the sums from which metrics are computed.

    Parameters
    ----------
    logits_SV : Tensor, shape=(S, V)
        This rank's shard of the vocabulary.
    batch : MicroBatch

    Returns
    -------
    loss_S : Tensor, shape=(S,), dtype=float32
        In nats; 0 for filler.
    sums : Tensor, shape=(6,), dtype=float32
        One value for each of `SUMS`, without gradients.
    """
    logits_SV, labels_S, is_residue_S = logits_SV.float(), batch["dec_labels"], batch["residue_mask"]
    loss_S = _cross_entropy(logits_SV, labels_S)
    with torch.no_grad():
        hits_S = gather_vocabulary(logits_SV).argmax(-1) == labels_S
        encoder_tokens, targets = batch["lengths"].sum(axis=0).tolist()
        values = (
            loss_S.sum(),
            loss_S.new_full((), targets),
            loss_S.where(is_residue_S, 0).sum(),
            is_residue_S.sum(),
            (hits_S & is_residue_S).sum(),
            loss_S.new_full((), encoder_tokens),
        )
        return loss_S, torch.stack([value.float() for value in values])


def _cross_entropy(logits_SV: Tensor, labels_S: Tensor) -> Tensor:
    if parallel_state.get_tensor_model_parallel_world_size() == 1:
        return F.cross_entropy(logits_SV, labels_S, ignore_index=IGNORED, reduction="none")
    loss_S: Tensor = vocab_parallel_cross_entropy(logits_SV.clone(), labels_S)  # it overwrites its argument
    return loss_S.where(labels_S != IGNORED, 0)


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


def metrics_from_sums(sums: Tensor, prefix: str) -> dict[str, Tensor]:
    """Compute the metrics of a step or a split, on the device of the sums.

    Parameters
    ----------
    sums : Tensor, shape=(6,)
        One value for each of `SUMS`.
    prefix : str
        Prefix of the names of the metrics: ``train``, ``val`` or ``test``.

    Returns
    -------
    dict of Tensor, shape=(), dtype=float64
        The mean loss over all target tokens; loss, perplexity and accuracy over the masked residues.
    """
    total = dict(zip(SUMS, in_float64(sums).unbind(), strict=True))
    targets, residues = total["targets"].clamp(min=1), total["residues"].clamp(min=1)
    residue_loss = total["residue_loss"] / residues
    return {
        f"{prefix}_loss": total["loss"] / targets,
        f"{prefix}_residue_loss": residue_loss,
        f"{prefix}_residue_perplexity": residue_loss.clamp(max=80.0).exp(),
        f"{prefix}_residue_accuracy": total["residue_hits"] / residues,
    }


def in_float64(values: Tensor) -> Tensor:
    """Convert to float64, on the CPU if the device lacks this data type, as Apple's GPUs do."""
    return values.cpu().double() if values.device.type == "mps" else values.double()


class Verdict(NamedTuple):
    """What was decided about an optimizer step.

    Attributes
    ----------
    step : int
    failed : bool
        Whether its loss, or that of an earlier step, is not finite.
    spike : bool
        Whether its loss is a spike.
    loss : float
    """

    step: int
    failed: bool
    spike: bool
    loss: float


class StepChecks:
    """Decides which optimizer steps are not applied: loss spikes, and all steps from a loss on that is not finite.

    The decisions are made on the device of the loss, so the host does not have to wait for it. The host reads them
    later.

    A loss is a spike if it is far above those of the last 128 steps. This is the rule with which OLMo skips steps. A
    spike also enters the window, so that a permanent shift stops being detected. The first 64 losses are never spikes.

    Parameters
    ----------
    deviations : float
        Number of standard deviations above the mean from which a loss is a spike. Infinity detects none.

    Attributes
    ----------
    recent : Tensor, shape=(N,), dtype=float64
        The last losses, at most 128. They are all that resuming needs.

    Examples
    --------
    >>> checks = StepChecks(deviations=6.0)
    >>> losses = [2.9 + 0.01 * (step % 3) for step in range(64)]
    >>> [bool(checks.add(step, torch.tensor(loss))) for step, loss in enumerate([*losses, 3.0, 2.9])][62:]
    [False, False, True, False]
    >>> [verdict.step for verdict in checks.read() if verdict.spike]
    [64]
    """

    WINDOW = 128

    def __init__(self, deviations: float):
        self.deviations = deviations
        self.recent = torch.empty(0, dtype=torch.float64)
        self._unread: list[tuple[int, Tensor]] = []
        self._failed: Tensor | None = None

    def add(self, step: int, loss: Tensor) -> Tensor:
        """Decide about a step. All ranks call this together.

        Parameters
        ----------
        step : int
        loss : Tensor, shape=()

        Returns
        -------
        Tensor, shape=(), dtype=bool
            Whether the step must not be applied.
        """
        loss = in_float64(loss.detach())
        recent = self.recent.to(loss.device)
        failed = loss.isfinite().logical_not()
        if self._failed is not None:
            failed = failed | self._failed
        spike = torch.zeros_like(failed)
        if len(recent) >= self.WINDOW // 2:
            spike = loss > recent.mean() + self.deviations * recent.std()
        verdict = torch.stack([failed.double(), spike.double(), loss])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast(verdict, src=0)  # the last bit of the loss may differ on the other ranks
        self.recent = torch.cat([recent, verdict[2:]])[-self.WINDOW :]
        self._failed = verdict[0] > 0
        self._unread.append((step, verdict))
        return verdict[:2].any()

    def read(self) -> list[Verdict]:
        """Return the decisions since the last call, up to the first step whose loss is not finite."""
        if not self._unread:
            return []
        steps = [step for step, _ in self._unread]
        rows = torch.stack([verdict for _, verdict in self._unread]).tolist()
        self._unread = []
        verdicts = [
            Verdict(step, bool(failed), bool(spike), loss)
            for step, (failed, spike, loss) in zip(steps, rows, strict=True)
        ]
        num_failed = sum(verdict.failed for verdict in verdicts)
        self.recent = self.recent[: max(0, len(self.recent) - num_failed)]
        return verdicts[: len(verdicts) - num_failed + 1]
