"""Processes that open a stranger's file with a library which may hang, crash or use much memory on it.

:func:`start_guarded` is for the process that needs the file, the other functions for the one that opens it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.spawn import get_executable
from pathlib import Path


def start_guarded(program: Path, *arguments: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a Python program with pipes for its standard input and output.

    Parameters
    ----------
    program : Path
        The program. Its first argument is the module search path of this process, as JSON.
    *arguments : str
        Further arguments.
    environment : mapping
        Additional environment variables.

    Returns
    -------
    subprocess.Popen
    """
    path = json.dumps([os.path.abspath(entry) for entry in sys.path if entry])
    return subprocess.Popen(
        # -I keeps files in the current folder from taking the place of modules.
        [get_executable(), "-I", str(program), path, *arguments],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
        start_new_session=True,  # Ctrl-C is not for this process
    )


def limit_memory(size: int) -> None:
    """Limit the address space of this process to a number of bytes, where the system can."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # Windows has no such limits, macOS not all of them
        pass


def limit_time(seconds: float) -> None:
    """Let the system end this process after some seconds of CPU time from now, even within a library."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
