"""Connection to a Ray cluster, or a Ray that is started on this machine."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prott5nv.errors import ProtT5nvError

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LOG_LEVEL_LINE = b"Set ray log level from environment variable"
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


def starts_ray(address: str | None) -> bool:
    """Return whether :func:`connected` starts Ray: there is no address, and the program has not connected to Ray."""
    ray = sys.modules.get("ray")  # importing it takes seconds
    return _address(address) == "local" and not (ray and ray.is_initialized())


def _address(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


@contextmanager
def connected(address: str | None, object_store_bytes: int) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine, until the block ends."""
    import ray

    if ray.is_initialized():
        yield
        return
    address = _address(address)
    handler = signal.getsignal(signal.SIGTERM)
    local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": object_store_bytes}
    try:
        with _without_log_level():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(local if address == "local" else {}))
    except Exception as error:  # Ray raises this type itself, for example when the machine is too busy to start it.
        raise ProtT5nvError(f"Ray at {address}: {cause(error)}") from None
    try:
        # Ray has set a handler that kills its processes first. A handler of the program's own ends it in order.
        if callable(handler) and signal.getsignal(signal.SIGTERM) is not handler:
            signal.signal(signal.SIGTERM, handler)
        yield
    finally:
        ray.shutdown()


@contextmanager
def _without_log_level() -> Iterator[None]:
    """Hide the line that Ray prints at every log level if ``RAY_BACKEND_LOG_LEVEL`` is set.

    All other lines on standard error appear when the block ends.
    """
    if "RAY_BACKEND_LOG_LEVEL" not in os.environ or sys.stderr is None:
        yield
        return
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        sys.stderr.flush()
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            for line in captured:
                if _LOG_LEVEL_LINE not in line:
                    os.write(2, line)
