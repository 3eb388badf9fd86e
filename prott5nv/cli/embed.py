"""``prott5nv embed``: a file of proteins in, a file of embeddings out."""

from __future__ import annotations

import sys
import warnings
from functools import cache

import click

from prott5nv.cli import options
from prott5nv.cli.workers import EXIT_SKIPPED, embed_with_workers
from prott5nv.embedding.formats import check_suffix, skipped_listing


@click.command()
@click.argument("source", metavar="INPUT")
@click.option(
    "-o",
    "--output",
    type=options.NewFile(),
    required=True,
    metavar="OUT",
    help="The file to write: .npz or .parquet for --pooling mean, HDF5 by any other name.",
)
@options.model
@click.option("--pooling", type=click.Choice(["none", "mean"]), default="none", show_default=True,
              help="none: one row per residue, (L, D). mean: one row per protein, (D,).")  # fmt: skip
@click.option("--long", type=click.Choice(["truncate", "window", "error", "skip"]), default="truncate",
              show_default=True, help="For proteins longer than the 512 residues the model sees at once: their first "
              "512; all residues by overlapping windows, averaged; stop; or leave them out.")  # fmt: skip
@options.precision
@options.device
@click.option("--compile", is_flag=True, help="Let torch.compile fuse the feed-forward layers: half a minute at the "
              "start, for long runs on a GPU.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True,
              help="Of the numbers on disk.")  # fmt: skip
@click.option("--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
              help="skip: go on without the protein, list it in OUT.skipped.tsv, exit with code 3.")  # fmt: skip
@click.option("--shard", metavar="I/N", callback=lambda *given: _shard(*given),
              help="Only the I-th of N stretches of the input; join them with prott5nv merge.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), default=1, metavar="N", show_default=True,
              help="Processes, one for each GPU or CPU socket.")  # fmt: skip
@click.option("--id-column", metavar="NAME", help="Of a CSV or TSV file, where it is not called id, accession, ...")
@click.option("--sequence-column", metavar="NAME", help="Of a CSV or TSV file, where it is not called sequence.")
def command(
    source,
    output,
    model,
    pooling,
    long,
    precision,
    device,
    compile,
    dtype,
    on_error,
    shard,
    workers,
    id_column,
    sequence_column,
):
    """Turn proteins into embeddings: one row per residue.

    INPUT is FASTA, CSV or TSV with a header line, gzipped or not, Parquet, or - for standard input. OUT gets one
    dataset per protein, in input order. Its name is the accession: P69905 for sp|P69905|HBA_HUMAN, the first word of
    any other header; the whole first word is its attribute original_id.

    \b
    Examples:
      prott5nv embed proteins.fasta -o proteins.h5
      prott5nv embed proteome.fasta.gz -o proteome.h5 --model prott5nv.nemo --pooling mean
      prott5nv embed table.parquet -o means.parquet --pooling mean
      prott5nv embed table.csv -o table.h5 --id-column entry --sequence-column aa --long window
      zcat *.fasta.gz | prott5nv embed - -o all.h5 --on-error skip
      prott5nv embed proteome.fasta -o proteome.h5 --workers 4

    \b
    Read the result:
      >>> from prott5nv import EmbeddingStore
      >>> EmbeddingStore("proteins.h5")["P69905"].shape
      (142, 768)

    A run that was killed, or met a full disk, keeps its work in OUT.partial/: give the same command again and it goes
    on where it stopped. OUT appears only when it is complete.

    --on-error skip is for proteins. A file that is damaged (gzip data that break off, a table without the column) is an
    error with either choice, since nobody can say which proteins are lost.

    \b
    Exit codes: 0 done, 2 an error, 3 done, but proteins were skipped, 130 stopped with Ctrl-C.
    """
    check_suffix(output, pooling)
    if workers > 1 and not output.exists():
        if shard or source == "-":
            raise click.UsageError("--workers cuts a file into shards itself: give neither --shard nor standard input")
        given = {
            "--model": model,
            "--pooling": pooling,
            "--long": long,
            "--precision": precision,
            "--compile": compile or None,
            "--dtype": dtype,
            "--on-error": on_error,
            "--id-column": id_column,
            "--sequence-column": sequence_column,
        }
        try:
            proteins, code = embed_with_workers(source, output, workers, device, given)
        except KeyboardInterrupt:
            _say(f"stopped; finished proteins are safe in {output}.workers: give the same command again to go on")
            sys.exit(130)
        click.echo(f"{output}: {proteins:,} proteins, embedded by {workers} workers")
        sys.exit(code)

    from prott5nv.embedding.embedder import Embedder, LongProteinWarning
    from prott5nv.embedding.job import embed_file

    say_once = cache(lambda message: _say(f"warning: {message}"))  # the input is read twice
    warnings.showwarning = lambda message, *_, **__: say_once(str(message))
    warnings.simplefilter("ignore", LongProteinWarning)  # said at the start, from the survey
    inference = Embedder(model, device=device, precision=precision, compile=compile)
    _say(f"{inference.hardware}; {inference.max_tokens} residues at once")
    progress = _Progress(inference.config.max_position_embeddings, long)
    try:
        summary = embed_file(
            source,
            output,
            inference,
            model_path=model,
            pooling=None if pooling == "none" else pooling,
            long=long,
            dtype=dtype,
            skip_errors=on_error == "skip",
            shard=shard,
            id_column=id_column,
            sequence_column=sequence_column,
            on_survey=progress.survey,
            on_progress=progress.update,
        )
    except OSError as error:
        from prott5nv.errors import ProtT5nvError

        raise ProtT5nvError(
            f"{output}: {error.strerror or error}; finished proteins are safe in {output}.partial: "
            "give the same command again to go on"
        ) from None
    except KeyboardInterrupt:
        _say(f"stopped; finished proteins are safe in {output}.partial: give the same command again to go on")
        sys.exit(130)
    finally:
        progress.close()

    counts = f"{summary.proteins:,} proteins, {summary.residues:,} residues"
    if summary.complete_already:
        click.echo(f"{output}: complete already, {counts}")
    else:
        resumed = f" (the first {summary.resumed:,} records in an earlier run)" if summary.resumed else ""
        click.echo(f"{output}: {counts}{resumed}")
    if summary.skipped:
        _say(f"skipped {summary.skipped:,} proteins, listed in {skipped_listing(output)}")
        sys.exit(EXIT_SKIPPED)


def _shard(context, parameter, value: str | None) -> tuple[int, int] | None:
    """Read ``I/N``."""
    if value is None:
        return None
    index, _, count = value.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise click.BadParameter(f"{value!r}: write I/N with I from 1 to N, such as 2/4")
    return int(index), int(count)


class _Progress:
    """A bar of residues, with rate and, where the input could be counted first, the time left."""

    def __init__(self, limit: int, long: str):
        self._limit = limit
        self._long = long
        self._bar = None
        self._total = None

    def survey(self, survey) -> None:
        self._total = survey.residues
        if survey.long.count and self._long == "truncate":
            _say(
                f"warning: {survey.long.count} of {survey.proteins} proteins have more than {self._limit} residues, of "
                f"which the first {self._limit} are embedded (--long window embeds all): {survey.long}"
            )

    def update(self, residues: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            # The first call says what an earlier run did, which is not part of this one's rate.
            self._bar = tqdm(total=self._total, initial=residues, unit=" residues", unit_scale=True, mininterval=0.5)
        else:
            self._bar.update(residues)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _say(line: str) -> None:
    click.echo(f"prott5nv: {line}", err=True)
