"""``prott5nv merge``: join the shards of one input into one file."""

from __future__ import annotations

import click


@click.command()
@click.argument("output", metavar="OUT")
@click.argument("shards", metavar="SHARD.h5...", nargs=-1, required=True)
def command(output: str, shards: tuple[str, ...]) -> None:
    """Join the shards of an array job into one file, in input order.

    OUT is the same file that a single process would have written. All shards are needed; their order does not matter.
    The shards must be HDF5 files. If they hold pooled vectors, OUT can also be .npz or .parquet.
    Lists of skipped proteins beside the shards (SHARD.h5.skipped.tsv) are joined into one beside OUT.

    \b
    Examples:
      prott5nv embed uniref.fasta.gz -o part1.h5 --shard 1/2
      prott5nv embed uniref.fasta.gz -o part2.h5 --shard 2/2
      prott5nv merge uniref.h5 part1.h5 part2.h5

    \b
    In a Slurm array job of 16 tasks, each task runs:
      prott5nv embed in.fasta -o part$SLURM_ARRAY_TASK_ID.h5 --shard $SLURM_ARRAY_TASK_ID/16
    """
    from prott5nv.embedding.merge import merge

    click.echo(f"{output}: {merge(shards, output):,} proteins from {len(shards)} shards")
