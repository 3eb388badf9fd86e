"""``prott5nv fill``: predict the missing residues of proteins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prott5nv.cli import options
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import together
from prott5nv.io.inputs import InputFiles, input_files, parts
from prott5nv.io.output import is_standard_output
from prott5nv.io.text import counted

if TYPE_CHECKING:
    from prott5nv.io.cleaning import Cleaning


class Positions(click.ParamType):
    """Positions and ranges of positions, counted from 1, such as ``12,40-45``."""

    name = "positions"

    def convert(self, value: str | list[int], param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        positions: list[int] = []
        for part in value.split(","):
            match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part.strip())
            if not match or not 1 <= int(match[1]) <= int(match[2] or match[1]):
                self.fail(f"{part!r}: write positions from 1, or ranges of them, such as 12,40-45", param, ctx)
            positions += range(int(match[1]), int(match[2] or match[1]) + 1)
        return positions


@click.command()
@click.argument("source", metavar="INPUT...", nargs=-1, required=True, callback=lambda *given: _files(given[2]))
@click.option("-o", "--output", type=options.NewFile(".csv", stream=True), default="-", metavar="OUT.csv",
              help="CSV file to write. By default the table is printed.")  # fmt: skip
@click.option("-n", "n", type=click.IntRange(1), metavar="N", default=1, show_default=True,
              help="Number of results per protein.")  # fmt: skip
@click.option("--mask", "masked", type=Positions(), metavar="POSITIONS",
              help="Positions to predict again in every protein, such as 12,40-45. They count from "
              "1.")  # fmt: skip
@options.proteins
@options.cleaning
@click.option("--beams", type=click.IntRange(1), metavar="N",
              help="Width of the beam search: how many partial results are kept at each gap. The default is -n. A "
              "wider search is slower and can find better results.")  # fmt: skip
@click.option("--temperature", type=click.FloatRange(0), metavar="X", default=0, show_default=True,
              help="0 searches for the most likely results. Above 0, residues are sampled: 1 uses the model's "
              "probabilities, lower values favour likely residues.")  # fmt: skip
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), metavar="P", default=1, show_default=True,
              help="With --temperature above 0, sample only from the most likely residues, as few as needed to reach "
              "this total probability.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True,
              help="Seed of the random sampling, with --temperature above 0.")  # fmt: skip
@options.on_error
@options.overwrite
@options.spreadsheet_safe
@options.decoder_model
@options.precision
@options.device
def command(
    source: str | InputFiles,
    output: Path,
    n: int,
    masked: list[int] | None,
    wanted: Sequence[str],
    cleaning: Cleaning,
    beams: int | None,
    temperature: float,
    top_p: float,
    seed: int,
    on_error: str,
    overwrite: bool,
    spreadsheet_safe: bool,
    model: str | None,
    precision: str,
    device: str,
) -> None:
    """Predict the missing residues of proteins.

    INPUT is a sequence in which each ? stands for one missing residue, or a FASTA, CSV or TSV file of such sequences,
    or several files, or a folder of them.
    Use --mask to predict residues of complete proteins again. All other residues stay as they are, and so does the
    length.

    By default each gap gets its most likely residue, given those chosen before it. A search for several results (-n),
    or a wider one (--beams), can find a more likely combination. --temperature samples combinations at random.

    The table has one row per result: the protein, its id in INPUT, the rank (the order of the draws with
    --temperature), the filled sequence, the log-probability of all chosen residues together, for each gap its position,
    residue and probability, separated by colons, and the model. The log-probability is a natural logarithm, at most 0;
    a value closer to 0 means a more likely result.

    \b
    Examples:
      prott5nv fill 'MKT???AYI'
      prott5nv fill proteins.fasta --protein P0CG47 --mask 45-50 -n 5
      prott5nv fill gapped.fasta -n 100 --temperature 1 --top-p 0.9 --seed 7 -o designs.csv
    """
    options.reserve_outputs([output, options.skip_list(output)], [*parts(source), model], overwrite=overwrite)

    import numpy as np

    from prott5nv.checkpoint.models import model_file, read_decoder_config
    from prott5nv.decoding.fill import choice_rule
    from prott5nv.decoding.inputs import gap_fault, read_proteins
    from prott5nv.decoding.tables import FILLED_COLUMNS, filled_rows
    from prott5nv.embedding.embedder import Embedder
    from prott5nv.embedding.proteins import sequence_of
    from prott5nv.embedding.skips import Skips
    from prott5nv.io.record import Record
    from prott5nv.io.table import write_table

    # All options and input are checked before the weights are loaded. The model's configuration sets the limits.
    choice_rule(n, beams, temperature, top_p, np.random.default_rng(seed))
    cleaning = replace(cleaning, gap_hint="write ? in place of each residue to predict, ")
    skips = Skips(on_error == "skip")
    config = read_decoder_config(model_file(model))
    positions = masked or []
    if isinstance(source, str) and _is_sequence(source):
        if "?" not in source:
            example = re.sub("[-_.]", "?", source) if re.search("[-_.]", source) else "MKT?AYI"
            raise ProtT5nvError(
                f"{source}: there is no file of this name, and a sequence needs a ? in place of each missing residue, "
                f"such as {example!r}"
            )
        record = Record("sequence", sequence_of(source, "sequence", cleaning), "", 1)
        if fault := gap_fault(record, positions, config):
            raise ProtT5nvError(fault)
        proteins = {"sequence": record}
    else:
        proteins = read_proteins(source, skips, wanted, cleaning, lambda record: gap_fault(record, positions, config))
    embedder = Embedder(model, device=device, precision=precision)
    options.note_decoder(embedder)
    rows = filled_rows(
        proteins, positions, embedder, skips, n=n, beams=beams, temperature=temperature, top_p=top_p, seed=seed
    )
    with together():
        count = write_table(output, FILLED_COLUMNS, rows, spreadsheet_safe=spreadsheet_safe)
        options.write_skip_list(output, skips, spreadsheet_safe=spreadsheet_safe)
    if not is_standard_output(output):
        options.report_written(output, f"{counted(count, 'result')}, model {embedder.label}")
    options.finish(output, skips)


def _files(paths: Sequence[str]) -> str | InputFiles:
    """Return the input; a single sequence stays as it is."""
    return paths[0] if len(paths) == 1 and _is_sequence(paths[0]) else input_files(paths)


def _is_sequence(text: str) -> bool:
    """Return whether an argument is a sequence and no file.

    It consists of letters, of upper-case letters with gaps, or also of ``*`` and gaps if there is a ``?``.
    """
    is_sequence = re.fullmatch(r"[A-Za-z]+|[A-Z](?:[A-Z_-]|\.\.+)*|(?=.*\?)[A-Za-z?*_-]+", text) is not None
    return is_sequence and not Path(text).exists()
