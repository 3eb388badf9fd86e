"""``prott5nv score``: score variants, all single substitutions, or whole proteins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prott5nv.cli import options

if TYPE_CHECKING:
    import numpy as np

    from prott5nv.io.cleaning import Cleaning
    from prott5nv.io.record import Record


@click.command()
@click.argument("source", metavar="INPUT")
@click.option(
    "-o",
    "--output",
    type=options.NewFile(".csv", stream=True),
    required=True,
    metavar="OUT.csv",
    help="CSV file to write.",
)
@click.option("--mutations", metavar="FILE|all", help="File of variants such as V39A or D40G:V54L: one per line, or a "
              "CSV or TSV file with a column named variant. 'all' scores every single substitution.")  # fmt: skip
@click.option("--variant-column", metavar="NAME",
              help="Name of the column of variants, if the file of --mutations calls it neither variant nor mutant, "
              "mutation, variants or mutations.")  # fmt: skip
@click.option("--perplexity", is_flag=True, help="Compute the pseudo-perplexity of each protein instead of scores of "
              "variants.")  # fmt: skip
@click.option("--per-residue", is_flag=True, help="With --perplexity, write one row per residue instead of one per "
              "protein.")  # fmt: skip
@click.option("--fraction", type=click.FloatRange(0, 0.5), default=0, show_default=True,
              help="With --perplexity, the fraction of the residues to mask at once. 0 masks one residue at a time, "
              "as pseudo-perplexity is defined. 0.15, the fraction in pretraining, is much faster for long "
              "proteins.")  # fmt: skip
@options.proteins
@options.cleaning
@click.option("--table", type=options.NewFile(".csv", stream=True), metavar="FILE.csv",
              help="With --mutations all, also write the scores as a matrix: one row per residue, one column per amino "
              "acid.")  # fmt: skip
@click.option("--plot", type=options.NewFile(".html", ".png", others=False), metavar="FILE",
              help="With --mutations all, also draw a heat map of one protein: an interactive page (.html) or a "
              "picture (.png).")  # fmt: skip
@options.model
@options.precision
@options.device
def command(
    source: str,
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
    model: str | None,
    precision: str,
    device: str,
) -> None:
    """Score variants, all single substitutions, or whole proteins.

    The score of a variant is log p(mutant) - log p(wild type), a natural logarithm: the substituted residues are
    masked, and the model predicts them. A positive score means that the model finds the mutant more likely than the
    wild type; a negative score means less likely. Most substitutions have a negative score.

    INPUT is a FASTA, CSV or TSV file, which may be gzipped. If it has several proteins, choose some with --protein, or
    add a column named protein to the file of variants.

    OUT.csv has one row per variant, in the order of the file. score_additive is the sum of the scores of the single
    substitutions, each with only its own residue masked. score_joint masks all substituted residues at once. Positions
    count from 1.

    \b
    Examples:
      prott5nv score protein.fasta --mutations variants.txt -o scores.csv
      prott5nv score protein.fasta --mutations all -o scores.csv --table matrix.csv --plot map.html
      prott5nv score proteins.fasta --protein P42212 --mutations all -o gfp.csv
      prott5nv score proteome.fasta --perplexity -o perplexity.csv --fraction 0.15
      prott5nv score protein.fasta --perplexity --per-residue -o residues.csv

    A lower perplexity means that the model finds the protein more natural. It is 1 if the model predicts every residue
    with certainty, and 20 if it guesses among the 20 amino acids. Every residue is masked in turn, so a protein of L
    residues takes as long as embedding L proteins of its length; --fraction shortens this.

    Every output file appears only when it is complete.
    """
    _check_options(mutations, perplexity, per_residue, fraction, table, plot)
    if plot:
        from prott5nv.plots.page import require_library

        require_library(plot)

    from tqdm import tqdm

    from prott5nv.decoding import tables
    from prott5nv.embedding.embedder import Embedder

    proteins = tables.choose_proteins(source, wanted, cleaning)
    if plot and len(proteins) > 1:
        raise click.UsageError(f"--plot draws one protein; {source} has {len(proteins)}: choose one with --protein")
    variants = None
    if mutations and mutations != "all":
        variants = tables.read_variants(mutations, proteins, variant_column)
    embedder = Embedder(model, device=device, precision=precision)
    options.note(f"{embedder.hardware}; {embedder.max_tokens} residues at once")
    total = tables.residues_to_encode(proteins, embedder, fraction) if variants is None else None
    scores: dict[str, np.ndarray] = {}
    with tqdm(total=total, unit=" residues", unit_scale=True, mininterval=0.5) as bar:
        if variants is not None:
            count, unit = tables.write_variants(output, proteins, variants, embedder, bar.update), "variants"
        elif perplexity and per_residue:
            count = tables.write_residue_perplexities(output, proteins, embedder, bar.update, fraction)
            unit = "residues"
        elif perplexity:
            count, unit = tables.write_perplexities(output, proteins, embedder, bar.update, fraction), "proteins"
        else:
            keep = scores.__setitem__ if table or plot else lambda key, scores_LA: None
            count = tables.write_substitutions(output, proteins, embedder, bar.update, keep)
            unit = "substitutions"
    if table:
        tables.write_matrices(table, proteins, scores)
        click.echo(table)
    if plot:
        _draw(plot, proteins, scores)
        click.echo(plot)
    click.echo(f"{output}: {count:,} {unit}")


def _check_options(
    mutations: str | None, perplexity: bool, per_residue: bool, fraction: float, table: Path | None, plot: Path | None
) -> None:
    """Check that the options fit together."""
    if (mutations is None) != perplexity:
        raise click.UsageError("choose what to score: --mutations FILE, --mutations all or --perplexity")
    if (per_residue or fraction) and not perplexity:
        raise click.UsageError("--per-residue and --fraction need --perplexity")
    if (table or plot) and mutations != "all":
        raise click.UsageError("--table and --plot need --mutations all")


def _draw(path: Path, proteins: Mapping[str, Record], scores: Mapping[str, np.ndarray]) -> None:
    """Draw the heat map of the only protein."""
    from prott5nv.plots.heat_map import write_heat_map

    [(key, scores_LA)] = scores.items()
    write_heat_map(path, key, proteins[key].sequence, scores_LA)
