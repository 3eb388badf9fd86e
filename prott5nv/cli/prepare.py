"""``prott5nv prepare``: training data from public sequence sets and benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from prott5nv.cli import options
from prott5nv.io.output import check_outputs
from prott5nv.io.text import printable

if TYPE_CHECKING:
    from prott5nv.io.cleaning import Cleaning


class CountOrFraction(click.ParamType):
    """Parameter type: ``4350`` is an exact number of proteins, ``0.01`` a fraction of them."""

    name = "COUNT|FRACTION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Convert a count to int and a fraction to float."""
        if isinstance(value, (int, float)):
            return value
        try:
            return int(str(value).replace("_", ""))
        except ValueError:
            pass
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a count such as 4350 nor a fraction such as 0.01", param, ctx)


@click.group(name="prepare")
def command() -> None:
    """Prepare training data: splits of UniRef50 for pretraining, or FLIP and other labelled sets for fine-tuning.

    \b
    Examples:
      prott5nv prepare uniref50 uniref50.fasta.gz -o uniref50/
      prott5nv prepare flip all --from FLIP/ -o flip/
      prott5nv prepare fasta binding.fasta -o binding.csv --level residue --label class
    """


@command.command()
@click.argument("fasta", metavar="FASTA|URL")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to write. It appears when it is complete.")
@click.option("--max-length", default=512, show_default=True, help="Leave out proteins with more residues than this.")
@click.option(
    "--val", "validation", type=CountOrFraction(), help="Size of the validation set.  [default: 0.01, at least 1]"
)
@click.option("--test", type=CountOrFraction(), help="Size of the test set.  [default: 0.01, at least 1]")
@click.option(
    "--split",
    type=click.Choice(["card"]),
    help="Use the sizes of ProtT5nv's model card: 4,350 validation and 875,000 test proteins.",
)
@click.option("--group-by", metavar="KEY", help="Keep proteins with the same KEY=value in the header in the same set.")
@click.option(
    "--groups",
    metavar="TSV",
    help="Keep the proteins of a cluster in the same set. TSV is the table that MMseqs2 and DIAMOND write: "
    "representative and member, with a tab between them.",
)
@click.option("--seed", default=42, show_default=True, help="Seed of the random split.")
@click.option("--records-per-file", default=1_000_000, show_default=True, help="Maximum number of rows in a CSV file.")
@options.cleaning
@click.option("--overwrite", is_flag=True, help="Replace DIR if this command made it.")
def uniref50(
    fasta: str,
    output: str,
    validation: int | float | None,
    test: int | float | None,
    split: str | None,
    **settings: Any,
) -> None:
    """Make training, validation and test CSV files from UniRef50 or any other FASTA file.

    FASTA may be gzipped, or a pipe; - is standard input. The file at a URL is downloaded to the folder that contains
    DIR. An interrupted download is resumed, and the file is checked against UniProt's checksum.

    --val and --test take an exact count (4350) or an approximate fraction (0.01). Proteins are left out if they are too
    long or have characters other than letters. A * at the end of a sequence is removed first. The numbers are printed,
    and stored in DIR/provenance.json. Rows stay in the order of the file, because pretraining shuffles them in every
    epoch; if --val or --test is a count, some training rows come later. The command needs less than 1 GB of memory for
    files of any size.

    \b
    Examples:
      prott5nv prepare uniref50 uniref50.fasta.gz -o uniref50/ --split card
      prott5nv prepare uniref50 proteins.fasta -o data/ --val 500 --test 500
      prott5nv prepare uniref50 corpus.fasta.gz -o data/ --group-by c50 --val 0.01 --test 0.01
      prott5nv prepare uniref50 corpus.fasta.gz -o data/ --groups corpus_cluster.tsv
      prott5nv prepare uniref50 https://ftp.uniprot.org/pub/databases/uniprot/uniref/uniref50/uniref50.fasta.gz \\
        -o uniref50/ --split card
    """
    from prott5nv.data.prepare import describe, prepare

    sizes = {"validation": validation, "test": test}
    given: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    if split and given:
        raise click.UsageError("--split gives both sizes; leave out --val and --test")
    provenance = prepare(fasta, output, split=split, **given, **settings)
    click.echo(describe(provenance))
    click.echo(f"written to {output}")


