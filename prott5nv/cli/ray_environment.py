"""Environment of commands that use Ray."""

from __future__ import annotations

import os
import secrets


def prepare_ray(*, is_local: bool) -> None:
    """Set environment variables that Ray reads when it is imported or started. Those that the user has set are kept.

    Parameters
    ----------
    is_local : bool
        Whether the command starts Ray itself, on this machine.
    """
    # Ray prints messages for its developers, and sends statistics to them.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if is_local and not any(name.startswith("RAY_AUTH_") for name in os.environ):
        # Whoever reaches the ports of Ray could run code. Ray would write a token to the home folder and use it again.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
