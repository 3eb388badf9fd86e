"""``prott5nv score``: score variants, all single substitutions, or whole proteins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prott5nv.assets import scores_note
from prott5nv.cli import options
from prott5nv.io.atomic import together
from prott5nv.io.inputs import InputFiles, input_name, parts
from prott5nv.io.text import counted
from prott5nv.plots.pictures import PICTURES

if TYPE_CHECKING:
    import numpy as np

    from prott5nv.decoding.variants import Variant
    from prott5nv.embedding.embedder import Embedder
    from prott5nv.embedding.skips import Skips
    from prott5nv.io.cleaning import Cleaning
    from prott5nv.io.record import Record


@click.command()
@options.inputs
@click.option(
    "-o",
    "--output",
    type=options.NewFile(".csv", stream=True),
    default="-",
    metavar="OUT.csv",
    help="CSV file to write. By default the table is printed.",
)
@click.option("--mutations", metavar="VARIANTS|FILE|all", help="Variants such as V39A,D40G:V54L, or a file of them: "
              "one per line, or a CSV or TSV file with a column named variant. 'all' scores every single "
              "substitution.")  # fmt: skip
@click.option("--variant-column", metavar="NAME",
              help="Column that holds the variants. It is needed only if the column is not called variant, mutant, "
              "mutation, variants or mutations.")  # fmt: skip
@click.option("--perplexity", is_flag=True, help="Compute the pseudo-perplexity of each protein instead of scores of "
              "variants.")  # fmt: skip
@click.option("--per-residue", is_flag=True, help="With --perplexity, write one row per residue instead of one per "
              "protein.")  # fmt: skip
@click.option("--fraction", type=click.FloatRange(0, 0.5), metavar="X", default=0, show_default=True,
              help="With --mutations all or --perplexity, the fraction of the residues to mask at once. 0 masks one "
              "residue at a time, which is the definition of these scores. 0.15, as in the pretraining of ProtT5nv, is "
              "much faster for long proteins and gives similar scores.")  # fmt: skip
@options.proteins
@options.cleaning
@click.option("--table", type=options.NewFile(".csv", stream=True), metavar="FILE.csv",
              help="With --mutations all, also write the scores as a matrix: one row per residue, one column per amino "
              "acid.")  # fmt: skip
@click.option("--plot", type=options.NewFile(".html", *PICTURES, others=False), metavar="FILE",
              help="With --mutations all, also draw a heat map of one protein: an interactive page (.html) or a "
              "picture (.png, .svg or .pdf). It needs the extra plot.")  # fmt: skip
@options.on_error
@options.overwrite
@options.spreadsheet_safe
@options.decoder_model
@options.precision
@options.device
def command(
    source: str | InputFiles,
    output: Path,
    mutations: str | None,
    variant_column: str | None,
    perplexity: bool,
    per_residue: bool,
    fraction: float,
    wanted: Sequence[str],
    cleaning: Cleaning,
    table: Path | None,
    plot: Path | None,
    on_error: str,
    overwrite: bool,
    spreadsheet_safe: bool,
    model: str | None,
    precision: str,
    device: str,
) -> None:
    """Score variants, all single substitutions, or whole proteins.

    The score of a variant is log p(mutant) - log p(wild type), a natural logarithm: the substituted residues are
    masked, and the model predicts them. A positive score means that the model finds the mutant more likely than the
    wild type; a negative score means less likely. Most substitutions have a negative score.

    INPUT is a FASTA, CSV or TSV file, which may be gzipped, or several of these, or a folder of them. If it has several
    proteins, choose some with --protein, or add a column named protein to the file of variants.

    OUT.csv has one row per variant, in the order of the file; with --mutations all, one row per substitution. Positions
    count from 1. With several substitutions, a cell has one entry for each, separated by colons. The columns are:

    \b
      protein          accession of the protein
      original_id      id as in INPUT
      variant          the substitutions, such as D40G:V54L
      positions        positions of the substituted residues
      wild_type        residues of the wild type
      mutant           residues of the mutant
      score_additive   sum of the scores of the single substitutions,
                       each with only its own residue masked
      score_joint      score with all substituted residues masked at once
      model            name of the model, the start of its checksum,
                       and the fraction if --fraction is given

    With --perplexity, OUT.csv has one row per protein. A lower perplexity means that the model finds the protein more
    natural. It is 1 if the model predicts every residue with certainty, and 20 if it guesses among the 20 amino acids.
    Every residue is masked in turn, so a protein of L residues takes as long as embedding L proteins of its length;
    --fraction shortens this, as it does for --mutations all. The columns are:

    \b
      protein            accession of the protein
      original_id        id as in INPUT
      residues           number of residues
      residues_counted   number of those that are one of the 20 amino acids
      perplexity         pseudo-perplexity; empty if no residue counts
      model              as for the scores of variants

    With --perplexity --per-residue, OUT.csv has one row per residue. The columns are:

    \b
      protein       accession of the protein
      original_id   id as in INPUT
      position      position of the residue
      residue       its letter
      probability   probability of the residue, masked
      perplexity    1 / probability
      entropy       entropy of the 20 probabilities, in nats
      model         as for the scores of variants

    \b
    Examples:
      prott5nv score protein.fasta --mutations V39A,D40G:V54L
      prott5nv score protein.fasta --mutations variants.txt -o scores.csv
      prott5nv score protein.fasta --mutations all -o scores.csv --table matrix.csv --plot map.html
      prott5nv score proteins.fasta --protein P42212 --mutations all --fraction 0.15 -o gfp.csv
      prott5nv score proteome.fasta --perplexity -o perplexity.csv --fraction 0.15
      prott5nv score protein.fasta --perplexity --per-residue -o residues.csv

    Every output file appears only when it is complete. After Ctrl-C, nothing is written and the exit code is 130.
    """
    _check_options(mutations, perplexity, per_residue, fraction, table, plot)
    if plot:
        from prott5nv.plots.page import require_library

        require_library(plot)

    variant_file = None if mutations == "all" else mutations
    outputs = [output, table, plot, options.skip_list(output)]
    options.reserve_outputs(outputs, [*parts(source), variant_file, model], overwrite=overwrite)

    from prott5nv.checkpoint.models import model_file, read_decoder_config
    from prott5nv.decoding import inputs, tables
    from prott5nv.embedding.embedder import Embedder
    from prott5nv.embedding.skips import Skips

    # All input is checked before the weights are loaded. The model's configuration sets the limits.
    skips = Skips(on_error == "skip")
    config = read_decoder_config(model_file(model))
    proteins = inputs.read_proteins(source, skips, wanted, cleaning)
    if plot and len(proteins) != 1:
        name = input_name(source)
        raise click.UsageError(f"--plot draws one protein; {name} has {len(proteins)}: choose one with --protein")
    variants = inputs.read_variants(variant_file, proteins, config, skips, variant_column) if variant_file else None
    embedder = Embedder(model, device=device, precision=precision)
    options.note_decoder(embedder)
    scores: dict[str, np.ndarray] = {}
    keep = scores.__setitem__ if table or plot else lambda key, scores_LA: None
    label = tables.method_label(embedder, fraction)
    written: dict[Path, str] = {}  # what each output holds
    with together():
        summary = _write(
            output, proteins, variants, embedder, skips, keep, perplexity, per_residue, fraction, spreadsheet_safe
        )
        if table:
            count = tables.write_matrices(table, proteins, scores, label, spreadsheet_safe=spreadsheet_safe)
            written[table] = counted(count, "residue")
        if plot and scores:
            _draw(plot, proteins, scores, label, scores_note(embedder.is_builtin))
            written[plot] = counted(len(proteins), "protein")
        written[output] = summary
        options.write_skip_list(output, skips, spreadsheet_safe=spreadsheet_safe)
    for path, content in written.items():
        options.report_written(path, f"{content}, model {label}")
    options.finish(output, skips)


def _write(
    output: Path,
    proteins: Mapping[str, Record],
    variants: Sequence[tuple[str, Variant]] | None,
    embedder: Embedder,
    skips: Skips,
    keep: Callable[[str, np.ndarray], object],
    perplexity: bool,
    per_residue: bool,
    fraction: float,
    spreadsheet_safe: bool,
) -> str:
    """Write the table and return what it holds: ``5 variants``."""
    from prott5nv.decoding import tables
    from prott5nv.io.progress import Progress

    total = tables.residues_to_encode(proteins, embedder, fraction) if variants is None else None
    advice = "" if fraction else "--fraction 0.15 is much faster"
    if len(proteins) > 1:
        advice += f"{', and ' * bool(advice)}--protein chooses some of {counted(len(proteins), 'protein')}"
    with Progress(total, "residues in masked copies", advice=advice) as bar:
        if variants is not None:
            count = tables.write_variants(
                output, proteins, variants, embedder, bar.update, skips, spreadsheet_safe=spreadsheet_safe
            )
            return counted(count, "variant")
        if perplexity:
            write = tables.write_residue_perplexities if per_residue else tables.write_perplexities
            count = write(output, proteins, embedder, bar.update, skips, fraction, spreadsheet_safe=spreadsheet_safe)
            return counted(count, "residue" if per_residue else "protein")
        count = tables.write_substitutions(
            output, proteins, embedder, bar.update, skips, fraction, keep, spreadsheet_safe=spreadsheet_safe
        )
        return counted(count, "substitution")


def _check_options(
    mutations: str | None, perplexity: bool, per_residue: bool, fraction: float, table: Path | None, plot: Path | None
) -> None:
    """Check that the options fit together."""
    if (mutations is None) != perplexity:
        raise click.UsageError("choose what to score: --mutations FILE, --mutations all or --perplexity")
    if per_residue and not perplexity:
        raise click.UsageError("--per-residue needs --perplexity")
    if fraction and not (perplexity or mutations == "all"):
        raise click.UsageError("--fraction needs --mutations all or --perplexity")
    if (table or plot) and mutations != "all":
        raise click.UsageError("--table and --plot need --mutations all")


def _draw(path: Path, proteins: Mapping[str, Record], scores: Mapping[str, np.ndarray], model: str, note: str) -> None:
    """Draw the heat map of the only protein."""
    from prott5nv.plots.heat_map import write_heat_map

    [(key, scores_LA)] = scores.items()
    write_heat_map(path, proteins[key], scores_LA, model=model, note=note)
