"""What a command prints besides its results: log messages of the package, and the options --quiet and --verbose."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from prott5nv.io.text import printable

logger = logging.getLogger("prott5nv")


class _PrintableFormatter(logging.Formatter):
    """Formats messages so that names from a file cannot control the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))


class _StandardStream(logging.StreamHandler):
    """Writes to the stream that is standard output or error at the time of the message."""

    def __init__(self, name: str, form: str) -> None:
        logging.Handler.__init__(self)
        self._stream_name = name
        self.setFormatter(_PrintableFormatter(form))

    @property
    def stream(self) -> object:
        """The stream."""
        return getattr(sys, self._stream_name)


def log_to_terminal() -> None:
    """Print information and warnings on standard error, with the name of the program, as commands with a table do."""
    _use(
        _StandardStream("stderr", "prott5nv: %(message)s"), _StandardStream("stderr", "prott5nv: warning: %(message)s")
    )


def log_training(first_process: bool) -> None:
    """Print information as plain lines on standard output, and warnings on standard error, as training does.

    Parameters
    ----------
    first_process : bool
        Whether this is the first of several processes that train together. Only the first prints.
    """
    if first_process:
        _use(_StandardStream("stdout", "%(message)s"), _StandardStream("stderr", "warning: %(message)s"))
    else:
        logger.propagate = False
        logger.handlers = [logging.NullHandler()]


def is_quiet() -> bool:
    """Return whether only results, warnings and errors are printed."""
    return not logger.isEnabledFor(logging.INFO)


def is_verbose() -> bool:
    """Return whether errors are printed with their traceback."""
    return logger.isEnabledFor(logging.DEBUG)


@contextmanager
def restored() -> Iterator[None]:
    """Log to the terminal within the block, and leave the logger of the package as it was after it."""
    before = logger.handlers, logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    log_to_terminal()
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


def add_options(command: click.Command) -> None:
    """Add ``--quiet`` and ``--verbose`` to a command, or to all commands of a group.

    Parameters
    ----------
    command : click.Command
    """
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            add_options(inner)
    elif not any(parameter.name == "quiet" for parameter in command.params):
        command.params += [
            click.Option(
                ["-q", "--quiet"],
                is_flag=True,
                expose_value=False,
                callback=_set_level(logging.WARNING),
                help="Print only results, warnings and errors.",
            ),
            click.Option(
                ["-v", "--verbose"],
                is_flag=True,
                expose_value=False,
                callback=_set_level(logging.DEBUG),
                help="Print the traceback of an error, too.",
            ),
        ]


def _set_level(level: int) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(context: click.Context, parameter: click.Parameter, is_given: bool) -> None:
        if is_given:
            logger.setLevel(level)

    return callback


def _use(information: logging.Handler, warning: logging.Handler) -> None:
    information.addFilter(lambda record: record.levelno < logging.WARNING)
    warning.setLevel(logging.WARNING)
    logger.propagate = False
    logger.handlers = [information, warning]
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
