"""Options, parameter types and messages that several commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from prott5nv.assets import scores_note
from prott5nv.cli.log import is_quiet
from prott5nv.embedding.formats import skipped_listing
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import check_replaceable
from prott5nv.io.cleaning import GAP_MODES, Cleaning
from prott5nv.io.inputs import input_files
from prott5nv.io.output import check_format, is_standard_output, is_stream, reserved_outputs
from prott5nv.io.text import counted, printable

if TYPE_CHECKING:
    from prott5nv.embedding.embedder import Embedder
    from prott5nv.embedding.skips import Skips

EXIT_SKIPPED = 3
EXIT_INTERRUPTED = 130

model = click.option(
    "--model",
    metavar="MODEL",
    help="Model to use: a .nemo file, the folder of a protein T5 model that transformers wrote, or its name on the "
    "Hugging Face Hub, such as Rostlab/ProstT5 (needs the extra hf). The default is the small built-in model.",
)
decoder_model = click.option(
    "--model", metavar="FILE.nemo", help="ProtT5nv checkpoint to use. The default is the small built-in model."
)
inputs = click.argument(
    "source",
    metavar="INPUT...",
    nargs=-1,
    required=True,
    callback=lambda context, parameter, paths: input_files(paths),
)
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Precision of the computation. auto chooses bf16 where the hardware computes it natively.",
)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cuda|mps|cpu",
    help="Device that runs the model. auto chooses a GPU if there is one. One of several GPUs is given as cuda:1.",
)
proteins = click.option(
    "--protein",
    "wanted",
    multiple=True,
    metavar="NAME",
    help="Use only this protein of INPUT, given by accession, entry name (HBA_HUMAN) or id. Repeat the option for "
    "several proteins.",
)
on_error = click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do with a record that cannot be used. stop ends the command. skip leaves the record out, lists it in "
    "OUT.csv.skipped.tsv, and exits with code 3.",
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
spreadsheet_safe = click.option(
    "--spreadsheet-safe",
    is_flag=True,
    help="Put an apostrophe before texts that a spreadsheet program could compute as formulas: those that begin with "
    "=, +, -, @, a tab or a carriage return, and before more than 15 digits, such as the confidence of many residues. "
    "Other numbers stay as they are. Without this option, ids are written unchanged.",
)


def cleaning(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options ``--gaps`` and ``--allow-nucleotides`` to a command, which gets them as `cleaning`."""

    @click.option(
        "--gaps",
        type=click.Choice(GAP_MODES),
        default="error",
        show_default=True,
        help="What to do with gaps (- and .) in a sequence, as in an alignment. error refuses the protein. keep treats "
        "each gap as an unknown residue. remove takes them out.",
    )
    @click.option(
        "--allow-nucleotides",
        is_flag=True,
        help="Accept an input whose letters are all A, C, G, T, U or N. Without this option it is refused.",
    )
    @wraps(command)
    def with_cleaning(*arguments: Any, gaps: str, allow_nucleotides: bool, **options: Any) -> None:
        command(*arguments, cleaning=Cleaning(gaps, allow_nucleotides), **options)

    return with_cleaning


class NewFile(click.ParamType):
    """A file to write. Its folder must exist before the work starts, and its suffix must fit.

    Whether the file may be replaced is checked by :func:`prott5nv.io.output.check_outputs`, which knows all inputs and
    outputs of a command.

    Parameters
    ----------
    *suffixes : str
        Suffixes of the formats that the command writes.
    others : bool, default True
        Whether other names are allowed as well, unless their suffix means a format that is not written.
    stream : bool, default False
        Whether ``-`` for standard output and pipes are allowed.
    """

    name = "file"

    def __init__(self, *suffixes: str, others: bool = True, stream: bool = False) -> None:
        self._suffixes = suffixes
        self._others = others
        self._stream = stream

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if is_stream(path):
            if not self._stream:
                self.fail(f"{path}: this output cannot be written to a pipe; give the name of a file", param, ctx)
            return path
        if not path.absolute().parent.is_dir():
            self.fail(f"the folder {path.parent} does not exist", param, ctx)
        if not self._others and path.suffix not in self._suffixes:
            self.fail(f"choose a name that ends in {' or '.join(self._suffixes)}", param, ctx)
        try:
            check_replaceable(path)
            check_format(path, self._suffixes)
        except ProtT5nvError as error:
            self.fail(str(error), param, ctx)
        return path


def reserve_outputs(
    outputs: Iterable[str | os.PathLike[str] | None],
    inputs: Iterable[str | os.PathLike[str] | None],
    *,
    overwrite: bool,
) -> None:
    """Check the outputs of a command and keep other processes from writing them until the command ends.

    See :func:`prott5nv.io.output.reserved_outputs`.
    """
    click.get_current_context().with_resource(reserved_outputs(outputs, inputs, overwrite=overwrite))


def skip_list(output: Path) -> Path | None:
    """Return the file that lists what is missing in an output; None if the output goes to a pipe, which has no list."""
    return None if is_stream(output) else skipped_listing(output)


def write_skip_list(output: Path, skips: Skips, *, spreadsheet_safe: bool) -> None:
    """List the skipped records beside the output; nothing happens if the output goes to a pipe."""
    if not is_stream(output):
        skips.write(output, spreadsheet_safe=spreadsheet_safe)


def finish(output: Path, skips: Skips) -> None:
    """Print how many records were skipped, and exit with code 3 if there are any. A pipe gets no list beside it."""
    listing = skip_list(output)
    if not skips.count:
        return
    if listing is None:
        for skipped in skips:
            warn(f"skipped: {skipped.reason}")
        sys.exit(EXIT_SKIPPED)
    exit_skipped(skips.count, "record", listing)


def exit_skipped(count: int, noun: str, listing: Path) -> NoReturn:
    """Print how many records or proteins an output lacks and where they are listed, and exit with code 3.

    The user may have removed the list of an output that was complete before.
    """
    where = f"listed in {listing}" if listing.exists() else f"and {listing} is missing; --overwrite writes it again"
    warn(f"skipped {counted(count, noun)}, {where}")
    sys.exit(EXIT_SKIPPED)


def report_written(path: Path, summary: str = "") -> None:
    """Print the name of an output and what it holds: on standard error if the output itself is on standard output.

    A quiet command prints nothing.
    """
    if not is_quiet():
        name = "standard output" if is_standard_output(path) else path
        click.echo(printable(f"{name}: {summary}" if summary else name), err=is_standard_output(path))


def note_decoder(embedder: Embedder) -> None:
    """Print the model of a command that scores or fills, the hardware, and what the built-in model is worth."""
    note(f"model {embedder.label}; {embedder.hardware}; batches of up to {embedder.max_tokens} residues")
    if text := scores_note(embedder.is_builtin):
        note(text)


def note(line: str) -> None:
    """Print one line for the user on standard error, unless the command is quiet."""
    if not is_quiet():
        click.echo(f"prott5nv: {printable(line)}", err=True)


def warn(line: str) -> None:
    """Print one line on standard error, also if the command is quiet."""
    click.echo(f"prott5nv: {printable(line)}", err=True)
