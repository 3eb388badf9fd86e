"""The optimizers of pretraining.

Shapes: P matrices of one shape, with R rows and C columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from prott5nv.errors import ProtT5nvError
from prott5nv.model.device import choose_hardware
from prott5nv.pretraining.optimizer_names import OPTIMIZERS


class BatchedMuon(torch.optim.Muon):
    """Muon that orthogonalizes all matrices of one shape together.

    ``torch.optim.Muon`` orthogonalizes one matrix after the other, in fifteen small matmuls each, which leave most of a
    GPU idle. Here each of these matmuls serves all matrices of one shape. State and results are those of
    ``torch.optim.Muon``, up to rounding.

    Parameters
    ----------
    params : iterable of Parameter
        Matrices.
    dtype : torch.dtype, default torch.bfloat16
        Data type in which the matrices are orthogonalized.
    **settings
        See ``torch.optim.Muon``.

    Attributes
    ----------
    found_inf : Tensor, shape=(), dtype=float32, or None
        If it is 1, a step changes nothing. This is how fused AdamW skips steps without reading the decision from a GPU.
    """

    found_inf: Tensor | None = None

    def __init__(self, params: Iterable[nn.Parameter], *, dtype: torch.dtype = torch.bfloat16, **settings: Any):
        super().__init__(params, **settings)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss before the step.

        Returns
        -------
        The loss, or None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._step_together(parameters, group)
        return loss

    def _step_together(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(gradient)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        if self.found_inf is not None:  # lerp of a buffer with itself leaves it as it is
            skips = self.found_inf > 0
            gradients = [buffer.where(skips, grad) for buffer, grad in zip(buffers, gradients, strict=True)]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, buffers, group["momentum"])
        matrices_PRC = torch.stack(updates).to(self._dtype)
        directions_PRC = orthogonalize(matrices_PRC, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rate = 0.2 * math.sqrt(max(parameters[0].shape)) * group["lr"]  # the steps are as large as AdamW's
        decay = group["lr"] * group["weight_decay"]
        directions_PRC = directions_PRC.to(parameters[0].dtype)
        if self.found_inf is None:
            torch._foreach_mul_(parameters, 1 - decay)
            torch._foreach_add_(parameters, directions_PRC.unbind(), alpha=-rate)
        else:
            torch._foreach_mul_(parameters, 1 - decay * (1 - self.found_inf))
            torch._foreach_add_(parameters, (directions_PRC * (rate * (self.found_inf - 1))).unbind())


def orthogonalize(matrices_PRC: Tensor, coefficients: Sequence[float], num_iterations: int, eps: float) -> Tensor:
    """Set the singular values of matrices to about 1 by a Newton-Schulz iteration.

    Parameters
    ----------
    matrices_PRC : Tensor, shape=(P, R, C)
        P matrices of R rows and C columns.
    coefficients : sequence of float, length=3
        Coefficients a, b and c of the polynomial ``a X + b X X^T X + c X X^T X X^T X``.
    num_iterations : int
    eps : float
        Smallest norm by which a matrix is divided.

    Returns
    -------
    Tensor, shape=(P, R, C)

    References
    ----------
    Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks.
    """
    a, b, c = coefficients
    is_tall = matrices_PRC.shape[1] > matrices_PRC.shape[2]
    # X X^T is the smaller one of the two products if X has fewer rows than columns.
    x = matrices_PRC.mT if is_tall else matrices_PRC
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices of the layers, and AdamW for embeddings, biases and LayerNorms, as one optimizer.

    Muon orthogonalizes the momentum of a matrix before it steps along it. Its steps are scaled to the size of AdamW's,
    so that one learning rate serves both.

    Parameters
    ----------
    muon : BatchedMuon
    adamw : torch.optim.AdamW

    Attributes
    ----------
    found_inf : Tensor, shape=(), dtype=float32, or None
        If it is 1, a step changes nothing.

    References
    ----------
    Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks; Liu et al. (2025), Muon is scalable
    for LLM training.
    """

    found_inf: Tensor | None = None

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer):
        self.adamw = adamw
        self._parts = [(muon, len(muon.param_groups)), (adamw, len(adamw.param_groups))]
        super().__init__([*muon.param_groups, *adamw.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step with both optimizers.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss before the step.

        Returns
        -------
        The loss, or None without a closure.
        """
        loss = None if closure is None else closure()
        first = 0
        for optimizer, num_groups in self._parts:
            # Loading a checkpoint replaces the groups and the state, so they are passed on at each step.
            optimizer.param_groups, optimizer.state = self.param_groups[first : first + num_groups], self.state
            optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]  # PyTorch's own stubs lack it
            optimizer.step()
            first += num_groups
        return loss


def skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer skips a step if its attribute ``found_inf`` is a tensor with the value 1."""
    adamw = optimizer.adamw if isinstance(optimizer, MuonAdamW) else optimizer
    return isinstance(adamw, torch.optim.AdamW) and bool(adamw.defaults["fused"])


def parameter_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], optimizer: str) -> list[list[nn.Parameter]]:
    """Group parameters by how an optimizer treats them, in the order in which the optimizer holds them.

    Parameters
    ----------
    named_parameters : iterable of (str, Parameter)
    optimizer : str
        A value of ``model.optim.name``.

    Returns
    -------
    list of list of Parameter
        For ``muon``, the matrices of the layers come first. Then come the other parameters with weight decay, and
        those without: biases and LayerNorms.
    """
    named = list(named_parameters)
    matrices = [p for name, p in named if p.ndim == 2 and ".layers." in name and optimizer == "muon"]
    matrix_ids = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in matrix_ids]
    groups = [[p for p in others if p.ndim > 1], [p for p in others if p.ndim == 1]]
    return [matrices, *groups] if matrices else groups


