"""``prott5nv merge``: join the shards of one input into one file."""

from __future__ import annotations

from pathlib import Path

import click

from prott5nv.cli import options
from prott5nv.embedding.formats import SUFFIXES, skipped_listing
from prott5nv.io.text import counted


@click.command()
@click.argument("output", metavar="OUT", type=options.NewFile(*SUFFIXES))
@click.argument("shards", metavar="SHARD...", nargs=-1, required=True)
@options.overwrite
def command(output: Path, shards: tuple[str, ...], overwrite: bool) -> None:
    """Join the shards of an array job into one file, in input order.

    OUT has the same content as the file that a single process would have written. All shards are needed; their order
    does not matter. The shards must be HDF5 files. If they hold pooled vectors, OUT can also be .npz or .parquet. A
    single folder that embed --ray wrote can take the place of the shards. Lists of skipped proteins beside the shards
    (SHARD.h5.skipped.tsv) are joined into one beside OUT, and the exit code is then 3, as that of embed.

    \b
    Examples:
      prott5nv embed uniref.fasta.gz -o part1.h5 --shard 1/2
      prott5nv embed uniref.fasta.gz -o part2.h5 --shard 2/2
      prott5nv merge uniref.h5 part1.h5 part2.h5
      prott5nv merge uniref.h5 uniref/

    \b
    In a Slurm array job of 16 tasks, each task runs:
      prott5nv embed in.fasta -o part$SLURM_ARRAY_TASK_ID.h5 --shard $SLURM_ARRAY_TASK_ID/16
    """
    from prott5nv.embedding.merge import Merged, merge
    from prott5nv.embedding.merge_folder import merge_folder
    from prott5nv.embedding.shard_folder import Manifest, is_shard_folder

    merged: Merged | Manifest
    if len(shards) == 1 and is_shard_folder(shards[0]):
        merged = merge_folder(shards[0], output, overwrite=overwrite)
        count = len(merged.shards)
    else:
        merged = merge(shards, output, overwrite=overwrite)
        count = len(shards)
    click.echo(f"{output}: {counted(merged.proteins, 'protein')} from {counted(count, 'shard')}")
    if merged.skipped:
        options.exit_skipped(merged.skipped, "protein", skipped_listing(output))
