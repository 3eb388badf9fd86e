"""What several commands ask for."""

from __future__ import annotations

from pathlib import Path

import click

model = click.option("--model", metavar="FILE.nemo", help="A checkpoint; by default the small built-in model.")
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Of the computation. auto: bf16 where the hardware is made for it.",
)
device = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cuda|mps|cpu", help="Or a GPU such as cuda:1."
)
proteins = click.option(
    "--protein",
    "wanted",
    multiple=True,
    metavar="NAME",
    help="Only this one of INPUT, by accession or id; may be given several times.",
)


class NewFile(click.ParamType):
    """A file to write, whose folder must be there before the work begins.

    Parameters
    ----------
    *suffixes : str
        Endings to choose from; none allows any.
    """

    name = "file"

    def __init__(self, *suffixes: str):
        self._suffixes = suffixes

    def convert(self, value, param, ctx):
        path = Path(value)
        if not path.absolute().parent.is_dir():
            self.fail(f"the folder {path.parent} does not exist", param, ctx)
        if self._suffixes and path.suffix not in self._suffixes:
            self.fail(f"choose a name that ends in {' or '.join(self._suffixes)}", param, ctx)
        return path
