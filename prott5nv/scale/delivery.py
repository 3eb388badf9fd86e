"""Waits until Ray's HTTP proxy has sent the answers that it has received.

Ray stops the proxy at once, and it may hold an answer whose client reads slowly.
"""

from __future__ import annotations

import http.client
import time
from contextlib import suppress
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"
_EVERY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def wait_for_delivery(host: str, port: int, seconds: float) -> None:
    """Wait until all finished answers have been sent, or the time is over.

    Parameters
    ----------
    host, port : str and int
        Where the proxy listens.
    seconds : float
        Longest time to wait.
    """
    deadline = time.monotonic() + seconds
    # The proxy handles messages in their order: after the answer to this request, it has written all former answers.
    connection = http.client.HTTPConnection(_EVERY_HOST.get(host, host), port, timeout=seconds)
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health")
        connection.getresponse().read()
    connection.close()
    while has_unsent_bytes(port) and time.monotonic() < deadline:
        time.sleep(0.05)


def has_unsent_bytes(port: int) -> bool:
    """Return whether the system still has to send bytes of a port of this machine.

    Parameters
    ----------
    port : int

    Returns
    -------
    bool
        Always False on systems other than Linux.
    """
    for table in _TABLES:
        with suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                local, _, state, queues = line.split()[1:5]
                if state != _LISTEN and int(local.rpartition(":")[2], 16) == port and int(queues.partition(":")[0], 16):
                    return True
    return False
