"""Runs an application by uvicorn in a thread of this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from prott5nv.errors import ProtT5nvError

if TYPE_CHECKING:
    from fastapi import FastAPI


def open_port(host: str, port: int) -> socket.socket:
    """Listen on a port.

    Parameters
    ----------
    host, port : str and int
        Address.

    Returns
    -------
    socket.socket

    Raises
    ------
    ProtT5nvError
        If the address is in use, or is none of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ProtT5nvError(f"cannot listen on {host} port {port}: {reason}; choose another --port or --host") from None


@contextmanager
def answering(app: FastAPI, host: str, port: int, drain_seconds: int) -> Iterator[None]:
    """Answer requests until the block ends. Then finish those that have begun, and send their answers.

    Parameters
    ----------
    app : FastAPI
    host, port : str and int
        Where to listen.
    drain_seconds : int
        Longest time to finish.

    Raises
    ------
    ProtT5nvError
        If the address is in use.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="error",
        timeout_graceful_shutdown=drain_seconds,
    )
    server = uvicorn.Server(config)
    with open_port(host, port) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            server.force_exit = True
            raise
        finally:
            server.should_exit = True
            thread.join()
