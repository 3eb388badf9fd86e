"""Embed on a Ray cluster of several node processes on this machine, and compare with a run without Ray.

    python benchmarks/ray_cluster.py kill --proteins 2000      # SIGKILL of a node in mid-run, and a new node
    python benchmarks/ray_cluster.py load --proteins 500       # SIGKILL of an actor that loads the model
    python benchmarks/ray_cluster.py overhead --proteins 20000
    python benchmarks/ray_cluster.py memory --proteins 100000 --longest 30

``kill`` and ``load`` check that the merged output has the attributes, keys and rows of a run without Ray. Nodes have
one CPU each, and the head, where this program runs, has none. ``overhead`` compares the time, and the CPU time of all
processes, between the first and the last progress with those of ``--workers`` on as many threads. ``memory`` prints the
memory of this process and of the object store during the run.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
from common import argument_parser, write_random_fasta

from prott5nv.embedding.merge_folder import merge_folder
from prott5nv.embedding.run import Listener, Request, run
from prott5nv.embedding.shard_folder import read_manifest
from prott5nv.embedding.workers import run_with_workers
from prott5nv.scale.job import embed_on_ray


class Cluster:
    """A head without CPUs, and nodes with one CPU each, all of them processes of this machine."""

    def __init__(self, nodes: int) -> None:
        import ray
        from ray.cluster_utils import Cluster as RayCluster

        # A node counts as dead after 10 seconds without an answer, which is half a minute by default.
        health = {
            "health_check_initial_delay_ms": 2000,
            "health_check_period_ms": 2000,
            "health_check_failure_threshold": 5,
        }
        options = {
            "num_cpus": 0,
            "object_store_memory": 100_000_000,
            "include_dashboard": False,
            "_system_config": health,
        }
        self._cluster = RayCluster(initialize_head=True, head_node_args=options)
        self._nodes = [self._add() for _ in range(nodes)]
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level="ERROR")

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=1, object_store_memory=100_000_000)

    def kill_and_add(self) -> None:
        """End the processes of a node with SIGKILL, and add a new node."""
        self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)
        self._nodes.append(self._add())

    def close(self) -> None:
        """Stop all processes."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()


