"""``prott5nv convert``: between ``.nemo`` files and Hugging Face folders."""

from __future__ import annotations

import click


@click.command()
@click.argument("source", metavar="SOURCE")
@click.option("--to", "target", required=True, type=click.Choice(["hf", "nemo"]), help="What to write.")
@click.argument("output", metavar="OUTPUT")
def command(source, target, output):
    """Turn a .nemo file into a Hugging Face folder, or such a folder back into a .nemo file.

    The folder opens with AutoModel.from_pretrained and AutoTokenizer.from_pretrained (Blenderbot, no remote code) and
    gives the same embeddings. Weights are moved, never computed with: there and back they are the same, bit by bit.

    \b
    Examples:
      prott5nv convert prott5nv.nemo --to hf prott5nv-hf/
      prott5nv convert prott5nv-hf/ --to nemo prott5nv.nemo
    """
    from prott5nv.checkpoint.huggingface import huggingface_to_nemo, nemo_to_huggingface

    write = nemo_to_huggingface if target == "hf" else huggingface_to_nemo
    write(source, output)
    click.echo(output)
