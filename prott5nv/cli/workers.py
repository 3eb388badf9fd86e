"""``--workers N``: one process per shard on this machine, and one file at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from prott5nv.embedding.formats import skipped_listing, workers_folder
from prott5nv.errors import ProtT5nvError

EXIT_SKIPPED = 3
_ERROR = "error: "


def embed_with_workers(
    source: str, output: Path, workers: int, device: str, options: Mapping[str, str | bool | None]
) -> tuple[int, int]:
    """Embed with many processes; each shard resumes by itself when the command is given again.

    Parameters
    ----------
    source : str
        The input file.
    output : Path
        What a single process would have written; shards are kept in ``<output>.workers/`` until it is complete.
    workers : int
        Processes. On CUDA they take the GPUs in turn, on a CPU they share its threads.
    device : str
        As for ``prott5nv embed``.
    options : mapping
        Further options of ``prott5nv embed``, None where not given, True for one without a value.

    Returns
    -------
    proteins : int
    code : int
        0, or the exit code for skipped proteins; lists of these are joined in ``<output>.skipped.tsv``.

    Raises
    ------
    ProtT5nvError
        If a worker fails, with what went wrong; a mistake that all of them met is said once.
    """
    import torch

    from prott5nv.embedding.merge import merge

    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    # A worker's share of the threads keeps them from fighting for cores.
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // workers))}
    given = [name if value is True else f"{name}={value}" for name, value in options.items() if value is not None]
    folder = workers_folder(output)
    folder.mkdir(exist_ok=True)
    shards = [folder / f"{number}-of-{workers}.h5" for number in range(1, workers + 1)]
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", __name__, source, "-o", shard, *given),
                *("--shard", f"{number}/{workers}"),
                *("--device", f"cuda:{number % gpus}" if gpus else device),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,  # a line or two, so that it never fills
            text=True,
            # Each bar on a line of its own.
            env={**environment, "TQDM_POSITION": str(number - 1), "TQDM_DESC": f"worker {number}"},
            start_new_session=True,  # a terminal's Ctrl-C is for this process, which ends the workers
        )
        for number, shard in enumerate(shards, 1)
    ]
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.stdin.close()
        for process in processes:
            process.wait()
    failed = [
        f"{number} ({f'killed by signal {-code}' if code < 0 else f'exit code {code}'})"
        for number, code in enumerate(codes, 1)
        if code not in (0, EXIT_SKIPPED)
    ]
    if failed:
        said = dict.fromkeys(line for process in processes for line in process.stdout if line.startswith(_ERROR))
        raise ProtT5nvError(
            "".join(f"{line.removeprefix(_ERROR).strip()}; " for line in said)
            + f"worker {', '.join(failed)} of {workers} failed; what is done is safe in {folder}: "
            "give the same command again to go on"
        )
    _join_listings([skipped_listing(shard) for shard in shards], skipped_listing(output))
    proteins = merge(shards, output)
    shutil.rmtree(folder)
    return proteins, max(codes)


def _join_listings(parts: list[Path], listing: Path) -> None:
    """One table of skipped proteins from those of the shards that have one."""
    listing.unlink(missing_ok=True)
    for part in filter(Path.exists, parts):
        lines = part.read_text(encoding="utf-8").splitlines(keepends=True)
        with open(listing, "a", encoding="utf-8", newline="") as file:
            file.writelines(lines[file.tell() > 0 :])  # one header line


def _end_with_parent() -> None:
    """End this process when the one that started it has closed its end of the pipe, or died."""
    os.read(0, 1)
    os._exit(1)  # at once and without a word: what is done is as safe as after a kill


if __name__ == "__main__":
    from prott5nv.cli import command

    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        command(["embed", *sys.argv[1:]])
    except ProtT5nvError as mistake:
        print(f"{_ERROR}{mistake}")
        sys.exit(2)