class Watch(Listener):
    """Notes the time of each progress, and calls a function when the second shard is finished.

    Attributes
    ----------
    progress : list of tuple
        For each call the time, the CPU time of this process and all that it has started, and the number of residues.
        The first call is for an earlier run.
    """

    def __init__(self, action: Callable[[], None] = lambda: None) -> None:
        self.progress: list[tuple[float, float, int]] = []
        self._action = action
        self._cpu_of: dict[int, float] = {}  # by process id, also of processes that have ended

    def on_progress(self, residues: int) -> None:
        this = psutil.Process()
        for process in (this, *this.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            self._cpu_of[process.pid] = times.user + times.system
        self.progress.append((time.monotonic(), sum(self._cpu_of.values()), residues))
        if len(self.progress) == 3:
            self._action()

    def rates(self) -> tuple[float, float]:
        """Return residues per second, and per second of CPU time, between the first and the last progress."""
        (time_before, cpu_before, _), *later = self.progress[1:]
        residues = sum(residues for *_, residues in later)
        return residues / (later[-1][0] - time_before), residues / (later[-1][1] - cpu_before)


def compare(folder: Path, plain: Path) -> float:
    """Merge a folder of shards, compare it with the output of a run without Ray, and return the largest difference."""
    expected_files = {"manifest.json", *(shard.name for shard in read_manifest(folder).shards)}
    assert set(os.listdir(folder)) == expected_files, "other files"
    merged = plain.with_name("merged.h5")
    merge_folder(folder, merged, overwrite=True)
    with h5py.File(merged) as file, h5py.File(plain) as expected:
        assert dict(file.attrs) == dict(expected.attrs), "other attributes"
        assert list(file) == list(expected), "other keys"
        largest = 0.0
        for key in file:
            assert dict(file[key].attrs) == dict(expected[key].attrs), key
            largest = max(largest, float(np.abs(file[key][()] - expected[key][()]).max()))
    assert largest <= 1e-5, largest
    return largest


def kill_while_loading(stop: threading.Event) -> list[int]:
    """Wait for the first actor that loads a model, end it with SIGKILL, and return its process id."""
    killed: list[int] = []
    while not stop.wait(0.05) and not killed:
        for process in psutil.Process().children(recursive=True):
            try:
                if "MapWorker" in process.name() or any("MapWorker" in word for word in process.cmdline()):
                    process.kill()
                    killed.append(process.pid)
                    break
            except psutil.Error:
                continue
    return killed


def run_kill(request: Request, cluster: Cluster) -> str:
    watch = Watch(cluster.kill_and_add)
    summary = embed_on_ray(request, watch)
    return f"{summary.proteins:,} proteins, a node killed after 2 of {len(watch.progress) - 1} shards and one added"


@contextmanager
def in_background(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run a function in a thread of its own. The event tells it that the block has ended."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def run_load(request: Request, cluster: Cluster) -> str:
    killed: list[int] = []
    with in_background(lambda stop: killed.extend(kill_while_loading(stop))):
        summary = embed_on_ray(request, Watch())
    assert killed, "no actor was seen"
    return f"{summary.proteins:,} proteins, the actor with process id {killed[0]} killed while it loaded the model"


def run_overhead(request: Request, plain: Request, nodes: int) -> str:
    without, on_ray = Watch(), Watch()
    run_with_workers(plain, nodes, without)
    embed_on_ray(request, on_ray)
    wall, cpu = zip(without.rates(), on_ray.rates(), strict=True)
    return (
        f"{nodes} processes with one thread, without and with Ray: {wall[0]:,.0f} and {wall[1]:,.0f} residues/s "
        f"({wall[0] / wall[1] - 1:+.1%} time), {cpu[0]:,.0f} and {cpu[1]:,.0f} residues per second of CPU time "
        f"({cpu[0] / cpu[1] - 1:+.1%})"
    )


def run_memory(request: Request, cluster: Cluster) -> str:
    import ray

    process, samples = psutil.Process(), []

    def sample(stop: threading.Event) -> None:
        while not stop.wait(1):
            used = [
                resources.get("object_store_memory", 0)
                for resources in (ray.cluster_resources(), ray.available_resources())
            ]
            samples.append((process.memory_info().rss / 2**20, (used[0] - used[1]) / 2**20))

    with in_background(sample):
        summary = embed_on_ray(request, Watch())
    third = len(samples) // 3
    early, late = (max(rss for rss, _ in part) for part in (samples[third : 2 * third], samples[2 * third :]))
    return (
        f"{summary.proteins:,} proteins; memory of the driver: at most {early:,.0f} MiB in the second third of the run "
        f"and {late:,.0f} MiB in the last; object store at most {max(store for _, store in samples):.1f} MiB"
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("what", choices=["kill", "load", "overhead", "memory"])
    parser.add_argument("--proteins", type=int, default=2000, help="Number of proteins.")
    parser.add_argument("--longest", type=int, default=200, help="Largest number of residues of a protein.")
    parser.add_argument("--nodes", type=int, default=2, help="Number of nodes besides the head.")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # on a busy machine
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random_fasta(folder / "proteins.fasta", arguments.proteins, longest=arguments.longest)
        request = Request(
            str(folder / "proteins.fasta"), folder / "out", pooling="mean", precision="fp32", device="cpu"
        )
        plain = replace(request, output=folder / "plain.h5")
        cluster = Cluster(arguments.nodes)
        try:
            if arguments.what == "memory":
                print(run_memory(request, cluster))
            elif arguments.what == "overhead":
                print(run_overhead(request, plain, arguments.nodes))
            else:
                print((run_kill if arguments.what == "kill" else run_load)(request, cluster))
                run(plain, Listener())
            if plain.output.exists():
                print(f"largest difference from a run without Ray: {compare(request.output, plain.output):.1e}")
        finally:
            cluster.close()


if __name__ == "__main__":
    main()
