"""Names of optimizers, which exist before NeMo, Megatron and Lightning are imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from prott5nv.errors import ProtT5nvError

if TYPE_CHECKING:
    from torch.optim import Optimizer

Build = TypeVar("Build", bound="Callable[..., Optimizer]")

#: Values of ``model.optim.name``, and the functions that :func:`register_optimizer` added;
#: :func:`prott5nv.pretraining.optimizers.make_optimizer` builds the others.
OPTIMIZERS: dict[str, Callable[..., Optimizer] | None] = {"fused_adam": None, "muon": None, "apex_fused_adam": None}


def register_optimizer(name: str) -> Callable[[Build], Build]:
    """Return a decorator that makes an optimizer available as ``model.optim.name=NAME``.

    Parameters
    ----------
    name : str
        Name of the optimizer.

    Returns
    -------
    callable
        Takes and returns a function or class. It is called with two parameter groups, with and without weight decay,
        and with the arguments ``lr``, ``betas`` and ``eps``, and returns a ``torch.optim.Optimizer``.

    Raises
    ------
    ProtT5nvError
        If the name belongs to another optimizer.
    """

    def register(build: Build) -> Build:
        if name in OPTIMIZERS and getattr(OPTIMIZERS[name], "__qualname__", "") != build.__qualname__:
            raise ProtT5nvError(f"an optimizer called {name!r} exists already; choose another name")
        OPTIMIZERS[name] = build
        return build

    return register
