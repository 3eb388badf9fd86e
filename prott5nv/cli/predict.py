"""``prott5nv predict``: predict the proteins of a file with a fine-tuned model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prott5nv.cli import options
from prott5nv.errors import ProtT5nvError
from prott5nv.extras import require_extra
from prott5nv.io.atomic import together
from prott5nv.io.inputs import InputFiles, input_files, parts
from prott5nv.io.output import is_stream
from prott5nv.io.record import accession
from prott5nv.io.text import counted
from prott5nv.plots.pictures import PICTURES

if TYPE_CHECKING:
    from prott5nv.flip.predictor import Prediction, Predictor
    from prott5nv.io.cleaning import Cleaning


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("source", metavar="INPUT...", nargs=-1, callback=lambda context, parameter, paths: _inputs(paths))
@click.option(
    "-o",
    "--output",
    type=options.NewFile(".csv", ".html", *PICTURES, others=False, stream=True),
    required=True,
    metavar="OUT",
    help="File to write: a table (.csv), or, for predictors that give each residue a class, a page (.html) or a "
    "picture (.png, .svg or .pdf, which needs the extra plot) of the predictions beside the sequence.",
)
@options.device
@options.precision
@options.cleaning
@options.on_error
@options.overwrite
@options.spreadsheet_safe
def command(
    run: str,
    source: str | InputFiles,
    output: Path,
    device: str,
    precision: str,
    cleaning: Cleaning,
    on_error: str,
    overwrite: bool,
    spreadsheet_safe: bool,
) -> None:
    """Predict properties of the proteins in INPUT.

    RUN is secondary_structure or localization (the compartment of a eukaryotic cell), which are ready predictors for
    the built-in model; or the folder of a run of prott5nv finetune, or the file model.safetensors in it. That file
    holds the encoder and the head, so you can copy it to another machine. INPUT is a FASTA, CSV or TSV file, gzipped or
    not, or several of these, or a folder of them. Proteins longer than the model's limit are embedded in overlapping
    windows, so that every residue counts.

    OUT.csv has one row for each protein, in the order of INPUT. Its columns are protein (the accession), original_id,
    length, prediction and model. If the model predicts classes, a column named confidence holds their probability.

    For a predictor of residues, the prediction is one letter for each residue, or one number for each residue with
    spaces between them. The confidence is one digit for each residue: 9 means a probability of 0.9 or more.

    \b
    Examples:
      prott5nv predict secondary_structure proteins.fasta -o structure.html
      prott5nv predict results/finetune/secondary_structure-sampled-frozen proteins.fasta -o structure.csv
      prott5nv predict localization.safetensors proteome.fasta.gz -o localization.csv
    """
    options.reserve_outputs([output, options.skip_list(output)], [run, *parts(source)], overwrite=overwrite)

    if output.suffix in PICTURES:
        require_extra("plot", "a picture", "matplotlib")

    from prott5nv.embedding.skips import Skips
    from prott5nv.flip.predict import predict_file

    skips = Skips(on_error == "skip")
    labels: list[str] = []

    def name_predictor(predictor: Predictor) -> None:
        labels.append(predictor.label)
        options.note(f"predictor {predictor.label}, {predictor.encoder_label}")

    with together():
        count = predict_file(
            run,
            source,
            output,
            device=device,
            precision=precision,
            cleaning=cleaning,
            skips=skips,
            spreadsheet_safe=spreadsheet_safe,
            write=None if is_stream(output) or output.suffix == ".csv" else _write_tracks,
            on_start=name_predictor,
        )
        options.write_skip_list(output, skips, spreadsheet_safe=spreadsheet_safe)
    options.report_written(output, f"{counted(count, 'protein')}, predictor {labels[0]}")
    options.finish(output, skips)


def _inputs(paths: Sequence[str]) -> str | InputFiles:
    if not paths:
        raise click.UsageError(
            "the files of proteins are missing; they follow RUN, which is secondary_structure, localization or a run "
            "of finetune: prott5nv predict secondary_structure proteins.fasta -o structure.html"
        )
    return input_files(paths)


def _write_tracks(path: str | os.PathLike[str], predictor: Predictor, predictions: Iterable[Prediction]) -> int:
    """Draw the predicted classes of residues beside the sequences."""
    from prott5nv.flip.predict import class_and_confidence
    from prott5nv.plots.track import Track, write_tracks

    spec = predictor.output_spec
    if (spec.level, spec.label) != ("residue", "class"):
        raise ProtT5nvError(
            f"{path}: pages and pictures show a class for each residue, and this predictor gives a {spec.label} for "
            f"each {spec.level}; choose a name that ends in .csv"
        )
    tracks = (
        Track(accession(one.id), one.id, one.sequence, *class_and_confidence(spec, one), one.description)
        for one in predictions
    )
    return write_tracks(
        Path(path), tracks, spec.classes, task=spec.task, model=predictor.label, encoder=predictor.encoder_label
    )
