"""Embedding of one file by several processes on this machine: each embeds one shard, and the shards are merged.

Worker processes are spawned. Each sends the calls of its listener through a pipe to this process, and its result or
error as the last message. Importing this module imports no PyTorch, so that a worker can limit its threads first.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from prott5nv.embedding.formats import workers_folder
from prott5nv.embedding.partial import OF_WORKERS, check_own, remove
from prott5nv.embedding.run import Listener, Request, run
from prott5nv.errors import ProtT5nvError
from prott5nv.extras import load_extensions
from prott5nv.model.onednn import limit_onednn_cache

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from prott5nv.embedding.job import Summary
    from prott5nv.embedding.survey import Survey

CONTEXT = multiprocessing.get_context("spawn")
_SECONDS_BETWEEN_PROGRESS = 0.1


class _Failure(NamedTuple):
    """The last message of a worker that failed.

    Attributes
    ----------
    message : str
        Text of an error that the user can correct, or the traceback of any other.
    expected : bool
        Whether the user can correct the error.
    """

    message: str
    expected: bool


@dataclass
class _Worker:
    """A worker process, as the parent process knows it.

    Attributes
    ----------
    number : int
        Number of its shard, counted from 1.
    residues : int
        Number of finished residues that have not been reported to the listener.
    """

    number: int
    process: SpawnProcess
    receiver: Connection
    survey: Survey | None = None
    residues: int = 0
    result: Summary | _Failure | None = None
    ended: bool = False

    def failure(self) -> str | None:
        """Return the number of a failed worker and, if it died without a message, how; None if it succeeded."""
        code = self.process.exitcode
        if isinstance(self.result, _Failure):
            return str(self.number)
        if self.result is not None and code == 0:
            return None
        cause = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"{self.number} ({cause})"


def run_with_workers(request: Request, workers: int, listener: Listener) -> Summary:
    """Embed a file with several processes. After an interruption, the same call continues where it stopped.

    Parameters
    ----------
    request : Request
        Input, output and options. Until the output is complete, shards are kept in ``<output>.workers/``.
    workers : int
        Number of processes. On CUDA they use the GPUs in turn; on a CPU they divide its threads among them.
    listener : Listener
        Receives the progress of all workers together.

    Returns
    -------
    Summary
        The sums over all workers.

    Raises
    ------
    ProtT5nvError
        If a worker fails. Other workers finish first. If several workers raise the same error, it is reported
        once.
    RuntimeError
        If a worker fails with an error that the user cannot correct; the message holds its traceback.
    KeyboardInterrupt
        After Ctrl-C, when all workers have ended.

    Notes
    -----
    A worker imports the main module of the program, as all processes that Python spawns do. A script that calls this
    function therefore needs ``if __name__ == "__main__":`` around the call.
    """
    from prott5nv.checkpoint.hub import download, is_hub_name
    from prott5nv.embedding.job import Summary
    from prott5nv.embedding.merge import merge

    if request.model is not None and is_hub_name(request.model):
        request = replace(request, model=download(request.model).name)  # All workers open the same version.
    folder = workers_folder(request.output)
    check_own(folder, OF_WORKERS)
    folder.mkdir(exist_ok=True)
    shards = [folder / f"{number}-of-{workers}.h5" for number in range(1, workers + 1)]
    running: list[_Worker] = []
    try:
        _start(request, shards, running)
        _listen(running, listener)
        for worker in running:
            worker.process.join()
    finally:
        for worker in running:
            worker.process.kill()
            worker.process.join()
            worker.receiver.close()
    _raise_failures(running, folder)
    summaries = [worker.result for worker in running if isinstance(worker.result, Summary)]
    merged = merge(shards, request.output, overwrite=request.overwrite)
    remove(folder)
    return Summary(
        merged.proteins,
        sum(summary.residues for summary in summaries),
        resumed=sum(summary.resumed for summary in summaries),
        skipped=merged.skipped,
        seconds=sum(summary.seconds for summary in summaries),
        seconds_writing=sum(summary.seconds_writing for summary in summaries),
    )


def _start(request: Request, shards: list[Path], running: list[_Worker]) -> None:
    """Start one process for each shard and add it to `running`."""
    import torch

    count = len(shards)
    gpus = torch.cuda.device_count() if request.device in ("auto", "cuda") else 0
    threads = max(1, torch.get_num_threads() // count)
    # A process that is started holds back Ctrl-C for its whole life, because it inherits this state. Starting Python's
    # resource tracker ends the state in this process, so it is started before.
    resource_tracker.ensure_running()
    with _interrupt_held_back():
        for number, shard in enumerate(shards, 1):
            device = f"cuda:{(number - 1) % gpus}" if gpus else request.device
            receiver, sender = CONTEXT.Pipe(duplex=False)
            # A shard that an interrupted run has finished is kept, also with --overwrite.
            job = replace(request, output=shard, shard=(number, count), device=device, overwrite=False)
            process = CONTEXT.Process(target=_work, args=(job, threads, sender), name=f"prott5nv worker {number}")
            process.start()
            sender.close()  # The worker has its own copy. With this one open, its end would go unnoticed.
            running.append(_Worker(number, process, receiver))


def _listen(running: list[_Worker], listener: Listener) -> None:
    """Pass the messages of workers to the listener until all have ended. Surveys and progress are added up."""
    told = compiling = False
    descriptions, texts = set(), set()
    while active := {worker.receiver: worker for worker in running if not worker.ended}:
        for receiver in connection.wait(list(active)):
            worker = active[receiver]  # type: ignore[index]  # `wait` returns the objects that it was given
            try:
                name, value = worker.receiver.recv()
            except (EOFError, OSError):  # The worker has ended, or was killed within a message.
                worker.ended = True
                continue
            if name == "start" and value not in descriptions:
                descriptions.add(value)
                listener.on_start(*value)
            elif name == "warning" and value not in texts:
                texts.add(value)
                listener.on_warning(value)
            elif name == "survey":
                worker.survey = value
            elif name == "compile" and not compiling:
                compiling = True
                listener.on_compile()
            elif name == "progress":
                worker.residues += value
            elif name == "result":
                worker.result = value
        if not told and all(worker.survey or worker.result or worker.ended for worker in running):
            told = True
            _tell_survey(running, listener)
        if told and (residues := sum(worker.residues for worker in running)):
            listener.on_progress(residues)
            for worker in running:
                worker.residues = 0


def _tell_survey(running: list[_Worker], listener: Listener) -> None:
    from prott5nv.embedding.survey import Survey

    total = Survey()
    for worker in running:
        if worker.survey:
            total.add(worker.survey)
    if total.proteins:
        listener.on_survey(total)


def _raise_failures(running: list[_Worker], folder: Path) -> None:
    failed = [description for worker in running if (description := worker.failure())]
    if not failed:
        return
    failures = [worker.result for worker in running if isinstance(worker.result, _Failure)]
    summary = (
        f"worker {', '.join(failed)} of {len(running)} failed; finished proteins are safe in {folder}: "
        "give the same command again to continue"
    )
    for failure in failures:
        if not failure.expected:
            raise RuntimeError(f"{summary}\n\n{failure.message}")
    messages = dict.fromkeys(failure.message for failure in failures)
    raise ProtT5nvError("; ".join([*messages, summary]))


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Delay Ctrl-C until the block ends. Windows does not offer this."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Sender(Listener):
    """Sends the calls of a listener, and the result of the run, to the parent process."""

    def __init__(self, sender: Connection) -> None:
        self._sender = sender
        self._residues = 0
        self._sent_at = 0.0

    def on_start(self, model: str, hardware: str) -> None:
        self._send("start", (model, hardware))

    def on_survey(self, survey: Survey) -> None:
        self._send("survey", survey)

    def on_compile(self) -> None:
        self._send("compile", None)

    def on_progress(self, residues: int) -> None:
        self._residues += residues
        if monotonic() - self._sent_at > _SECONDS_BETWEEN_PROGRESS:
            self._send_progress()

    def on_warning(self, message: str) -> None:
        self._send("warning", message)

    def finish(self, result: Summary | _Failure) -> None:
        """Send the last message."""
        self._send_progress()
        self._send("result", result)

    def _send_progress(self) -> None:
        self._send("progress", self._residues)
        self._residues = 0
        self._sent_at = monotonic()

    def _send(self, name: str, value: object) -> None:
        try:
            self._sender.send((name, value))
        except BrokenPipeError:
            os._exit(1)  # The parent process has died.


def _work(request: Request, threads: int, connection_to_parent: Connection) -> None:
    """Embed one shard; the main function of a worker process."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    limit_onednn_cache()
    sender = _Sender(connection_to_parent)
    try:
        import torch

        load_extensions()  # This process has none of the poolings that were registered in its parent.
        torch.set_num_threads(threads)  # OMP_NUM_THREADS comes too late if the user's main module imports PyTorch.
        sender.finish(run(request, sender))
    except ProtT5nvError as error:
        sender.finish(_Failure(str(error), expected=True))
    except OSError as error:
        sender.finish(_Failure(f"{request.output}: {error.strerror or error}", expected=True))
    except Exception:
        sender.finish(_Failure(traceback.format_exc(), expected=False))


def _exit_with_parent() -> None:
    """End this process when its parent ends or is killed. Committed proteins are safe."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
