"""The ``prott5nv`` command. Each subcommand is a module of this package, imported only when it is asked for."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from prott5nv import __version__
from prott5nv.errors import ProtT5nvError

COMMANDS = {
    "convert": "Turn a checkpoint into a Hugging Face folder, or back.",
    "embed": "Turn proteins into embeddings: one row per residue.",
    "fill": "Put residues where a protein has gaps.",
    "finetune": "Train for a task, score it, save one file that predicts.",
    "info": "Say what a checkpoint is, without building the model.",
    "merge": "Join the shards of an array job into one file.",
    "plot": "Show proteins as points, coloured by a table.",
    "predict": "Predict with what finetune made.",
    "prepare": "Make training data: UniRef50 splits, FLIP tasks.",
    "report": "Put fine-tuning runs into one table, beside published figures.",
    "score": "Score variants, every substitution, or whole proteins.",
}


class LazyGroup(click.Group):
    """A group that lists commands from a table and imports one only to run it, so that help stays instant."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        if name not in COMMANDS:
            return None
        return import_module(f"prott5nv.cli.{name}").command

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="prott5nv")
def command():
    """Embed proteins with ProtT5nv, and prepare what its training needs.

    \b
    Examples:
      prott5nv embed proteins.fasta -o proteins.h5
      prott5nv embed proteins.fasta.gz -o proteins.h5 --model prott5nv.nemo --pooling mean
      prott5nv info prott5nv.nemo
      prott5nv prepare uniref50 uniref50.fasta.gz -o data/

    Pretraining is `python scripts/pretrain.py`. Each command explains itself: prott5nv COMMAND --help.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    try:
        command(arguments, prog_name="prott5nv")
    except ProtT5nvError as error:
        click.echo(f"prott5nv: error: {error}", err=True)
        sys.exit(2)
