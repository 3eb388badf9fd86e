"""``prott5nv merge``: shards into one file."""

from __future__ import annotations

import click


@click.command()
@click.argument("output", metavar="OUT")
@click.argument("shards", metavar="SHARD.h5...", nargs=-1, required=True)
def command(output, shards):
    """Join the shards of an array job into one file, in input order.

    OUT is the file that a single process would have written. All shards are needed, in any order.

    \b
    Examples:
      prott5nv embed uniref.fasta.gz -o part1.h5 --shard 1/2
      prott5nv embed uniref.fasta.gz -o part2.h5 --shard 2/2
      prott5nv merge uniref.h5 part1.h5 part2.h5

    \b
    As a Slurm array of 16:
      prott5nv embed in.fasta -o part$SLURM_ARRAY_TASK_ID.h5 --shard $SLURM_ARRAY_TASK_ID/16
    """
    from prott5nv.embedding.merge import merge

    click.echo(f"{output}: {merge(shards, output):,} proteins from {len(shards)} shards")
