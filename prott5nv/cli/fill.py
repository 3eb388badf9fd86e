"""``prott5nv fill``: residues for the gaps of proteins."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import click

from prott5nv.cli import options


@click.command()
@click.argument("source", metavar="INPUT")
@click.option("-o", "--output", type=options.NewFile(), metavar="OUT.csv",
              help="The table to write; by default standard output.")  # fmt: skip
@click.option("-n", "n", type=click.IntRange(1), default=1, show_default=True, help="Results for each protein.")
@click.option("--hide", metavar="POSITIONS", callback=lambda *given: _positions(*given),
              help="Residues to take for missing, such as 12,40-45; positions count from 1.")  # fmt: skip
@options.proteins
@click.option("--beams", type=click.IntRange(1), help="Partial results to keep at each gap; by default as many as -n. "
              "More find better ones.")  # fmt: skip
@click.option("--temperature", type=click.FloatRange(0), default=0, show_default=True,
              help="Above 0, residues are drawn at random: 1 as the model expects them.")  # fmt: skip
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1, show_default=True,
              help="Draw from the fewest residues that have this probability together.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn.")
@options.model
@options.precision
@options.device
def command(source, output, n, hide, wanted, beams, temperature, top_p, seed, model, precision, device):
    """Put residues where a protein has a ?.

    INPUT is a sequence with ?, or a FASTA, CSV or TSV file of them; each ? is one residue. Other residues are never
    changed. By default the most likely residue is taken at each gap, in the light of those before it; -n asks for the
    n best, --temperature for random ones.

    The table has one row per result: the protein, its rank, the sequence, the log-probability of all that was put in,
    the positions, the residues, and the probability of each.

    \b
    Examples:
      prott5nv fill 'MKT???AYI'
      prott5nv fill proteins.fasta --protein P0CG47 --hide 45-50 -n 5
      prott5nv fill gapped.fasta -n 100 --temperature 1 --top-p 0.9 --seed 7 -o designs.csv
    """
    from prott5nv.decoding.tables import FILLED_COLUMNS, chosen_proteins, filled_rows
    from prott5nv.embedding.embedder import Embedder
    from prott5nv.io.record import Record
    from prott5nv.io.table import write_table

    if re.fullmatch(r"[A-Za-z?]*\?[A-Za-z?]*", source) and not Path(source).exists():
        proteins = {"sequence": Record("sequence", source, "", 1)}
    else:
        proteins = chosen_proteins(source, wanted)
    inference = Embedder(model, device=device, precision=precision)
    settings = {"n": n, "beams": beams, "temperature": temperature, "top_p": top_p, "seed": seed}
    rows = filled_rows(proteins, hide, inference, **settings)
    if output:
        count = write_table(output, FILLED_COLUMNS, rows)
        click.echo(f"{output}: {count:,} proteins")
    else:
        csv.writer(sys.stdout, lineterminator="\n").writerows([FILLED_COLUMNS, *rows])


def _positions(context, parameter, value: str | None) -> list[int]:
    """Read ``12,40-45``."""
    positions = []
    for part in value.split(",") if value else ():
        match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2] or match[1]):
            raise click.BadParameter(f"{part!r}: write positions from 1 and stretches, such as 12,40-45")
        positions += range(int(match[1]), int(match[2] or match[1]) + 1)
    return positions
