"""A Sphinx directive that shows the help text of a command, taken from the program itself."""

from __future__ import annotations

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from prott5nv.cli import command as prott5nv_command


class CommandHelp(Directive):
    """``command-help`` with the words of a command, such as ``prepare uniref50``, as its argument."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the help text as a literal block."""
        context = click.Context(prott5nv_command, info_name="prott5nv", max_content_width=80, terminal_width=80)
        command: click.Command | None = prott5nv_command
        for word in self.arguments[0].split():
            assert isinstance(command, click.Group)
            command = command.get_command(context, word)
            if command is None:
                raise self.error(f"prott5nv has no command {self.arguments[0]!r}")
            context = click.Context(command, info_name=word, parent=context, max_content_width=80, terminal_width=80)
        text = context.get_help()
        block = nodes.literal_block(text, text)
        block["language"] = "text"
        return [block]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
