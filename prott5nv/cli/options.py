"""Options, parameter types and messages that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

model = click.option("--model", metavar="FILE.nemo", help="Checkpoint to use. The default is the small built-in model.")
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
    help="Use only this protein of INPUT, given by accession or id. Repeat the option for several proteins.",
)


class NewFile(click.ParamType):
    """A file to write. Its folder must exist before the work starts.

    Parameters
    ----------
    *suffixes : str
        Allowed suffixes; by default any.
    """

    name = "file"

    def __init__(self, *suffixes: str) -> None:
        self._suffixes = suffixes

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if not path.absolute().parent.is_dir():
            self.fail(f"the folder {path.parent} does not exist", param, ctx)
        if self._suffixes and path.suffix not in self._suffixes:
            self.fail(f"choose a name that ends in {' or '.join(self._suffixes)}", param, ctx)
        return path


def note(line: str) -> None:
    """Print one line for the user on standard error."""
    click.echo(f"prott5nv: {line}", err=True)
