"""Damage files at random, open each with the package, and count how the attempts end.

The files are opened in a process of its own, which is replaced when a file crashes it or takes too long.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from prott5nv.errors import ProtT5nvError

SECONDS_PER_FILE = 10  # CPU time, which does not depend on other programs
_PATIENCE = 120  # seconds after which a file hangs
MIB_PER_FILE = 1024
_EDGE_BYTES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)

# How an attempt can end.
RIGHT = "accepted with the right numbers"
CHANGED = "accepted with numbers that the damage changed"
REFUSED = "refused in one line"
TRACEBACK = "traceback"
CRASHED = "crashed"
SLOW = "too slow"
FAILURES = (TRACEBACK, CRASHED, SLOW)


@dataclass
class Outcome:
    """Counts of an attack, the failures one by one, and the costs of the worst file."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    peak_mib: float = 0.0

    def add(self, name: str, result: str, detail: str, seconds: float) -> None:
        """Count one attempt."""
        self.counts[result] += 1
        self.slowest = max(self.slowest, seconds)
        if result in FAILURES:
            self.failures.append(f"{name}: {result}: {detail}")


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Flip, overwrite, cut, delete or copy bytes, at one to four places."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        start = rng.randrange(len(data))
        length = rng.choice((1, 2, 4, 8, rng.randrange(1, 64)))
        match rng.randrange(8):
            case 0 | 1:
                data[start] ^= 1 << rng.randrange(8)
            case 2 | 3:
                data[start] = rng.choice(_EDGE_BYTES)
            case 4:
                data[start : start + length] = rng.randbytes(len(data[start : start + length]))
            case 5:
                data[start : start + 8] = rng.randrange(len(data)).to_bytes(8, "little")[: len(data) - start]
            case 6:
                target = rng.randrange(len(data))
                data[target : target + length] = data[start : start + length]
            case 7:
                del data[start : start + rng.choice((length, len(data)))]
    return bytes(data)


def attack(
    valid: Sequence[Path], load: Callable[[Path], Any], files: int, seed: int, damage: Callable[..., bytes] = damaged
) -> Outcome:
    """Damage valid files and open them.

    Parameters
    ----------
    valid : sequence of Path
        Files that `load` accepts. The damaged files get their names.
    load : callable
        Opens a file, reads all of it and returns its content, which is compared by ``==``.
    files, seed : int
        Number of damaged files, and the seed of the damage.
    damage : callable
        Takes a `random.Random` and the bytes of a file, and returns the damaged bytes.

    Returns
    -------
    Outcome
    """
    contents = [(path.name, path.read_bytes()) for path in valid]
    expected = [load(path) for path in valid]

    def attempt(number: int, folder: Path) -> tuple[str, str]:
        index = number % len(contents)
        name, content = contents[index]
        path = folder / name
        path.write_bytes(damage(random.Random(f"{seed} {number}"), content))
        result = outcome_of(lambda: load(path) == expected[index], path)
        path.unlink()
        return result

    return run_attempts(attempt, [f"file {number}" for number in range(files)])


def outcome_of(load: Callable[[], bool], path: Path) -> tuple[str, str]:
    """Run `load`, which returns whether the numbers are right, and return how it ended with the message.

    A message is clear if it is one line that names the file at `path`.
    """
    try:
        return (RIGHT if load() else CHANGED), ""
    except ProtT5nvError as error:
        message = str(error)
        clear = path.name in message and "\n" not in message and len(message) <= 1000
        return (REFUSED, message) if clear else (TRACEBACK, f"unclear message {message!r}")
    except BaseException:
        return TRACEBACK, traceback.format_exc()


def run_attempts(attempt: Callable[[int, Path], tuple[str, str]], names: Sequence[str]) -> Outcome:
    """Run attempts in a process that is replaced when it dies or takes too long.

    Parameters
    ----------
    attempt : callable
        Takes a number and an empty folder, and returns how the attempt ended and a message. What it leaves in the
        folder is a failure.
    names : sequence of str
        Names of the attempts.

    Returns
    -------
    Outcome
    """
    outcome = Outcome()
    number = 0
    while number < len(names):
        process, results = _start(attempt, number, len(names))
        while number < len(names):
            try:
                alive = results.poll(_PATIENCE)
                result, detail, peak_mib, seconds = results.recv() if alive else (SLOW, "it hangs", 0.0, _PATIENCE)
            except EOFError:
                result, detail, peak_mib, seconds, alive = CRASHED, "the process died", 0.0, 0.0, False
            if seconds > SECONDS_PER_FILE:
                result, detail = SLOW, f"{seconds:.0f} s"
            outcome.peak_mib = max(outcome.peak_mib, peak_mib)
            outcome.add(names[number], result, detail, seconds)
            number += 1
            if not alive:
                break
        process.kill()
        process.join()
    if outcome.peak_mib > MIB_PER_FILE:
        outcome.failures.append(f"memory grew by {outcome.peak_mib:,.0f} MiB")
    return outcome


def _start(attempt: Callable[[int, Path], tuple[str, str]], first: int, end: int) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(attempt, first, end, sender), daemon=True)
    process.start()
    sender.close()
    return process, receiver


def _run(attempt: Callable[[int, Path], tuple[str, str]], first: int, end: int, results: Connection) -> None:
    warnings.simplefilter("ignore")
    before = _peak_mib()
    for number in range(first, end):
        began = sum(os.times()[:4])
        with tempfile.TemporaryDirectory() as name:
            result, detail = attempt(number, Path(name))
            left = sorted(path.name for path in Path(name).iterdir())
        if left:
            result, detail = TRACEBACK, f"left {', '.join(left)}"
        results.send((result, detail, _peak_mib() - before, sum(os.times()[:4]) - began))


def _peak_mib() -> float:
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
