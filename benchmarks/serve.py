"""Measure ``prott5nv serve`` on the loopback interface, against embedding in this process.

    python benchmarks/serve.py                                          # 10,000 requests of 64 clients
    python benchmarks/serve.py --requests 1000 --hostile 200 --single 50

The table has the rate of 64 clients that each ask for one protein at a time, or for eight, relative to
:class:`prott5nv.Embedder` with all proteins at once; what a request costs besides the model; the largest difference
between the numbers; the time of one protein of 300 residues; and the answers to hostile requests. The rate without the
server is measured before and after, because the load of the machine can change.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import AMINO_ACIDS, argument_parser, print_table

from prott5nv import Client, Embedder, seqs_to_embedding
from prott5nv.io.text import counted

SINGLE_RESIDUES = 300
SEVERAL = 8  # proteins in a request


@contextmanager
def server(model: str | None, replicas: int) -> Iterator[tuple[int, psutil.Process]]:
    """Start a server, and yield its port and process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prott5nv", "serve", "--port", str(port), "--replicas", str(replicas)]
    if model:
        command += ["--model", model]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        # By default, Ray gives its processes a lower priority than this one has.
        environment = {**os.environ, "RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "120"}
        with open(log, "w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            while f":{port}/" not in log.read_text():
                if process.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.1)
            yield port, psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def overhead_seconds(process: psutil.Process) -> float:
    """Return the CPU time of all processes of a server except those that hold the model."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        if ":model" not in each.name() + " ".join(each.cmdline()):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def measured(work: Callable[[], Any], residues: int) -> tuple[Any, float]:
    """Run a function; return its result and the residues per second."""
    start = time.perf_counter()
    result = work()
    return result, residues / (time.perf_counter() - start)


def ask_all(port: int, proteins: Sequence[str], clients: int, size: int = 1) -> tuple[np.ndarray, int]:
    """Ask for `size` proteins in each request; return the vectors of all proteins and the number of errors."""
    vectors: dict[int, np.ndarray] = {}
    numbers = iter(range(0, len(proteins), size))
    lock = threading.Lock()
    errors = 0

    def client() -> None:
        nonlocal errors
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                connection.close()
                return
            asked = proteins[number : number + size]
            body = {"sequences": asked, "pooling": "mean", "format": "float32"}
            connection.request("POST", "/embed", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            _, _, data = answer.read().partition(b"\n")
            if answer.status == 200:
                vectors[number] = np.frombuffer(data, "<f4").reshape(len(asked), -1)
            else:
                errors += 1

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.concatenate([vectors[number] for number in sorted(vectors)]), errors


def send_hostile(port: int, count: int, seed: int = 0) -> Counter[str]:
    """Send hostile requests, and count the statuses of the answers."""
    rng = random.Random(seed)
    header = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    bodies = [
        lambda: rng.randbytes(rng.randint(1, 3000)),
        lambda: b"[" * rng.randint(1000, 200_000),
        lambda: b'{"sequences": [' + b"1," * rng.randint(1, 100_000) + b"1]}",
        lambda: json.dumps({"sequences": ["M" * rng.randint(100_001, 300_000)]}).encode(),
        lambda: json.dumps({"records": [{"id": "x" * 2000, "sequence": "MK"}]}).encode(),
        lambda: json.dumps({"sequences": [rng.randbytes(20).decode("latin-1")]}).encode(),
        lambda: b"x" * 3_000_000,
    ]
    answers: Counter[str] = Counter()
    slow = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=120)
        kind = rng.randrange(len(bodies) + 3)
        try:
            if kind < len(bodies):
                body = bodies[kind]()
                connection.sendall(header + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            elif kind == len(bodies):
                connection.sendall(rng.randbytes(500) + b"\r\n\r\n")
            elif kind == len(bodies) + 1:  # hang up in the middle of the body
                connection.sendall(header + b"Content-Length: 1000\r\n\r\n{")
                answers["hung up"] += 1
                connection.close()
                continue
            else:  # send nothing more, and wait for the answer later
                connection.sendall(header + b"Content-Length: 1000\r\n\r\n{")
                slow.append(connection)
                continue
            answers[status_of(connection)] += 1
        except OSError:  # The server has closed the connection before it had the whole body.
            answers["closed"] += 1
        connection.close()
    for connection in slow:
        answers[status_of(connection)] += 1
        connection.close()
    return answers


def status_of(connection: socket.socket) -> str:
    """Read the status of an answer."""
    line = connection.recv(1000).partition(b"\r\n")[0].split()
    return line[1].decode() if len(line) > 1 else "closed"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", help="model to use; the built-in one by default")
    parser.add_argument("--requests", type=int, default=10_000, help="number of proteins of random length")
    parser.add_argument("--longest", type=int, default=500, help="length of the longest protein")
    parser.add_argument("--clients", type=int, default=64, help="number of clients")
    parser.add_argument("--replicas", type=int, default=1, help="number of processes that hold the model")
    parser.add_argument("--single", type=int, default=200, help="number of requests of one client")
    parser.add_argument("--hostile", type=int, default=1000, help="number of hostile requests")
    options = parser.parse_args()

    rng = random.Random(0)
    proteins = ["".join(rng.choices(AMINO_ACIDS, k=rng.randint(20, options.longest))) for _ in range(options.requests)]
    residues = sum(map(len, proteins))
    embedder = Embedder(options.model)
    single = "".join(rng.choices(AMINO_ACIDS, k=SINGLE_RESIDUES))
    print_table(["What", "Result"], rows(options, embedder, proteins, residues, single))


def rows(
    options: Any, embedder: Embedder, proteins: list[str], residues: int, single: str
) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table."""

    def offline() -> Any:
        return seqs_to_embedding(proteins, embedder, pooling="mean")

    seqs_to_embedding(proteins[:100], embedder, pooling="mean")
    expected, before = measured(offline, residues)
    alone = times(lambda: embedder_seconds(embedder, single), options.single)
    with server(options.model, options.replicas) as (port, process):
        ask_all(port, proteins[:100], options.clients)
        cpu = overhead_seconds(process)
        (actual, errors), rate = measured(lambda: ask_all(port, proteins, options.clients), residues)
        cpu = overhead_seconds(process) - cpu
        _, several_rate = measured(lambda: ask_all(port, proteins, options.clients, SEVERAL), residues)
        client = Client(f"http://127.0.0.1:{port}")
        client.embed([single], "mean")
        latency = times(lambda: client_seconds(client, single), options.single)
        processes = process_ids(process)
        answers = send_hostile(port, options.hostile)
        has_survived = process_ids(process) == processes and len(client.embed([single])) == 1
    _, after = measured(offline, residues)
    yield "embedder without a server, before and after", f"{before:,.0f} and {after:,.0f} residues/s"
    for size, served in ((1, rate), (SEVERAL, several_rate)):
        name = f"server, {options.clients} clients, {counted(size, 'protein')} in a request"
        yield name, f"{served:,.0f} residues/s, {2 * served / (before + after):.0%} of the mean of these"
    yield "CPU time of a request outside of the model", f"{cpu / len(proteins) * 1000:.0f} ms"
    difference = float(np.abs(actual - expected).max()) if not errors else float("nan")
    yield f"{len(proteins):,} requests of random length", f"{errors} errors, largest difference {difference:.1g}"
    for name, seconds in ("embedder", alone), ("server, one client", latency):
        p50, p99 = np.percentile(seconds, [50, 99]) * 1000
        yield f"one protein of {SINGLE_RESIDUES} residues, {name}", f"p50 {p50:.0f} ms, p99 {p99:.0f} ms"
    counts = ", ".join(f"{status}: {count}" for status, count in sorted(answers.items()))
    state = "no process died" if has_survived else "A PROCESS DIED"
    yield f"{options.hostile:,} hostile requests", f"{counts}; {state}"


def process_ids(process: psutil.Process) -> set[int]:
    """Return the numbers of the processes that hold the model or answer requests."""
    children = process.children(recursive=True)
    return {process.pid} | {each.pid for each in children if each.name().startswith("ray::Serve")}


def times(measure: Callable[[], float], count: int) -> list[float]:
    """Measure several times."""
    return [measure() for _ in range(count)]


def embedder_seconds(embedder: Embedder, protein: str) -> float:
    """Return the time to embed one protein in this process."""
    start = time.perf_counter()
    seqs_to_embedding([protein], embedder, pooling="mean")
    return time.perf_counter() - start


def client_seconds(client: Client, protein: str) -> float:
    """Return the time to embed one protein by the server."""
    start = time.perf_counter()
    client.embed([protein], "mean")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
