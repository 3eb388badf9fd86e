"""``prott5nv score``: what a model makes of variants, of every substitution, of whole proteins."""

from __future__ import annotations

import click

from prott5nv.cli import options


@click.command()
@click.argument("source", metavar="INPUT")
@click.option("-o", "--output", type=options.NewFile(), required=True, metavar="OUT.csv", help="The table to write.")
@click.option("--mutations", metavar="FILE|all", help="Variants such as V39A or D40G:V54L, one a line, or a table "
              "with a column of them; all: every single substitution.")  # fmt: skip
@click.option("--variant-column", metavar="NAME", help="Of a table of mutations, where it is not called variant, ...")
@click.option("--perplexity", is_flag=True, help="Of whole proteins, instead of variants.")
@click.option("--per-residue", is_flag=True, help="With --perplexity: one row per residue, not one per protein.")
@click.option("--fraction", type=click.FloatRange(0, 0.5), default=0, show_default=True,
              help="With --perplexity: residues to hide at once. 0 hides one after the other; 0.15, as in training, "
              "is the faster the longer a protein is.")  # fmt: skip
@options.proteins
@click.option("--table", type=options.NewFile(), metavar="FILE.csv",
              help="With --mutations all: scores again, one row of 20 per residue.")  # fmt: skip
@click.option("--plot", type=options.NewFile(".html", ".png"), metavar="FILE",
              help="With --mutations all: a heat map; ends in .html or .png.")  # fmt: skip
@options.model
@options.precision
@options.device
def command(
    source, output, mutations, variant_column, perplexity, per_residue, fraction, wanted, table, plot, model, precision,
    device,
):  # fmt: skip
    """Score variants, every substitution, or whole proteins.

    A variant's score is log p(mutant) - log p(wild type), in natural logarithms: the changed residues are hidden and
    the model is asked for them. Above 0, it finds the mutant more likely. score_additive adds up the substitutions,
    each hidden alone; score_joint hides all of them at once. Positions count from 1.

    INPUT is FASTA, CSV or TSV, gzipped or not. With several proteins in it, choose with --protein, or give the table
    of mutations a column named protein. OUT.csv has one row per variant, in the order of the file.

    \b
    Examples:
      prott5nv score protein.fasta --mutations variants.txt -o scores.csv
      prott5nv score protein.fasta --mutations all -o scores.csv --table matrix.csv --plot map.html
      prott5nv score proteins.fasta --protein P42212 --mutations all -o gfp.csv
      prott5nv score proteome.fasta --perplexity -o perplexity.csv --fraction 0.15
      prott5nv score protein.fasta --perplexity --per-residue -o residues.csv

    Perplexity is 1 where the model knows every residue, and 20 where it guesses among the 20 amino acids. Each residue
    is hidden in turn, so that a protein of L residues costs as much as embedding L of them.

    Files appear only when they are complete.
    """
    if (mutations is None) != perplexity:
        raise click.UsageError("say what to score: --mutations FILE, --mutations all or --perplexity")
    if (per_residue or fraction) and not perplexity:
        raise click.UsageError("--per-residue and --fraction belong to --perplexity")
    if (table or plot) and mutations != "all":
        raise click.UsageError("--table and --plot belong to --mutations all")

    from tqdm import tqdm

    from prott5nv.decoding import tables
    from prott5nv.embedding.embedder import Embedder

    proteins = tables.chosen_proteins(source, wanted)
    if plot and len(proteins) > 1:
        raise click.UsageError(f"--plot draws one protein; {source} has {len(proteins)}: choose one with --protein")
    variants = None if perplexity or mutations == "all" else tables.read_variants(mutations, proteins, variant_column)
    inference = Embedder(model, device=device, precision=precision)
    click.echo(f"prott5nv: {inference.hardware}; {inference.max_tokens} residues at once", err=True)
    total = tables.residues_to_encode(proteins, inference, fraction) if variants is None else None
    with tqdm(total=total, unit=" residues", unit_scale=True, mininterval=0.5) as bar:
        if variants is not None:
            count, what = tables.write_variants(output, proteins, variants, inference, bar.update), "variants"
        elif perplexity:
            count = tables.write_perplexity(output, proteins, inference, bar.update, fraction, per_residue)
            what = "residues" if per_residue else "proteins"
        else:
            count = tables.write_substitutions(output, proteins, inference, bar.update, table, plot)
            what = "substitutions"
    for path in filter(None, (table, plot)):
        click.echo(path)
    click.echo(f"{output}: {count:,} {what}")
