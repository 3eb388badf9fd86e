"""``prott5nv cache``: the embeddings that fine-tuning keeps."""

from __future__ import annotations

import click

from prott5nv.extras import require_extra
from prott5nv.io.text import counted, printable


@click.command()
@click.option("--clear", is_flag=True, help="Delete what is in the cache, except for what a running command writes.")
def command(clear: bool) -> None:
    """Show where fine-tuning keeps embeddings, and how large they are.

    Each run of prott5nv finetune with a frozen encoder keeps the embeddings of its proteins in one folder, so that
    another run with the same proteins and the same model, or a run after an interruption, need not compute them again.
    The scores of baselines are kept, too. Deleting them costs nothing but the time to compute them again.

    The folder is prott5nv in the user's folder for caches, such as ~/.cache/prott5nv on Linux. The environment variable
    PROTT5NV_CACHE chooses another one for all runs, and the setting cache_dir of finetune for a single run. The command
    needs the extra finetune.

    \b
    Examples:
      prott5nv cache
      prott5nv cache --clear
    """
    require_extra("finetune", "cache", "platformdirs")
    from prott5nv.flip.row_cache import cache_size, clear_cache, default_folder

    folder = default_folder()
    size = clear_cache(folder) if clear else cache_size(folder)
    deleted = "deleted " if clear else ""
    click.echo(printable(f"{folder}: {deleted}{counted(size.files, 'file')}, {size.bytes / 1e6:.1f} MB"))