@command.command()
@click.argument("task", metavar="[TASK|all]", default="all")
@click.option("--from", "location", required=True, metavar="DIR|URL", help="Folder or web address of FLIP's files.")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder that gets TASK/SPLIT.csv for each split.")
@options.cleaning
@options.overwrite
def flip(task: str, location: str, output: str, cleaning: Cleaning, overwrite: bool) -> None:
    """Make the tables on which prott5nv finetune trains.

    TASK is secondary_structure, conservation, scl, meltome or gb1. The default is all. FLIP's files are one of: FASTA
    files, gzipped or not, in a folder for each task; a checkout of FLIP with its splits.zip archives; or the CSV files
    of BioNeMo v1 in train, val and test. The numbers of proteins are compared with those of NVIDIA's model card, and
    differences are printed. Proteins longer than 512 residues are kept. A missing sequence, target or set is an error.

    \b
    Examples:
      prott5nv prepare flip all --from http://data.bioembeddings.com/public/FLIP/fasta -o flip/
      prott5nv prepare flip secondary_structure --from FLIP/splits -o flip/
    """
    from prott5nv.flip.prepare import FLIP, output_files, prepare

    # All names are checked before anything is downloaded or written.
    names = list(FLIP) if task == "all" else [task]
    check_outputs([path for name in names if name in FLIP for path in output_files(name, output)], overwrite=overwrite)
    for name in names:
        for prepared in prepare(name, location, output, cleaning=cleaning, overwrite=overwrite):
            click.echo("\n".join(map(printable, str(prepared).split("\n"))))
    click.echo(f"written to {output}")


@command.command()
@click.argument("fasta", metavar="FASTA")
@click.option("-o", "--output", required=True, metavar="TABLE.csv", help="Table to write, for prott5nv finetune.")
@click.option(
    "--level",
    required=True,
    type=click.Choice(["residue", "protein"]),
    help="Whether there is a target for every residue or one for every protein.",
)
@click.option(
    "--label",
    required=True,
    type=click.Choice(["class", "number"]),
    help="Whether the targets are classes or numbers.",
)
@click.option(
    "--labels", metavar="FASTA", help="File whose records are the labels of the residues, with SET= in the headers."
)
@click.option(
    "--mask",
    "masks",
    metavar="FASTA",
    help="File whose records are 1 for each residue that is scored and 0 for the others. It is used with --labels.",
)
@click.option(
    "--test",
    metavar="FILE",
    help="Replace the test set by all proteins of a CSV file, or by the test proteins of a FASTA file.",
)
@click.option(
    "--missing",
    metavar="VALUE",
    help="Value of a target that is not known, such as 999. It is neither trained on nor scored.",
)
@options.cleaning
@options.overwrite
def fasta(fasta: str, output: str, **settings: Any) -> None:
    """Make a table for prott5nv finetune from FASTA files with labels, as biotrainer, PBC and FLIP2 have them.

    A header is >ID SET=train TARGET=... with SET train, val or test. VALIDATION=True makes a training protein a
    validation protein, and MASK=0110... marks the residues that are scored with 1. The target of a protein is one word.
    The targets of residues are one letter for each residue, or numbers with semicolons between them. If sequences and
    labels are in two files, FASTA has the sequences, and --labels and --mask name the others. A protein with another
    number of targets than of residues is an error. The targets are counted and the counts printed, and so are test
    proteins that are also trained on. FASTA may be gzipped.

    A table has one test set. For several test sets, make one table for each with --test.

    \b
    Examples:
      prott5nv prepare fasta binding.fasta -o binding.csv --level residue --label class
      prott5nv prepare fasta disorder.fasta -o disorder.csv --level residue --label number --missing 999
      prott5nv prepare fasta sequences.fasta --labels sampled.fasta --mask mask.fasta --test CASP14.csv \\
        -o casp14.csv --level residue --label class
    """
    from prott5nv.flip.prepare_fasta import prepare_fasta

    prepared = prepare_fasta(fasta, output, **settings)
    click.echo("\n".join(map(printable, str(prepared).split("\n"))))
    click.echo(f"written to {output}")
