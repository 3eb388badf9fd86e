"""The command line in a process of its own, forked from one that has already imported the package.

A test that kills a command needs a real process. Importing PyTorch takes seconds in each process, and importing NeMo
takes up to half a minute. Here, it happens once. Tests of how a program starts use ``subprocess`` instead.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

PROGRAM = Path(sys.executable).with_name("prott5nv")


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def server() -> multiprocessing.context.ForkServerContext:
    """Return the context whose processes are forked from one that has only imported the package."""
    context = multiprocessing.get_context("forkserver")
    trains = importlib.util.find_spec("nemo") is not None
    context.set_forkserver_preload(["prott5nv.pretraining.model" if trains else "prott5nv.embedding.job"])
    return context


class ForkedCommand:
    """A running ``prott5nv`` command, the first of a new process group, as in a terminal.

    Parameters
    ----------
    arguments : iterable of str or Path
        Command line after ``prott5nv``.
    cwd : Path
        Working directory. The output goes to files in a hidden folder there.
    piped : str
        What the process reads from standard input, which is a pipe: at most 60,000 bytes.
    file_size_limit : int, optional
        The largest file that the process can write, in bytes.
    """

    def __init__(self, arguments, cwd, piped="", file_size_limit=None):
        self._cwd = Path(cwd)
        arguments = list(map(str, arguments))
        self._process = server().Process(target=_execute, args=(arguments, self._cwd, piped, file_size_limit))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while the process runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to this process, not to its children."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL to this process, not to its children."""
        self._process.kill()

    def group_is_alive(self) -> bool:
        """Return whether the process or one that it started still runs."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def wait(self) -> Done:
        """Wait for the end of the process and return its exit code and output."""
        self._process.join(1000)
        assert self._process.exitcode is not None, "the command still runs after 1000 seconds"
        outputs = [self._cwd / f".{self.pid}.{name}" for name in ("stdout", "stderr")]
        texts = [path.read_text() if path.exists() else "" for path in outputs]
        for path in outputs:
            path.unlink(missing_ok=True)
        return Done(self._process.exitcode, *texts)


def _execute(arguments: list[str], cwd: Path, piped: str, file_size_limit: int | None) -> None:
    import resource

    os.setsid()
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background jobs, as in CI, ignore Ctrl-C.
    stdin, pipe = os.pipe()
    os.write(pipe, piped.encode())
    os.close(pipe)
    os.dup2(stdin, 0)
    for number, name in (1, "stdout"), (2, "stderr"):
        os.dup2(os.open(f".{os.getpid()}.{name}", os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    if file_size_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, file_size_limit))
    sys.argv = [str(PROGRAM), *arguments]  # Lightning starts the processes of further devices with these.

    from prott5nv.cli import main

    main()
