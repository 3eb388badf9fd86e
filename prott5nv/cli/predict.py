"""``prott5nv predict``: predict the proteins of a file with a fine-tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prott5nv.cli import options
from prott5nv.io.inputs import InputFiles, parts
from prott5nv.io.output import check_outputs
from prott5nv.io.text import counted

if TYPE_CHECKING:
    from prott5nv.io.cleaning import Cleaning


@click.command()
@click.argument("run", metavar="RUN")
@options.inputs
@click.option(
    "-o",
    "--output",
    type=options.NewFile(".csv", stream=True),
    required=True,
    metavar="OUT.csv",
    help="CSV table to write.",
)
@options.device
@options.precision
@options.cleaning
@options.on_error
@options.overwrite
def command(
    run: str,
    source: str | InputFiles,
    output: Path,
    device: str,
    precision: str,
    cleaning: Cleaning,
    on_error: str,
    overwrite: bool,
) -> None:
    """Predict the proteins in INPUT with a model that prott5nv finetune saved.

    RUN is the folder of a fine-tuning run, or the file model.safetensors in it. That file holds the encoder and the
    head, so you can copy it to another machine. INPUT is a FASTA, CSV or TSV file, gzipped or not, or
    several of these, or a folder of them.

    OUT.csv has one row for each protein, in the order of INPUT, with the columns id, length and prediction. If the
    model predicts classes, a column named confidence holds their probability.

    For a predictor of residues, the prediction is one letter for each residue, or one number for each residue with
    spaces between them. The confidence is one digit for each residue: 9 means a probability of 0.9 or more.

    The command needs the extra finetune.

    \b
    Examples:
      prott5nv predict results/finetune/secondary_structure-sampled-frozen proteins.fasta -o structure.csv
      prott5nv predict localization.safetensors proteome.fasta.gz -o localization.csv
    """
    check_outputs([output, options.skip_list(output)], [run, *parts(source)], overwrite=overwrite)

    from prott5nv.embedding.skips import Skips
    from prott5nv.flip.predict import predict_file

    skips = Skips(on_error == "skip")
    count = predict_file(run, source, output, device=device, precision=precision, cleaning=cleaning, skips=skips)
    options.report_written(output, counted(count, "protein"))
    options.finish(output, skips)
