"""Imports Megatron-Core and NeMo quickly and without their start-up messages. Import this module before them."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from prott5nv.extras import require_extra

_LOGGER = logging.getLogger("nv_one_logger")  # telemetry of NeMo, which is off


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Let ``torch.compile`` return functions as they are.

    Megatron-Core decorates its fused operations with it. This package uses none of them, and loading PyTorch's compiler
    takes a quarter of the time of all these imports.
    """
    compile = torch.compile

    def unchanged(function: Callable[..., Any] | None = None, **_unused: Any) -> Callable[..., Any]:
        return unchanged if function is None else function

    torch.compile = unchanged  # type: ignore[assignment]  # the overloads are not needed here
    try:
        yield
    finally:
        torch.compile = compile


require_extra("train", "pretraining")
_level = _LOGGER.level
_LOGGER.setLevel(logging.ERROR)
try:
    with warnings.catch_warnings(), _without_compiler():
        warnings.simplefilter("ignore")
        import megatron.core  # noqa: F401
        import nemo.core  # noqa: F401
finally:
    _LOGGER.setLevel(_level)
