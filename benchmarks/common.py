"""Helpers that several benchmarks share: measuring time and memory, printing tables, generating input files.

PyTorch is imported only by the functions that need it, because some benchmarks measure the memory of their own process.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prott5nv.model.tokenizer import RESIDUES

if TYPE_CHECKING:
    import torch

    from prott5nv import ModelConfig

AMINO_ACIDS = RESIDUES[:20]
MATMUL_ROWS = 2048

# BLOSUM62 (Henikoff and Henikoff 1992): the score of each wild-type residue and mutant residue.
BLOSUM62 = {
    row[0]: dict(zip("ARNDCQEGHILKMFPSTWYV", map(int, row[1:].split()), strict=True))
    for row in """\
A  4 -1 -2 -2  0 -1 -1  0 -2 -1 -1 -1 -1 -2 -1  1  0 -3 -2  0
R -1  5  0 -2 -3  1  0 -2  0 -3 -2  2 -1 -3 -2 -1 -1 -3 -2 -3
N -2  0  6  1 -3  0  0  0  1 -3 -3  0 -2 -3 -2  1  0 -4 -2 -3
D -2 -2  1  6 -3  0  2 -1 -1 -3 -4 -1 -3 -3 -1  0 -1 -4 -3 -3
C  0 -3 -3 -3  9 -3 -4 -3 -3 -1 -1 -3 -1 -2 -3 -1 -1 -2 -2 -1
Q -1  1  0  0 -3  5  2 -2  0 -3 -2  1  0 -3 -1  0 -1 -2 -1 -2
E -1  0  0  2 -4  2  5 -2  0 -3 -3  1 -2 -3 -1  0 -1 -3 -2 -2
G  0 -2  0 -1 -3 -2 -2  6 -2 -4 -4 -2 -3 -3 -2  0 -2 -2 -3 -3
H -2  0  1 -1 -3  0  0 -2  8 -3 -3 -1 -2 -1 -2 -1 -2 -2  2 -3
I -1 -3 -3 -3 -1 -3 -3 -4 -3  4  2 -3  1  0 -3 -2 -1 -3 -1  3
L -1 -2 -3 -4 -1 -2 -3 -4 -3  2  4 -2  2  0 -3 -2 -1 -2 -1  1
K -1  2  0 -1 -3  1  1 -2 -1 -3 -2  5 -1 -3 -1  0 -1 -3 -2 -2
M -1 -1 -2 -3 -1  0 -2 -3 -2  1  2 -1  5  0 -2 -1 -1 -1 -1  1
F -2 -3 -3 -3 -2 -3 -3 -3 -1  0  0 -3  0  6 -4 -2 -2  1  3 -1
P -1 -2 -2 -1 -3 -1 -1 -2 -2 -3 -3 -1 -2 -4  7 -1 -1 -4 -3 -2
S  1 -1  1  0 -1  0  0  0 -1 -2 -2  0 -1 -2 -1  4  1 -3 -2 -2
T  0 -1  0 -1 -1 -1 -1 -2 -2 -1 -1 -1 -1 -2 -1  1  5 -2 -2  0
W -3 -3 -4 -4 -2 -2 -3 -2 -2 -3 -2 -3 -1  1 -4 -3 -2 11  2 -3
Y -2 -2 -2 -3 -2 -1 -2 -3  2 -1 -1 -2 -1  3 -3 -2 -2  2  7 -1
V  0 -3 -3 -3 -1 -2 -2 -3 -3  3  1 -2  1 -1 -2 -2  0 -3 -1  4""".splitlines()
}


class ProcessUsage(NamedTuple):
    """Resources that a finished process used.

    Attributes
    ----------
    seconds, cpu_seconds : float
        Wall-clock time, and CPU time of all threads.
    peak_mib : float
        Peak resident memory. The kernel counts from the size of the process that started it, so this is a meaningful
        number only if the child grows larger than its parent.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float


