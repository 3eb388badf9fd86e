"""Run every command on a disk that becomes full, or kill it, and check how it ends.

A first run without a limit gives the expected output. In each attempt, the command runs in a process of its own:

- *disk*: no file may become larger than a limit, as on a full disk. The command must end with exit code 2 and one line,
  and its outputs must be absent, or complete.
- *kill*: SIGKILL at moments that are spread over the run. The outputs must be absent, or complete.
- *rename*: SIGKILL directly after each file or folder gets its name.

Then the command is given again. It must end with exit code 0 and the expected output. If it was killed when its outputs
were complete, and only their names were missing, it may also give them their names and report that they exist.
"""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutants import TRACEBACK, Outcome
from tqdm import tqdm

from prott5nv import EmbeddingStore, ModelConfig, ProtT5
from prott5nv.checkpoint import save_nemo

_LETTERS = "ACDEFGHIKLMNPQRSTVWY"
_PROTEINS = 40
_PATIENCE = 300  # seconds after which a command hangs
KILLED = "complete after a kill and a second start"
FULL = "one line on a full disk, complete after a second start"
RENAMED = "complete after a kill at a new name and a second start"
LATE = "complete before the disk was full or the kill came"


@dataclass(frozen=True)
class Command:
    """A command to attack.

    Attributes
    ----------
    arguments : tuple of str
        Its command line. ``{in}`` is the folder of the inputs, ``{out}`` that of the outputs.
    outputs : tuple of str
        Its outputs, all in ``{out}``.
    copied : tuple of str
        Inputs that must be in ``{out}``. They are copied from ``{in}`` before each attempt.
    """

    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    copied: tuple[str, ...] = ()


COMMANDS = {
    "embed": Command(("embed", "{in}/p.fasta", "-o", "{out}/e.h5", "--model", "{in}/m.nemo"), ("e.h5",)),
    "embed --pooling": Command(
        ("embed", "{in}/p.fasta", "-o", "{out}/e.npz", "--model", "{in}/m.nemo", "--pooling", "mean"), ("e.npz",)
    ),
    "merge": Command(("merge", "{out}/all.h5", "{in}/1.h5", "{in}/2.h5"), ("all.h5",)),
    "plot html": Command(("plot", "{in}/1.h5", "-o", "{out}/plot.html"), ("plot.html",)),
    "plot png": Command(("plot", "{in}/1.h5", "-o", "{out}/plot.png"), ("plot.png",)),
    "score": Command(
        ("score", "{in}/p.fasta", "-o", "{out}/s.csv", "--model", "{in}/m.nemo", "--perplexity"), ("s.csv",)
    ),
    "score --table": Command(
        (
            *("score", "{in}/p.fasta", "--protein", "P00000", "--mutations", "all", "--model", "{in}/m.nemo"),
            *("-o", "{out}/s.csv", "--table", "{out}/matrix.csv", "--plot", "{out}/map.html"),
        ),
        ("s.csv", "matrix.csv", "map.html"),
    ),
    "fill": Command(
        ("fill", "{in}/p.fasta", "--mask", "3-9", "-n", "3", "-o", "{out}/f.csv", "--model", "{in}/m.nemo"), ("f.csv",)
    ),
    "convert hf": Command(("convert", "{in}/m.nemo", "--to", "hf", "{out}/hf"), ("hf",)),
    "convert nemo": Command(("convert", "{in}/hf", "--to", "nemo", "{out}/m.nemo"), ("m.nemo",)),
    "prepare uniref50": Command(
        ("prepare", "uniref50", "{in}/p.fasta", "-o", "{out}/data", "--val", "3", "--test", "3"), ("data",)
    ),
    "prepare flip": Command(
        ("prepare", "flip", "meltome", "--from", "{in}/flip", "-o", "{out}/flip"), ("flip/meltome",)
    ),
    "prepare fasta": Command(
        (
            *("prepare", "fasta", "{in}/labelled.fasta", "-o", "{out}/own.csv", "--level", "protein"),
            *("--label", "number"),
        ),
        ("own.csv",),
    ),
    "search": Command(
        ("search", "{in}/p.fasta", "--in", "{in}/1.h5", "--model", "{in}/m.nemo", "-o", "{out}/near.csv"), ("near.csv",)
    ),
    "pretrain": Command(
        (
            *("pretrain", "model=tiny", "model.data.dataset_path={in}/data", "exp_manager.exp_dir={out}", "name=run"),
            *("model.num_layers=1", "model.decoder_num_layers=1", "model.data.num_workers=0"),
            *("model.global_batch_size=4", "model.micro_batch_size=4"),
            *("trainer.max_steps=12", "trainer.val_check_interval=3", "trainer.limit_val_batches=1"),
        ),
        ("run/run.nemo",),
    ),
    "finetune": Command(
        (
            *("finetune", "{in}/own.csv", "--level", "protein", "--label", "number", "--model", "{in}/m.nemo"),
            *("-o", "{out}/run", "cache_dir={out}/cache", "seeds=[1]", "task.training.epochs=1", "baselines=false"),
        ),
        ("run",),
    ),
    "predict": Command(("predict", "{in}/run", "{in}/p.fasta", "-o", "{out}/pred.csv"), ("pred.csv",)),
    "report": Command(
        ("report", "{out}/run"), tuple(f"run/report.{kind}" for kind in ("html", "json", "md", "png")), ("run",)
    ),
}  # fmt: skip


