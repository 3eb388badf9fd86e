"""``prott5nv predict``: a fine-tuned model and a file of proteins in, a table out."""

from __future__ import annotations

import click

from prott5nv.cli import options


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("source", metavar="INPUT")
@click.option("-o", "--output", type=options.NewFile(), required=True, metavar="OUT.csv", help="The table to write.")
@options.device
@options.precision
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
    from prott5nv.flip.predict import predict_file

    count = predict_file(run, source, output, device=device, precision=precision)
    click.echo(f"{output}: {count:,} proteins")
