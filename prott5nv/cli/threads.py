"""How the threads of PyTorch's operations wait on a CPU. This module does not import PyTorch."""

from __future__ import annotations

import os


def let_waiting_threads_sleep() -> None:
    """Let threads that wait for each other sleep, unless the user has set ``OMP_WAIT_POLICY``.

    By default, they wait in a loop that uses a whole core. If another program needs that core, the thread that is
    waited for gets no time, and small operations take many times as long. An idle machine shows no difference.

    Call it before the process imports PyTorch, because OpenMP reads the variable only once.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
