"""Kill a run with SIGKILL while it saves, many times, and see whether it can always go on.

    python benchmarks/kill_while_saving.py --kills 20

Each time a process writes checkpoints without a pause, thinning out as pretraining does, and is killed at a random
moment after its first save. What is found afterwards must be whole, hold the values of its step and be no older than
the last save that was reported done.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
from pathlib import Path

import torch

from prott5nv.pretraining.checkpoint_files import checkpoint_name, find_checkpoint, superseded, write_checkpoint


def save_for_ever(folder: Path, step: int, values: int, saved) -> None:
    while True:
        step += 1
        write_checkpoint({"step": step, "weights": torch.full((values,), step)}, folder / checkpoint_name(step, 20.0))
        saved.send(step)
        for old in superseded(folder, keep_best=1):
            old.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--mib", type=int, default=64, help="size of a checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # PyTorch's threads do not survive the fork
    draw = random.Random(arguments.seed)
    context = multiprocessing.get_context("fork")
    half_written = step = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kill in range(1, arguments.kills + 1):
            receiver, sender = context.Pipe(duplex=False)
            values = arguments.mib * 2**17  # int64
            process = context.Process(target=save_for_ever, args=(folder, step, values, sender))
            began = time.perf_counter()
            process.start()
            reported = receiver.recv()
            time.sleep(draw.uniform(0, 2 * (time.perf_counter() - began)))
            process.kill()
            process.join()
            while receiver.poll():
                reported = receiver.recv()
            half_written += len(list(folder.glob("*.partial")))
            found = find_checkpoint(folder, warn=print)
            assert found is not None, f"kill {kill}: nothing to resume from"
            checkpoint = torch.load(found, weights_only=True)
            step = checkpoint["step"]
            assert step >= reported, f"kill {kill}: step {reported} was reported saved, step {step} is what is left"
            assert (checkpoint["weights"] == step).all(), f"kill {kill}: {found} holds other values"
    print(f"{arguments.kills} of {arguments.kills} killed runs can go on; {half_written} were killed in mid-file")


if __name__ == "__main__":
    main()
