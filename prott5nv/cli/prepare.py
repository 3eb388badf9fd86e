"""``prott5nv prepare``: training data from public sequence sets and benchmarks."""

from __future__ import annotations

import click


class CountOrFraction(click.ParamType):
    """``4350`` is an exact number of proteins, ``0.01`` a fraction of them."""

    name = "COUNT|FRACTION"

    def convert(self, value, param, ctx):
        if not isinstance(value, str):
            return value
        try:
            return int(value.replace("_", ""))
        except ValueError:
            pass
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a count such as 4350 nor a fraction such as 0.01", param, ctx)


@click.group(name="prepare")
def command():
    """Make training data: UniRef50 splits, FLIP tasks.

    \b
    Examples:
      prott5nv prepare uniref50 uniref50.fasta.gz -o uniref50/
      prott5nv prepare flip all --from FLIP/ -o flip/
    """


@command.command()
@click.argument("fasta", metavar="FASTA|URL")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to make; it appears when it is complete.")
@click.option("--max-length", default=512, show_default=True, help="Leave out proteins with more residues.")
@click.option("--val", "validation", type=CountOrFraction(), help="Validation proteins.  [default: 0.01]")
@click.option("--test", type=CountOrFraction(), help="Test proteins.  [default: 0.01]")
@click.option("--split", type=click.Choice(["card"]), help="The model card's split: 4350 / 875000 / the rest.")
@click.option("--group-by", metavar="KEY", help="Keep proteins with the same KEY=value in their headers together.")
@click.option("--seed", default=42, show_default=True, help="Another seed is another split.")
@click.option("--records-per-file", default=1_000_000, show_default=True, help="Rows of one CSV file.")
@click.option("--force", is_flag=True, help="Replace DIR if prepare made it.")
def uniref50(fasta, output, validation, test, split, **options):
    """Make train, val and test CSV files of a FASTA file, gzipped or not (- is standard input), or of its web address.

    A download lies beside DIR, is resumed where it broke off, and is checked against UniProt's checksum.
    One pass; memory stays under 1 GB whatever the size. --val and --test take an exact count (4350) or an approximate
    fraction (0.01). What was left out, and why, is printed and kept in DIR/provenance.json. Rows stay in the order of
    the file: pretraining draws a new order every epoch.

    \b
    Examples:
      prott5nv prepare uniref50 uniref50.fasta.gz -o uniref50/ --split card
      prott5nv prepare uniref50 proteins.fasta -o data/ --val 500 --test 500
      prott5nv prepare uniref50 corpus.fasta.gz -o data/ --group-by c50 --val 0.01 --test 0.01
      prott5nv prepare uniref50 https://ftp.uniprot.org/pub/databases/uniprot/uniref/uniref50/uniref50.fasta.gz \\
        -o uniref50/ --split card
    """
    from prott5nv.data.prepare import describe, prepare

    sizes = {"validation": validation, "test": test}
    given = {name: size for name, size in sizes.items() if size is not None}
    if split and given:
        raise click.UsageError("--split already says the sizes; leave out --val and --test")
    provenance = prepare(fasta, output, split=split, **given, **options)
    click.echo(describe(provenance))
    click.echo(f"written to {output}")


@command.command()
@click.argument("task", metavar="[TASK|all]", default="all")
@click.option("--from", "location", required=True, metavar="DIR|URL", help="Where FLIP's files are.")
@click.option("-o", "--output", required=True, metavar="DIR", help="Gets DIR/TASK/SPLIT.csv for each split.")
def flip(task, location, output):
    """Make the tables that prott5nv finetune trains on.

    TASK is secondary_structure, conservation, scl, meltome or gb1. DIR|URL is a folder of FLIP's files or its web
    address: FASTA, gzipped or not, in a folder for each task; a checkout of FLIP with its splits.zip archives; or
    upstream's CSV files in train, val and test. Proteins are counted against the model card, and every difference is
    printed. Proteins longer than 512 residues are kept.

    \b
    Examples:
      prott5nv prepare flip all --from http://data.bioembeddings.com/public/FLIP/fasta -o flip/
      prott5nv prepare flip secondary_structure --from FLIP/splits -o flip/
    """
    from prott5nv.flip.prepare import FLIP, prepare

    for name in FLIP if task == "all" else [task]:
        for prepared in prepare(name, location, output):
            click.echo(prepared)
    click.echo(f"written to {output}")
