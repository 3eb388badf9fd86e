"""Waits until Ray's HTTP proxy has sent the answers that it has received.

Ray stops the proxy at once, and it may hold an answer whose client reads slowly.
"""

from __future__ import annotations

import http.client
import re
import select
import sys
import time
from contextlib import suppress
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"
# How Linux lists what an event loop waits for: a descriptor and a mask.
_EVENTS = re.compile(r"^tfd:\s*(\d+)\s+events:\s*([0-9a-f]+)", re.MULTILINE)
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
    """Return whether answers of a port of this machine wait to be sent, in a program or in the system.

    Parameters
    ----------
    port : int

    Returns
    -------
    bool
        Always False on systems other than Linux.
    """
    # A slow program leaves the system's queue empty between two writes, so the program is examined first.
    return sys.platform == "linux" and (_is_writing(port) or _system_has_unsent_bytes(port))


def _is_writing(port: int) -> bool:
    """Return whether a program waits until a connection of the port accepts more bytes."""
    import psutil

    sockets: dict[int, set[int]] = {}
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.pid and connection.laddr and connection.laddr.port == port:
                sockets.setdefault(connection.pid, set()).add(connection.fd)
    return any(descriptors & _waiting_to_write(process) for process, descriptors in sockets.items())


def _waiting_to_write(process: int) -> set[int]:
    """Return the descriptors that the event loops of a process wait to write."""
    waiting: set[int] = set()
    for path in Path(f"/proc/{process}/fdinfo").glob("*"):
        with suppress(OSError):
            events = _EVENTS.findall(path.read_text())
            waiting |= {int(descriptor) for descriptor, mask in events if int(mask, 16) & select.EPOLLOUT}
    return waiting


def _system_has_unsent_bytes(port: int) -> bool:
    for table in _TABLES:
        with suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                local, _, state, queues = line.split()[1:5]
                if state != _LISTEN and int(local.rpartition(":")[2], 16) == port and int(queues.partition(":")[0], 16):
                    return True
    return False
