"""``prott5nv predict``: a fine-tuned model and a file of proteins in, a table out."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("source", metavar="INPUT")
@click.option("-o", "--output", required=True, metavar="OUT.csv", help="The table to write.")
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cuda|mps|cpu", help="Or a GPU such as cuda:1."
)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True,
              help="Of the computation.")  # fmt: skip
def command(run, source, output, device, precision):
    """Predict with what prott5nv finetune made.

    RUN is its folder or the model.h5 in it, which needs nothing else. INPUT is FASTA, CSV or TSV, gzipped or not.
    OUT.csv gets one row per protein, in input order: id, length, prediction and, for classes, confidence. Predictions
    for residues are one letter each, and their confidence is one digit each: 9 is a probability of 0.9 or more.

    \b
    Examples:
      prott5nv predict results/finetune/secondary_structure-sampled-frozen proteins.fasta -o structure.csv
      prott5nv predict localization.h5 proteome.fasta.gz -o localization.csv
    """
    if not Path(output).absolute().parent.is_dir():
        raise click.BadParameter(f"the folder {Path(output).parent} does not exist", param_hint="--output")

    from prott5nv.flip.predict import predict_file

    count = predict_file(run, source, output, device=device, precision=precision)
    click.echo(f"{output}: {count:,} proteins")
