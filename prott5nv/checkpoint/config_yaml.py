"""Safe parser of ``model_config.yaml``, the configuration in a ``.nemo`` file.

Every genuine file names a class (``target:``) and paths on the machine that trained the model. This parser treats them
as plain text. It imports, calls, resolves and opens nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import yaml

from prott5nv.errors import ProtT5nvError

MAX_SIZE = 1 << 18  # in bytes; genuine files have 3 to 9 kB
ARTIFACT = "nemo:"  # prefix of a value that names a member of the archive


class _Loader(yaml.SafeLoader):
    """``yaml.SafeLoader`` that refuses repeated keys, and aliases, with which a few lines can expand to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is given twice", node.start_mark)
        return mapping


def parse_config(text: bytes, where: str) -> dict[str, Any]:
    """Parse a configuration.

    Parameters
    ----------
    text : bytes
        Content of ``model_config.yaml``.
    where : str
        File and member for error messages.

    Returns
    -------
    dict
        The settings as plain data.

    Raises
    ------
    ProtT5nvError
        If the text is not plain YAML, or not a mapping.
    """
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable characters"
        raise ProtT5nvError(f"{where}{line}: {problem[:200]}; expected plain YAML".replace("\n", " ")) from None
    except (ValueError, TypeError, OverflowError, RecursionError, AttributeError) as error:  # e.g. an impossible date
        raise ProtT5nvError(f"{where}: {type(error).__name__} in a value; expected plain YAML") from None
    if not isinstance(values, dict):
        raise ProtT5nvError(f"{where}: not a mapping; expected settings by name")
    return values


def artifact_members(values: dict[str, Any], where: str) -> list[str]:
    """Find the members that a configuration names as ``nemo:<member>`` in any of its values.

    Parameters
    ----------
    values : dict
        The parsed configuration.
    where : str
        File and member for error messages.

    Returns
    -------
    list of str
        Names of members, each once.

    Raises
    ------
    ProtT5nvError
        If such a name is a path rather than the plain name of a member.
    """
    names = []
    for text in _texts(values):
        if text.startswith(ARTIFACT):
            name = text.removeprefix(ARTIFACT).removeprefix("./")
            if not name or "/" in name or "\\" in name or name == "..":
                raise ProtT5nvError(f"{where}: {text[:200]!r} leads out of the archive; expected nemo:<member>")
            if name not in names:
                names.append(name)
    return names


def _texts(values: Any) -> Iterator[str]:
    """Iterate over all strings in nested mappings and lists."""
    pending = [values]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
