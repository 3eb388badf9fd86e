"""The ``prott5nv`` command. Each subcommand is a module of this package, which is imported only when it is needed."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import click

from prott5nv import __version__
from prott5nv.cli import log, options
from prott5nv.cli.threads import let_waiting_threads_sleep
from prott5nv.errors import ProtT5nvError
from prott5nv.extras import load_extensions
from prott5nv.io.text import did_you_mean, each_warning_once, printable
from prott5nv.model.onednn import limit_onednn_cache

COMMANDS = {
    "cache": "Show or delete the embeddings that finetune keeps.",
    "convert": "Convert a checkpoint to a Hugging Face folder, or back.",
    "embed": "Compute embeddings of proteins, per residue or per protein.",
    "fill": "Predict the missing residues of proteins.",
    "finetune": "Train a predictor for a task, evaluate it and save it as one file.",
    "info": "Describe a checkpoint without loading its weights.",
    "merge": "Join the shards of an array job into one file of embeddings.",
    "plot": "Plot proteins as points, coloured by a table.",
    "predict": "Predict secondary structure, localization, or what finetune learned.",
    "prepare": "Prepare training data: splits of UniRef50, or FLIP tasks.",
    "pretrain": "Pretrain a model on prepared protein sequences.",
    "report": "Compare fine-tuning runs with each other and with published results.",
    "score": "Score variants, all single substitutions, or whole proteins.",
    "search": "Find the proteins with the most similar embeddings.",
    "serve": "Answer requests for embeddings and scores over HTTP.",
}

# finetune loads the extensions with its configuration
_EXTENSIBLE = ("embed", "predict", "pretrain", "search", "serve")


class LazyGroup(click.Group):
    """A group that lists its commands from a table and imports a command only to run it, so that help is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            ctx.fail(f"no command {cmd_name!r}{did_you_mean(cmd_name, COMMANDS)}")
        if cmd_name in _EXTENSIBLE:
            load_extensions()
        command: click.Command = import_module(f"prott5nv.cli.{cmd_name}").command
        log.add_options(command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        # click itself would exit with code 1. Shells expect 128 plus the number of the signal.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(f"prott5nv: {_interruption(ctx.invoked_subcommand)}", err=True)
            ctx.exit(options.EXIT_INTERRUPTED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _interruption(command: str | None) -> str:
    """Return the message of a command that Ctrl-C ended."""
    if command == "finetune":
        return "stopped; finished embeddings are kept: give the same command again to continue"
    return "stopped"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="prott5nv")
@click.pass_context
def command(context: click.Context) -> None:
    """Work with protein T5 models: embed proteins, score variants, fill in residues, and train.

    A small demonstration model is included, so embed, search, score, fill, predict and info work right after
    installation. Where a command needs an extra, its help names it. Use --model to choose a checkpoint of your own,
    such as ProtT5nv's.

    \b
    Examples:
      prott5nv embed proteins.fasta -o proteins.h5
      prott5nv embed proteins.fasta.gz -o proteins.h5 --model prott5nv.nemo --pooling mean
      prott5nv plot proteins.h5
      prott5nv info prott5nv.nemo
      prott5nv prepare uniref50 uniref50.fasta.gz -o data/

    For the options and examples of one command, type prott5nv COMMAND --help. With each command, --quiet prints only
    results, warnings and errors, and --verbose also the traceback of an error.
    """
    let_waiting_threads_sleep()
    # The limit suits inference. Training needs more kernels per batch.
    if context.invoked_subcommand != "pretrain":
        limit_onednn_cache()


def _print_traceback() -> None:
    if log.is_verbose():
        traceback.print_exc()


def _print_warning(text: str) -> None:
    click.echo(f"prott5nv: warning: {printable(text)}", err=True)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with exit code 2 and one line on standard error after an error that the user can correct.

    With ``--verbose``, the traceback is printed before that line.
    """
    try:
        yield
    except ProtT5nvError as error:
        _print_traceback()
        click.echo(f"prott5nv: error: {printable(error)}", err=True)
        sys.exit(2)
    except OSError as error:  # such as a full disk, or a file without permission to read
        _print_traceback()
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"prott5nv: error: {printable(f'{where}{error.strerror or error}')}", err=True)
        sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors end it as :func:`one_line_errors` describes.

    Ctrl-C is one line and exit code 130. A warning is one line, too, and the same warning is printed once.

    Parameters
    ----------
    arguments : list of str, optional
        Arguments after the program's name; by default those of the process.
    """
    with log.restored(), one_line_errors(), warnings.catch_warnings():
        warnings.showwarning = each_warning_once(_print_warning)
        command(arguments, prog_name="prott5nv")