def write_inputs(folder: Path, *, predictor: bool = True) -> None:
    """Write what all commands read; the predictor, which only ``predict`` reads, takes some seconds."""
    rng = random.Random(0)
    sequences = ["".join(rng.choices(_LETTERS, k=rng.randint(20, 60))) for _ in range(_PROTEINS)]
    (folder / "p.fasta").write_text("".join(f">P{n:05}\n{s}\n" for n, s in enumerate(sequences)))
    sets = ("train", "val", "test")
    labelled = (f">P{n:05} SET={sets[n % 3]} TARGET={n}\n{s}\n" for n, s in enumerate(sequences))
    (folder / "labelled.fasta").write_text("".join(labelled))
    rows = [f"{s},{n},{sets[n % 3]}" for n, s in enumerate(sequences)]
    (folder / "own.csv").write_text("\n".join(["sequence,target,set", *rows]))
    (folder / "flip").mkdir()
    (folder / "flip" / "mixed_split.csv").write_text("\n".join(["sequence,target,set", *rows]))
    torch.manual_seed(0)
    model = ProtT5(ModelConfig(num_layers=1, hidden_size=32, ffn_hidden_size=32, num_attention_heads=2))
    save_nemo(folder / "m.nemo", model.config, model.state_dict())
    for number in ("1", "2"):
        shard = ["-o", f"{folder}/{number}.h5", "--shard", f"{number}/2"]
        _run(["embed", f"{folder}/p.fasta", "--model", f"{folder}/m.nemo", *shard])
    _run(["convert", f"{folder}/m.nemo", "--to", "hf", f"{folder}/hf"])
    _run(["prepare", "uniref50", f"{folder}/p.fasta", "-o", f"{folder}/data", "--val", "3", "--test", "3"])
    if predictor:
        places = {"{in}": str(folder), "{out}": str(folder)}
        _run([_filled(text, places) for text in COMMANDS["finetune"].arguments])


def _filled(text: str, places: dict[str, str]) -> str:
    """Replace ``{in}`` and ``{out}``."""
    for name, path in places.items():
        text = text.replace(name, path)
    return text


def _run(arguments: list[str]) -> None:
    """Run a command in this process."""
    from prott5nv.cli import main

    try:
        main(arguments)
    except SystemExit as ending:
        if ending.code:
            raise


def contents(path: Path) -> Any:
    """Return everything in an output except durations, times and paths."""
    if path.is_dir():
        return {str(file.relative_to(path)): contents(file) for file in sorted(path.rglob("*")) if file.is_file()}
    if path.suffix == ".h5":
        with EmbeddingStore(path) as store:
            return store.attributes, [(k, r.tobytes(), store.original_id(k)) for k, r in store.items()]
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    if path.name in ("result.json", "mixed_split.json", "provenance.json"):
        return len(path.read_bytes()) > 100
    return path.read_bytes()


def _die_at_rename(number: int) -> None:
    """Kill this process when it has renamed something this number of times."""
    counter = itertools.count(1)

    def dying(rename: Callable[..., None]) -> Callable[..., None]:
        def renamed(*arguments: Any, **options: Any) -> None:
            rename(*arguments, **options)
            if next(counter) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        return renamed

    os.rename, os.replace = dying(os.rename), dying(os.replace)


