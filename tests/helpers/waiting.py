"""Waiting for other processes: by a condition, never by a fixed time, and never without an end."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout: float = 1000) -> None:
    """Return when the condition is true; fail after a time far above the duration of any test."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"the condition is still false after {timeout} seconds"
        time.sleep(0.005)
