"""``--workers N``: one process per shard on this machine, and one file at the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from prott5nv.errors import ProtT5nvError

EXIT_SKIPPED = 3


def embed_with_workers(
    source: str, output: Path, workers: int, device: str, options: Mapping[str, str | None]
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
        Further options of ``prott5nv embed``, None where not given.

    Returns
    -------
    proteins : int
    code : int
        0, or the exit code for skipped proteins; lists of these are joined in ``<output>.skipped.tsv``.

    Raises
    ------
    ProtT5nvError
        If a worker fails; what went wrong stands on standard error.
    """
    import torch

    from prott5nv.io.merge import merge

    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    # A worker's share of the threads keeps them from fighting for cores.
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // workers))}
    given = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    folder = output.with_name(output.name + ".workers")
    folder.mkdir(exist_ok=True)
    shards = [folder / f"{number}-of-{workers}.h5" for number in range(1, workers + 1)]
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "prott5nv", "embed", source, "-o", shard, *given),
                *("--shard", f"{number}/{workers}"),
                *("--device", f"cuda:{number % gpus}" if gpus else device),
            ],
            stdout=subprocess.DEVNULL,
            # Each bar on a line of its own.
            env={**environment, "TQDM_POSITION": str(number - 1), "TQDM_DESC": f"worker {number}"},
        )
        for number, shard in enumerate(shards, 1)
    ]
    try:
        codes = [process.wait() for process in processes]
    except KeyboardInterrupt:  # which the terminal has sent to the workers, too
        for process in processes:
            process.send_signal(signal.SIGINT)
            process.wait()
        raise
    failed = [number for number, code in enumerate(codes, 1) if code not in (0, EXIT_SKIPPED)]
    if failed:
        raise ProtT5nvError(
            f"workers {', '.join(map(str, failed))} of {workers} failed; what is done is safe in {folder}: "
            "give the same command again to go on"
        )
    proteins = merge(shards, output)
    if EXIT_SKIPPED in codes:
        listings = [path for shard in shards if (path := shard.with_suffix(".skipped.tsv")).exists()]
        texts = [path.read_text().splitlines(keepends=True) for path in listings]
        header = texts[0][0]
        output.with_suffix(".skipped.tsv").write_text(header + "".join(line for text in texts for line in text[1:]))
    shutil.rmtree(folder)
    return proteins, max(codes)
