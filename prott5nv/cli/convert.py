"""``prott5nv convert``: conversion between ``.nemo`` files and Hugging Face folders."""

from __future__ import annotations

import click


@click.command()
@click.argument("source", metavar="SOURCE")
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Choice(["hf", "nemo"]),
    help="Format to write: hf is a Hugging Face folder, nemo is a .nemo file.",
)
@click.argument("output", metavar="OUTPUT")
def command(source: str, target: str, output: str) -> None:
    """Convert a .nemo file to a Hugging Face folder, or such a folder back to a .nemo file.

    AutoModel.from_pretrained and AutoTokenizer.from_pretrained open the folder, and the model gives the same
    embeddings. It uses the Blenderbot classes of transformers, so it needs no remote code. The conversion does not
    change the weights: converting a file to a folder and back gives exactly the same weights.

    \b
    Examples:
      prott5nv convert prott5nv.nemo --to hf prott5nv-hf/
      prott5nv convert prott5nv-hf/ --to nemo prott5nv.nemo
    """
    from prott5nv.checkpoint.huggingface import huggingface_to_nemo, nemo_to_huggingface

    write = nemo_to_huggingface if target == "hf" else huggingface_to_nemo
    write(source, output)
    click.echo(output)
