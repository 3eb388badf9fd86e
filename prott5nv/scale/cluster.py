"""Connection to a Ray cluster, or a Ray that is started on this machine."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prott5nv.errors import ProtT5nvError

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_EXCEPTION = re.compile(r"[\w.]*(?:Error|Exception|Exit)\b[\w.()]*: ")


def cause(error: BaseException) -> str:
    """Return the line of an error of Ray that tells most: the last one with an exception, otherwise the first."""
    lines = [line.strip() for line in _ANSI.sub("", str(error)).splitlines() if line.strip()]
    exceptions = [line for line in lines if _EXCEPTION.match(line) and "UserCodeException" not in line]
    return (exceptions or lines or [type(error).__name__])[-1 if exceptions else 0][:500]


def model_everywhere(model: str | None) -> str | None:
    """Return a model by a name that means the same on all nodes."""
    from prott5nv.checkpoint.hub import download, is_hub_name

    if model is None:
        return None
    return download(model).name if is_hub_name(model) else os.path.abspath(model)


@contextmanager
def connected(address: str | None, object_store_bytes: int) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine, until the block ends."""
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": object_store_bytes}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(local if address == "local" else {}))
    except Exception as error:  # Ray raises this type itself, for example when the machine is too busy to start it.
        raise ProtT5nvError(f"Ray at {address}: {cause(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()