def make_optimizer(
    groups: list[list[nn.Parameter]],
    *,
    name: str,
    lr: float,
    betas: Sequence[float],
    eps: float,
    weight_decay: float,
    fused: bool,
) -> torch.optim.Optimizer:
    """Build an optimizer.

    Parameters
    ----------
    groups : list of list of Parameter
        As :func:`parameter_groups` returns them.
    name : {"fused_adam", "muon", "apex_fused_adam"}
        AdamW of PyTorch, :class:`MuonAdamW`, AdamW of NVIDIA's apex, or a name that
        :func:`prott5nv.register_optimizer` added.
    lr : float
        Learning rate.
    betas : sequence of float
        The two decay rates of AdamW's moments.
    eps : float
        Added to AdamW's denominator.
    weight_decay : float
        Weight decay of the groups that have one.
    fused : bool
        Whether AdamW uses PyTorch's fused kernel.

    Returns
    -------
    torch.optim.Optimizer

    Raises
    ------
    ProtT5nvError
        If the optimizer is not installed.
    """
    *matrices, decayed, undecayed = groups
    settings: dict[str, Any] = dict(lr=lr, betas=tuple(betas), eps=eps)
    others = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    if (build := OPTIMIZERS[name]) is not None:
        return build(others, **settings)
    if name == "apex_fused_adam":
        return _apex_fused_adam()(others, adam_w_mode=True, **settings)
    adamw = torch.optim.AdamW(others, fused=fused, **settings)
    if name == "fused_adam":
        return adamw
    # A CPU without instructions for bf16 takes a hundred times as long in bf16 as in fp32.
    slow_bf16 = matrices[0][0].device.type == "cpu" and choose_hardware("cpu").precision == "fp32"
    dtype = torch.float32 if slow_bf16 else torch.bfloat16
    muon = BatchedMuon(matrices[0], dtype=dtype, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return MuonAdamW(muon, adamw)


def make_schedule(
    optimizer: torch.optim.Optimizer, sched: Mapping[str, Any], max_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Build one of NeMo's learning-rate schedules.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    sched : mapping
        The section ``model.optim.sched``: ``name``, ``min_lr``, ``warmup_steps`` or else ``warmup_ratio``, and further
        arguments of the schedule.
    max_steps : int
        Number of steps of the run, at which the schedule ends.

    Returns
    -------
    torch.optim.lr_scheduler.LRScheduler

    Raises
    ------
    ProtT5nvError
        If NeMo has no such schedule, or the schedule has other arguments.
    """
    from nemo.core.optim.lr_scheduler import get_scheduler

    arguments = dict(sched)
    name = arguments.pop("name")
    arguments.pop("warmup_ratio" if arguments.get("warmup_steps") is not None else "warmup_steps", None)
    try:
        schedule: torch.optim.lr_scheduler.LRScheduler = get_scheduler(name)(
            optimizer, max_steps=max_steps, **{"min_lr": 0.0, **arguments}
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ProtT5nvError(f"model.optim.sched.name={name}: {error}") from None
    return schedule


def _apex_fused_adam() -> Callable[..., torch.optim.Optimizer]:
    try:
        from apex.optimizers import FusedAdam
    except ImportError:
        raise ProtT5nvError(
            "model.optim.name=apex_fused_adam needs NVIDIA's apex, which must be built from source; fused_adam needs "
            "no extra package"
        ) from None
    return cast(Callable[..., torch.optim.Optimizer], FusedAdam)