def digital_sequences(sequences: Iterable[str]) -> Any:
    """Return proteins as pyhmmer searches them, each with its number, counted from 0, as its name."""
    import pyhmmer

    alphabet = pyhmmer.easel.Alphabet.amino()
    texts = [pyhmmer.easel.TextSequence(name=b"%d" % i, sequence=each) for i, each in enumerate(sequences)]
    return pyhmmer.easel.DigitalSequenceBlock(alphabet, [text.digitize(alphabet) for text in texts])


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Create a parser whose help shows the benchmark's docstring with its line breaks."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table; each row appears as soon as `rows` yields it."""
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def describe_machine(device: str | torch.device = "cpu") -> str:
    """Name the GPU, or the number of CPU threads, and the version of PyTorch."""
    import torch

    device = torch.device(device)
    cpu = f"CPU, number of threads: {torch.get_num_threads()}"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return f"{name}, PyTorch {torch.__version__}"


def time_second_call(work: Callable[[], object], calls: int = 1) -> float:
    """Call a function once to warm up, and then `calls` times; return the median of the seconds of these calls."""
    work()
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def matmul_rate(encoder: torch.nn.Module) -> float:
    """Measure this CPU's matmul rate on the shapes of one encoder layer.

    Parameters
    ----------
    encoder : Module
        Stack with the attribute ``layers``.

    Returns
    -------
    float
        Operations per second of the layer's linear maps on 2,048 rows, in bf16 if the CPU has instructions for it and
        in fp32 otherwise; the best of three attempts.
    """
    import torch

    from prott5nv.model.device import choose_hardware

    dtype = choose_hardware("cpu").dtype
    modules = next(encoder.get_submodule("layers").children()).modules()
    shapes = [(module.in_features, module.out_features) for module in modules if isinstance(module, torch.nn.Linear)]
    layers = [torch.nn.Linear(width, height, dtype=dtype) for width, height in shapes]
    inputs = [torch.randn(MATMUL_ROWS, layer.in_features, dtype=dtype) for layer in layers]

    def multiply() -> None:
        for layer, x_TD in zip(layers, inputs, strict=True):
            layer(x_TD)

    best = min(time_second_call(multiply) for _ in range(3))
    return 2 * MATMUL_ROWS * sum(layer.weight.numel() for layer in layers) / best


def peak_mib() -> float:
    """Peak resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS counts bytes, Linux KiB


def run_process(command: Sequence[str | Path]) -> ProcessUsage:
    """Run a command and measure it. Its output is shown only if it fails.

    Parameters
    ----------
    command : sequence of str or Path

    Returns
    -------
    ProcessUsage

    Raises
    ------
    SystemExit
        If the command fails.
    """
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            errors.seek(0)
            output = errors.read().decode(errors="replace")
            raise SystemExit(f"{output}error: this command failed: {' '.join(map(str, command))}")
    return ProcessUsage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def save_random_model(path: Path, config: ModelConfig) -> Path:
    """Write a checkpoint with random weights."""
    from prott5nv import ProtT5
    from prott5nv.checkpoint import save_nemo

    model = ProtT5(config)
    save_nemo(path, model.config, model.state_dict())
    return path


def write_random_fasta(path: Path, proteins: int, longest: int = 200) -> None:
    """Write random proteins of 20 to `longest` residues; the same ones in every call."""
    rng = random.Random(0)
    with open(path, "w") as file:
        for number in range(proteins):
            file.write(f">sp|Q{number:07}|R_TEST\n{''.join(rng.choices(AMINO_ACIDS, k=rng.randint(20, longest)))}\n")


def tar_members(path: Path) -> dict[str, bytes]:
    """Read the regular files of a tar archive, by name and in order."""
    members = {}
    with tarfile.open(path) as tar:
        for header in tar:
            if content := tar.extractfile(header):
                members[header.name] = content.read()
    return members
