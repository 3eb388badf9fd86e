"""The optimizers that pretraining can step with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from prott5nv.errors import ProtT5nvError

NAMES = ("fused_adam", "muon", "apex_fused_adam")


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices of the layers, AdamW for embeddings, biases and LayerNorms, as one optimizer.

    Muon orthogonalises the momentum of a matrix before stepping along it. Its steps are scaled to the size of AdamW's,
    so that one learning rate serves both.

    Parameters
    ----------
    muon : torch.optim.Muon
    adamw : torch.optim.AdamW

    References
    ----------
    Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks; Liu et al. (2025), Muon is scalable
    for LLM training.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW):
        self._parts = [(muon, len(muon.param_groups)), (adamw, len(adamw.param_groups))]
        super().__init__([*muon.param_groups, *adamw.param_groups], {})

    def step(self, closure=None):
        """Step with both."""
        loss = None if closure is None else closure()
        first = 0
        for optimizer, groups in self._parts:
            # Loading a checkpoint replaces groups and state, so they are handed over anew at each step.
            optimizer.param_groups, optimizer.state = self.param_groups[first : first + groups], self.state
            optimizer.step()
            first += groups
        return loss


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], name: str) -> list[list[nn.Parameter]]:
    """Parameters by how the optimizer of this name treats them, in its order.

    Parameters
    ----------
    named : iterable of (str, Parameter)
    name : str
        As in ``model.optim.name``.

    Returns
    -------
    list of list of Parameter
        For ``muon``, first the matrices of the layers; then the other parameters that decay, and those that do not:
        biases and LayerNorms.
    """
    named = list(named)
    matrices = [p for key, p in named if p.ndim == 2 and ".layers." in key and name == "muon"]
    taken = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in taken]
    groups = [[p for p in rest if p.ndim > 1], [p for p in rest if p.ndim == 1]]
    return [matrices, *groups] if matrices else groups


def make_optimizer(groups: list[list[nn.Parameter]], optim: Mapping[str, Any], *, fused: bool) -> torch.optim.Optimizer:
    """The optimizer of ``model.optim``.

    Parameters
    ----------
    groups : list of list of Parameter
        Of :func:`parameter_groups`.
    optim : mapping
        ``name``, ``lr``, ``betas``, ``eps``, ``weight_decay``.
    fused : bool
        Whether AdamW's kernel may take a whole step at once.

    Raises
    ------
    ProtT5nvError
        If there is none of that name, or it is not installed.
    """
    if optim["name"] not in NAMES:
        raise ProtT5nvError(f"model.optim.name={optim['name']}: choose {', '.join(NAMES)}")
    *matrices, decayed, undecayed = groups
    lr, weight_decay = float(optim["lr"]), float(optim["weight_decay"])
    settings = dict(lr=lr, betas=tuple(float(b) for b in optim["betas"]), eps=float(optim["eps"]))
    rest = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    if optim["name"] == "apex_fused_adam":
        return _apex_fused_adam()(rest, adam_w_mode=True, **settings)
    adamw = torch.optim.AdamW(rest, fused=fused, **settings)
    if optim["name"] == "fused_adam":
        return adamw
    muon = torch.optim.Muon(matrices[0], lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return MuonAdamW(muon, adamw)


def _apex_fused_adam():
    try:
        from apex.optimizers import FusedAdam
    except ImportError:
        raise ProtT5nvError(
            "model.optim.name=apex_fused_adam needs NVIDIA's apex, a build from source; fused_adam needs nothing"
        ) from None
    return FusedAdam
