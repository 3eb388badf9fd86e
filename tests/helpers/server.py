"""A server in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from helpers.waiting import wait_until


class Server:
    """``prott5nv serve``, which listens on a free port when the constructor returns.

    Its log and the home folder are in `folder`.
    """

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        command = [sys.executable, "-m", "prott5nv", "serve", "--port", str(self.port), *arguments]
        variables = {**os.environ, "HOME": str(folder), **environment}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=variables)
        wait_until(lambda: self.url in self.log.read_text() or self.process.poll() is not None, 300)
        assert self.process.poll() is None, self.log.read_text()

    def stop(self) -> int:
        """Send SIGTERM, wait and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)
