"""``model_config.yaml`` of a ``.nemo`` file, as plain data.

Every genuine file carries ``target:`` and paths of the machine that trained it. They stay text: nothing is imported,
called, resolved or opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from prott5nv.errors import ProtT5nvError

MAX_SIZE = 1 << 18  # genuine ones have 3 to 9 kB
ARTIFACT = "nemo:"


class _Loader(yaml.SafeLoader):
    """``yaml.SafeLoader`` without aliases, which let a few lines stand for gigabytes, and without repeated keys."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is given twice", node.start_mark)
        return mapping


def parse(text: bytes, where: str) -> dict[str, Any]:
    """Parse the configuration.

    Parameters
    ----------
    text : bytes
        The member's content.
    where : str
        File and member, for messages.

    Raises
    ------
    ProtT5nvError
        If it is not plain YAML or not a mapping.
    """
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable characters"
        raise ProtT5nvError(f"{where}{place}: {problem[:200]}; expected plain YAML".replace("\n", " ")) from None
    except (ValueError, TypeError, OverflowError, RecursionError, AttributeError) as error:  # values that are no values
        raise ProtT5nvError(f"{where}: {type(error).__name__} in a value; expected plain YAML") from None
    if not isinstance(values, dict):
        raise ProtT5nvError(f"{where}: expected settings by name, found something else")
    return values


def artifacts(values: dict[str, Any], where: str) -> list[str]:
    """Members that the configuration names (``nemo:<member>``), wherever it does.

    Raises
    ------
    ProtT5nvError
        If such a name is not that of a member but a path.
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
    pending = [values]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