def run_command(
    arguments: list[str], *, limit: int | None = None, seconds: float | None = None, rename: int | None = None
) -> tuple[int | None, str]:
    """Run a command in a forked process.

    Parameters
    ----------
    arguments : list of str
        Its command line without the name of the program.
    limit : int, optional
        Number of bytes that no file may exceed.
    seconds : float, optional
        Time after which the process is killed.
    rename : int, optional
        The process is killed when it has renamed something this number of times.

    Returns
    -------
    exit_code : int or None
    errors : str
        What it wrote to standard error.
    """
    reading, writing = os.pipe()  # a file would be limited, too

    def target() -> None:
        os.close(reading)
        os.dup2(writing, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if rename is not None:
            _die_at_rename(rename)
        # A process that is killed may hold the lock that tqdm shares with forked processes.
        tqdm.set_lock(threading.RLock())
        _run(arguments)

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    os.close(writing)
    chunks: list[bytes] = []

    def read() -> None:
        with open(reading, "rb") as stream:
            chunks.append(stream.read())

    reader = threading.Thread(target=read)
    reader.start()
    process.join(_PATIENCE if seconds is None else seconds)
    if process.is_alive():
        process.kill()
        process.join()
    reader.join()
    return process.exitcode, b"".join(chunks).decode(errors="replace")


def attack_command(name: str, inputs: Path, work: Path, kills: int, sizes: int, seed: int) -> Outcome:
    """Run one command on full disks, kill it at random moments, and kill it at each of its renames.

    Parameters
    ----------
    name : str
        A key of `COMMANDS`.
    inputs : Path
        Folder that `write_inputs` has filled.
    work : Path
        Empty folder.
    kills, sizes, seed : int
        Number of kills and of sizes of the disk, and the seed of the moments of the kills.

    Returns
    -------
    Outcome
    """
    command, outcome, rng = COMMANDS[name], Outcome(), random.Random(seed)
    if command.arguments[0] == "pretrain":  # NeMo takes much longer to import than the command to run
        importlib.import_module("prott5nv.pretraining.trainer")
    output = work / "out"
    arguments = [_filled(text, {"{in}": str(inputs), "{out}": str(output)}) for text in command.arguments]

    def state() -> list[Any]:
        return [contents(output / path) if (output / path).exists() else None for path in command.outputs]

    def fresh() -> float:
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        for copied in command.copied:
            shutil.copytree(inputs / copied, output / copied)
        return time.perf_counter()

    def check(label: str, began: float) -> None:
        """Check what the attack left, and give the command again."""
        left = state()
        wrong = [
            path
            for path, found, right in zip(command.outputs, left, expected, strict=True)
            if found not in (None, right)
        ]
        restarted = time.perf_counter()
        exit_code, errors = (0, "") if left == expected else run_command(arguments)
        if left != expected and label == FULL:
            durations.append(time.perf_counter() - restarted)
        if label != FULL and exit_code == 2 and "completed the output of a command that was killed" in errors:
            exit_code = 0
        if wrong or exit_code or state() != expected:
            detail = f"wrong outputs: {wrong}; exit code of the second start: {exit_code}: {errors[-500:]}"
            outcome.add(name, TRACEBACK, detail, time.perf_counter() - began)
        else:
            outcome.add(name, LATE if left == expected else label, "", time.perf_counter() - began)

    expected: list[Any] = []
    durations: list[float] = []  # of undisturbed runs; the shortest one depends least on other programs
    for _ in range(2):
        began = fresh()
        exit_code, errors = run_command(arguments)
        durations.append(time.perf_counter() - began)
        if exit_code or None in state() or state() != (expected or state()):
            detail = f"without an attack: exit code {exit_code}: {errors[-500:]}"
            outcome.add(name, TRACEBACK, detail, durations[-1])
            return outcome
        expected = state()
    largest = max(file.stat().st_size for file in output.rglob("*") if file.is_file())
    for number in range(sizes):
        limit = largest * number // sizes
        began = fresh()
        exit_code, errors = run_command(arguments, limit=limit)
        lines = [line for line in errors.splitlines() if "prott5nv: error:" in line]
        if exit_code and (exit_code != 2 or len(lines) != 1 or "Traceback" in errors):
            detail = f"limit of {limit:,} bytes: exit code {exit_code}: {errors[-500:]}"
            outcome.add(name, TRACEBACK, detail, time.perf_counter() - began)
        else:
            check(FULL, began)
    for number in range(kills):
        began = fresh()
        run_command(arguments, seconds=(number + rng.random()) / kills * min(durations))
        check(KILLED, began)
    for number in itertools.count(1):
        began = fresh()
        if run_command(arguments, rename=number)[0] == 0:
            break
        check(RENAMED, began)
    return outcome


def attack_all(
    folder: Path,
    commands: Iterable[str],
    kills: int,
    sizes: int,
    seed: int,
    report: Callable[[str, Outcome], None],
) -> None:
    """Attack commands, which are keys of `COMMANDS`, and report the outcome of each."""
    torch.set_num_threads(1)  # PyTorch's threads do not survive the fork
    inputs = folder / "inputs"
    inputs.mkdir()
    write_inputs(inputs)
    for name in commands:
        work = folder / name.replace(" ", "-")
        work.mkdir()
        report(name, attack_command(name, inputs, work, kills, sizes, seed))
