"""Environment of commands that use Ray."""

from __future__ import annotations

import os
import secrets


def prepare_ray(address: str | None) -> None:
    """Set environment variables that Ray reads when it is imported or started. Those that the user has set are kept.

    Parameters
    ----------
    address : str, optional
        Address of a Ray cluster. Without it and without ``RAY_ADDRESS``, the command starts Ray on this machine.
    """
    # Ray prints messages for its developers, and sends statistics to them.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # At SIGTERM, Ray would print a trace of its C++ code instead of ending.
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    # Ray gives up on a process that takes 10 or 15 seconds to start, as on a busy machine.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    # Ray Serve looks ten times per second whether there is something to do, which takes a tenth of a core.
    os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.5")
    is_local = not (address or os.environ.get("RAY_ADDRESS"))
    if is_local and not any(name.startswith("RAY_AUTH_") for name in os.environ):
        # Whoever reaches the ports of Ray could run code. Ray would write a token to the home folder and use it again.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
