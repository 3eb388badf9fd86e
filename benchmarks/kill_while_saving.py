"""Kill a process with SIGKILL while it saves checkpoints and check that pretraining could always resume.

    python benchmarks/kill_while_saving.py --kills 20

Each time a process writes checkpoints without a pause and deletes superseded ones, as pretraining does. It is killed at
a random moment after its first save. The newest checkpoint must then be complete, hold the values of its step, and be
no older than the last save that was reported as done.
"""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from common import argument_parser

from prott5nv.pretraining.checkpoint_files import checkpoint_name, find_checkpoint, superseded, write_checkpoint


def save_until_killed(folder: Path, step: int, values: int, saved: Connection) -> None:
    """Write one checkpoint after the other and send the step of each through `saved` once it is written."""
    while True:
        step += 1
        write_checkpoint({"step": step, "weights": torch.full((values,), step)}, folder / checkpoint_name(step, 20.0))
        saved.send(step)
        for old in superseded(folder, keep_best=1, step=step):
            old.unlink(missing_ok=True)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--kills", type=int, default=20, help="Number of kills.")
    parser.add_argument("--mib", type=int, default=64, help="Size of a checkpoint in MiB.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the random moments.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # PyTorch's threads do not survive the fork
    rng = random.Random(arguments.seed)
    context = multiprocessing.get_context("fork")
    half_written = step = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kill in range(1, arguments.kills + 1):
            receiver, sender = context.Pipe(duplex=False)
            values = arguments.mib * 2**17  # int64
            process = context.Process(target=save_until_killed, args=(folder, step, values, sender))
            began = time.perf_counter()
            process.start()
            reported = receiver.recv()
            time.sleep(rng.uniform(0, 2 * (time.perf_counter() - began)))
            process.kill()
            process.join()
            while receiver.poll():
                reported = receiver.recv()
            half_written += any(folder.glob(".prott5nv-*"))  # the work folder of a killed write
            newest = find_checkpoint(folder)
            assert newest is not None, f"kill {kill}: there is no checkpoint to resume from"
            checkpoint = torch.load(newest, weights_only=True)
            step = checkpoint["step"]
            assert step >= reported, f"kill {kill}: the newest checkpoint is of step {step}, but {reported} was saved"
            assert (checkpoint["weights"] == step).all(), f"kill {kill}: {newest} holds the values of another step"
    print(f"{arguments.kills} of {arguments.kills} killed runs can go on; {half_written} were killed within a file")


if __name__ == "__main__":
    main()
