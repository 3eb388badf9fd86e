"""``prott5nv embed``: a file of proteins in, a file of embeddings out."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from prott5nv.cli import options
from prott5nv.cli.ray_environment import prepare_ray
from prott5nv.embedding.formats import DTYPES, SUFFIXES, check_suffix, skipped_listing, workers_folder
from prott5nv.embedding.keys import KEYS
from prott5nv.embedding.pooling import POOLINGS
from prott5nv.embedding.run import Listener, Request, check_shard, run
from prott5nv.embedding.workers import run_with_workers
from prott5nv.errors import ProtT5nvError
from prott5nv.io.inputs import InputFiles, is_remote, parts, reads_once
from prott5nv.io.output import check_outputs
from prott5nv.io.progress import Progress
from prott5nv.io.text import counted

if TYPE_CHECKING:
    from prott5nv.embedding.job import Summary
    from prott5nv.embedding.survey import Survey
    from prott5nv.io.cleaning import Cleaning

_POOLING_HELP = (
    "none stores one row per residue, shape (L, D). The other choices store one row per protein, shape (D,). "
)
_POOLING_HELP += " ".join(
    f"{name}: {(inspect.getdoc(function) or '').splitlines()[0]}" for name, function in POOLINGS.items()
)

_ADVICE = "you can stop at any time and continue later with the same command"
_KEY_HELP = " ".join(f"{name}: {inspect.getdoc(make_key)}" for name, make_key in KEYS.items())


class _Output(options.NewFile):
    """A file to write, or a folder if it exists already. Later checks find out what it is."""

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(value) if Path(value).is_dir() else super().convert(value, param, ctx)


@click.command()
@options.inputs
@click.option(
    "-o",
    "--output",
    type=_Output(*SUFFIXES),
    required=True,
    metavar="OUT",
    help="File to write, or folder with --ray. With a pooling, the file can be .npz or .parquet (which needs the extra "
    "parquet); any other suffix means HDF5, but one of another format, such as .csv, is refused.",
)
@options.model
@click.option("--pooling", type=click.Choice(["none", *POOLINGS]), default="none", show_default=True,
              help=_POOLING_HELP)  # fmt: skip
@click.option("--long", type=click.Choice(["truncate", "window", "error", "skip"]), default="truncate",
              show_default=True, help="What to do with a protein that is longer than the model accepts at once (512 "
              "residues for ProtT5nv). truncate embeds its first residues. window embeds all residues in overlapping "
              "windows and averages the rows where windows overlap. error stops the command before any protein is "
              "embedded. skip leaves the protein out.")  # fmt: skip
@click.option("--max-length", type=click.IntRange(2), metavar="N",
              help="Apply --long to proteins of more than N residues. "
              "The default is the limit of the model; T5 models, such as ProtT5-XL, have none.")  # fmt: skip
@click.option("--input", "kind", type=click.Choice(["aa", "3di"]), default="aa", show_default=True,
              help="Kind of the sequences: amino acids, or structural states of Foldseek, which only ProstT5 "
              "takes.")  # fmt: skip
@click.option("--layer", type=click.IntRange(1), metavar="N",
              help="Take the output of the N-th encoder layer, which is not normalized. The default is the last layer "
              "after the final normalization.")  # fmt: skip
@options.precision
@options.device
@click.option("--compile/--no-compile", default=None, help="Let torch.compile fuse the layers on a GPU, or the "
              "feed-forward networks elsewhere. This takes up to half a minute at the start. By default it is done on "
              "a GPU from 300 million residues on.")  # fmt: skip
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True,
              help="Data type of the stored embeddings.")  # fmt: skip
@click.option("--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
              help="What to do with a protein that cannot be embedded. stop ends the run. "
              "skip leaves the protein out, lists it in OUT.h5.skipped.tsv, and exits with code 3.")  # fmt: skip
@click.option("--shard", metavar="I/N", callback=lambda *given: _shard(*given),
              help="Embed only the I-th of N parts of the input, counted from 1, for example in an array job. The "
              "parts have about the same number of residues. OUT must be HDF5. Join the parts with prott5nv "
              "merge.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), default=1, metavar="N", show_default=True,
              help="Number of processes on this machine, typically one for each GPU or CPU socket.")  # fmt: skip
@click.option("--ray", "address", is_flag=False, flag_value="", metavar="[ADDRESS]",
              callback=lambda *given: _address(*given),
              help="Embed on a Ray cluster (needs the extra ray). OUT is then a folder of Parquet files, and all nodes "
              "must share its parent folder. ADDRESS is that of a cluster, as for ray.init, such as auto. Without it, "
              "the environment variable RAY_ADDRESS is used; if that is not set, Ray is started on this machine. "
              "--workers then limits the number of actors. By default there is one for each GPU, or one for each node "
              "if there is none.")  # fmt: skip
@click.option("--id-column", metavar="NAME", help="Column that holds the ids in a table. It is needed only if the "
              "column has no usual name, such as id or accession.")  # fmt: skip
@click.option("--sequence-column", metavar="NAME", help="Column that holds the sequences in a table. It is needed only "
              "if the column has no usual name, such as sequence.")  # fmt: skip
@click.option("--key", type=click.Choice(list(KEYS)), default="accession", show_default=True,
              help=f"Name of each dataset. {_KEY_HELP}")  # fmt: skip
@options.cleaning
@options.overwrite
def command(
    source: str | InputFiles,
    output: Path,
    model: str | None,
    pooling: str,
    long: str,
    max_length: int | None,
    kind: str,
    layer: int | None,
    precision: str,
    device: str,
    compile: bool | None,
    dtype: str,
    on_error: str,
    shard: tuple[int, int] | None,
    workers: int,
    address: str | None,
    id_column: str | None,
    sequence_column: str | None,
    key: str,
    cleaning: Cleaning,
    overwrite: bool,
) -> None:
    """Compute embeddings of proteins: one row per residue, or one per protein.

    INPUT is a FASTA file, a CSV or TSV file with a header line, or a Parquet file (which needs the extra parquet). Text
    files may be gzipped. INPUT can be - for standard input, or a pipe, such as <(zcat a.gz b.gz). A pipe is read once,
    like standard input. Several files are read as one input, and so are the files in a folder. With --ray, INPUT can be
    in an object store: s3://bucket/proteins/ is copied to the folder of the run first.

    A * at the end of a sequence is removed. An empty sequence, or a word such as NA or null in its place, is an error.

    OUT contains one dataset per protein, in input order. The name of a dataset is the accession: P69905 for
    sp|P69905|HBA_HUMAN, and the first word of any other header; --key chooses another name. The unchanged first word is
    stored as the attribute original_id.

    \b
    Examples:
      prott5nv embed proteins.fasta -o proteins.h5
      prott5nv embed proteome.fasta.gz -o proteome.h5 --model prott5nv.nemo --pooling mean
      prott5nv embed table.parquet -o means.parquet --pooling mean
      prott5nv embed proteins.fasta -o proteins.h5 --model Rostlab/prot_t5_xl_half_uniref50-enc
      prott5nv embed table.csv -o table.h5 --id-column entry --sequence-column aa --long window
      prott5nv embed chain_a.fasta chain_b.fasta more/ -o all.h5 --on-error skip
      zcat *.fasta.gz | prott5nv embed - -o all.h5
      prott5nv embed proteome.fasta -o proteome.h5 --workers 4
      prott5nv embed uniref50.fasta.gz -o uniref50/ --pooling mean --ray auto

    \b
    Read the result in Python:
      >>> from prott5nv import EmbeddingStore
      >>> EmbeddingStore("proteins.h5")["P69905"].shape
      (142, 448)

    If a run is killed or the disk is full, finished proteins stay in OUT.h5.partial/. Give the same command again to
    continue. OUT appears only when it is complete. If OUT exists with the same input and settings, nothing is computed.
    If it holds anything else, the command refuses it. With --overwrite, OUT is computed again and replaced in any case,
    unless another run of it is unfinished: then finish that run, or delete the folder that the message names.

    --on-error skip applies to single proteins. A damaged file, such as an incomplete gzip file or a table without the
    column, is always an error, because the missing proteins cannot be listed.

    Exit codes: 0 for success, 2 for an error, 3 for success with skipped proteins, 130 after Ctrl-C.
    """
    if address is not None:
        _check_ray(output, shard)
    else:
        if remote := next(filter(is_remote, parts(source)), None):
            raise click.UsageError(f"{remote}: only --ray reads from an object store; download the file first")
        check_suffix(output, None if pooling == "none" else pooling, shard=shard is not None)
        check_outputs([output], [*parts(source), model], overwrite=True)  # `embed_file` finds out if it is complete
    several = address is None and workers > 1 and (overwrite or not output.exists())
    if several and (shard or reads_once(source)):
        raise click.UsageError(
            "--workers cuts a file into shards itself: use neither --shard nor standard input nor a pipe with it"
        )
    request = Request(
        source,
        output,
        model,
        device=device,
        precision=precision,
        compile=compile,
        max_length=max_length,
        input=kind,
        layer=layer,
        pooling=None if pooling == "none" else pooling,
        long=long,
        dtype=dtype,
        skip_errors=on_error == "skip",
        shard=shard,
        id_column=id_column,
        sequence_column=sequence_column,
        cleaning=cleaning,
        key=key,
        overwrite=overwrite,
    )
    if address is not None:
        _embed_on_ray(request, address, workers)
    elif several:
        _embed(request, workers, lambda progress: run_with_workers(request, workers, progress))
    else:
        _embed(request, 1, lambda progress: run(request, progress))


def _embed_on_ray(request: Request, address: str, workers: int) -> None:
    from prott5nv.scale.job import embed_on_ray

    prepare_ray(address)
    is_chosen = click.get_current_context().get_parameter_source("workers") is not ParameterSource.DEFAULT
    actors = workers if is_chosen else None
    _embed(request, 1, lambda progress: embed_on_ray(request, progress, address=address or None, actors=actors))


def _check_ray(output: Path, shard: tuple[int, int] | None) -> None:
    """Refuse options that do not go together with ``--ray``."""
    if shard:
        raise click.UsageError("--ray cuts the input itself: do not use --shard with it")
    if output.suffix in SUFFIXES:
        raise click.UsageError(f"{output}: --ray writes a folder; give a name without {output.suffix}")


def _embed(request: Request, workers: int, embed: Callable[[_Progress], Summary]) -> None:
    """Run the request and print its result. An interrupted run prints how to continue."""
    output = request.output
    folder = workers_folder(output) if workers > 1 else f"{output}.partial"
    progress = _Progress(request.long)
    try:
        summary = embed(progress)
    except OSError as error:
        raise ProtT5nvError(
            f"{output}: {error.strerror or error}; finished proteins are safe in {folder}: "
            "give the same command again to continue"
        ) from None
    except KeyboardInterrupt:
        progress.close()
        kept = f"; finished proteins are safe in {folder}: give the same command again to continue"
        options.warn(f"stopped{kept if os.path.exists(folder) else ''}")
        sys.exit(options.EXIT_INTERRUPTED)
    finally:
        progress.close()
    _report(request, summary, workers, progress.model)


def _report(request: Request, summary: Summary, workers: int, model: str) -> None:
    """Print the result of a finished run; exit with code 3 if proteins were skipped."""
    output = request.output
    counts = f"{counted(summary.proteins, 'protein')}, {counted(summary.residues, 'residue')}, model {model}"
    if summary.complete_already:
        options.report_written(output, f"already complete, {counts}")
    else:
        resumed = f"; an earlier run had finished {counted(summary.resumed, 'record')}" if summary.resumed else ""
        by_workers = f" by {workers} workers" if workers > 1 else ""
        options.report_written(output, f"{counts}{by_workers}{resumed}{_hint(request, summary)}")
    if summary.skipped:
        from prott5nv.embedding.shard_folder import SKIPPED

        listing = output / SKIPPED if output.is_dir() else skipped_listing(output)
        options.exit_skipped(summary.skipped, "protein", listing)


def _hint(request: Request, summary: Summary) -> str:
    """Return how a run can be faster whose rows per residue were limited by the disk."""
    if request.pooling or request.dtype != "float32" or not summary.limited_by_writing:
        return ""
    fraction = summary.seconds_writing / summary.seconds
    return f"; {fraction:.0%} of the time was spent writing, which --dtype float16 would halve"


def _shard(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Read ``I/N``."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", value)
    if not match:
        raise click.BadParameter(f"{value!r}: write I/N with I from 1 to N, such as 2/4")
    shard = int(match[1]), int(match[2])
    try:
        check_shard(shard)
    except ProtT5nvError as error:
        raise click.BadParameter(str(error)) from None
    return shard


def _address(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse an input that follows ``--ray``. Otherwise the error would be that there is no input."""
    if value and os.path.exists(value):
        raise click.UsageError(f"--ray {value}: this is a file, not an address; write --ray behind INPUT")
    return value


class _Progress(Listener):
    """Prints notes and warnings of a run, and the progress in residues, on standard error."""

    def __init__(self, long: str) -> None:
        self.model = ""
        self._long = long
        self._total: int | None = None
        self._bar: Progress | None = None

    def on_start(self, model: str, hardware: str) -> None:
        self.model = model
        options.note(f"model {model}; {hardware}")

    def on_warning(self, message: str) -> None:
        options.warn(f"warning: {message}")

    def on_survey(self, survey: Survey) -> None:
        self._total = survey.residues
        if survey.long.count and self._long == "truncate":
            self.on_warning(
                f"longer than the model accepts: {survey.long.count:,} of {counted(survey.proteins, 'protein')}, "
                f"truncated to their first residues (--long window embeds all of their residues): {survey.long}"
            )

    def on_compile(self) -> None:
        options.note("compiling the layers, because the input is large (--no-compile prevents it)")

    def on_progress(self, residues: int) -> None:
        if self._bar is None:
            # The first call gives the residues of an earlier run, which must not count for this run's speed.
            self._bar = Progress(self._total, initial=residues, advice=_ADVICE)
        else:
            self._bar.update(residues)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
