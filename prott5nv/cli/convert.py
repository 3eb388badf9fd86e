"""``prott5nv convert``: conversion between ``.nemo`` files and Hugging Face folders."""

from __future__ import annotations

from pathlib import Path

import click

from prott5nv.cli import options


@click.command()
@click.argument("source", metavar="SOURCE")
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Choice(["hf", "hf-encoder", "nemo"]),
    help="Format to write: hf is a Hugging Face folder with the whole model, hf-encoder is one with the encoder alone, "
    "and nemo is a .nemo file.",
)
@click.argument("output", metavar="OUTPUT")
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT. A folder is replaced only if this command made it.")
@click.pass_context
def command(context: click.Context, source: str, target: str, output: str, overwrite: bool) -> None:
    """Convert a .nemo file to a Hugging Face folder, or such a folder back to a .nemo file.

    AutoTokenizer and AutoModel of transformers open the folders without remote code, and the models give the same
    hidden states up to 1e-5. The conversion does not change the weights.

    Use hf-encoder for embeddings and for programs that expect an encoder: pipeline("feature-extraction"),
    sentence-transformers, token and sequence classification. The encoder becomes an XLM-RoBERTa-XL model.

    Use hf for scoring and generation with the decoder. The model becomes a Blenderbot model. Only this folder can be
    converted back, also after transformers has saved it again. Converting a file to a folder and back gives exactly
    the same weights.

    \b
    Examples:
      prott5nv convert prott5nv.nemo --to hf-encoder prott5nv-encoder/
      prott5nv convert prott5nv.nemo --to hf prott5nv-hf/
      prott5nv convert prott5nv-hf/ --to nemo prott5nv.nemo
    """
    from prott5nv.checkpoint.huggingface import huggingface_to_nemo, nemo_to_huggingface

    if target == "nemo":
        huggingface_to_nemo(source, options.NewFile(".nemo").convert(output, None, context), overwrite=overwrite)
    else:
        nemo_to_huggingface(source, output, encoder_only=target == "hf-encoder", overwrite=overwrite)
    options.report_written(Path(output))
