"""Wording of messages, and numbers in files."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

_LONGEST_NAME = 100
_NUMBER = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?|nan)", re.IGNORECASE | re.ASCII
)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which is in the plural unless the number is 1.

    Parameters
    ----------
    number : int
        How many there are.
    noun : str
        A noun in the singular whose plural ends in s.

    Returns
    -------
    str

    Examples
    --------
    >>> counted(1, "protein"), counted(0, "protein"), counted(2500, "residue")
    ('1 protein', '0 proteins', '2,500 residues')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def shortened(text: str) -> str:
    """Return a name for a message, without the end of a very long one.

    Examples
    --------
    >>> shortened("P69905"), len(shortened(1000 * "x"))
    ('P69905', 103)
    """
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return a hint with the most similar choice for the end of an error message; nothing if none is similar.

    Parameters
    ----------
    name : str
        What the user wrote, such as ``max_step``.
    choices : iterable of str
        What exists. In a dotted name, such as ``trainer.max_steps``, the last part counts most.

    Returns
    -------
    str

    Examples
    --------
    >>> did_you_mean("trainer.max_step", ["trainer.max_steps", "trainer.devices"])
    '; did you mean trainer.max_steps?'
    >>> did_you_mean("lr", ["lora", "model.optim.lr"])
    '; did you mean model.optim.lr?'
    >>> did_you_mean("trainer.logger", ["trainer.compile"])
    ''
    """
    by_lower = {choice.lower(): choice for choice in choices}
    lower = name.lower()
    same_end = [choice for choice in by_lower if _end(choice) == _end(lower)]
    ends = difflib.get_close_matches(_end(lower), {_end(choice) for choice in by_lower}, n=len(by_lower) or 1)
    similar_end = [choice for choice in by_lower if _end(choice) in ends]
    similar = difflib.get_close_matches(lower, same_end, n=1, cutoff=0.0) or difflib.get_close_matches(
        lower, similar_end, n=1
    )
    return f"; did you mean {by_lower[similar[0]]}?" if similar else ""


def _end(name: str) -> str:
    return name.rpartition(".")[2]


def parse_number(text: str) -> float | None:
    """Return the number that a text from a file stands for.

    Python's ``float`` accepts more, such as ``1_0`` and the digits of all scripts. No other program reads these as
    numbers, so they are errors in a table.

    Parameters
    ----------
    text : str
        Such as ``12``, ``-0.5``, ``2e-3``, ``inf`` or ``nan``. White space at its ends is ignored.

    Returns
    -------
    float or None
        None if the text is not a number.

    Examples
    --------
    >>> parse_number("-0.5"), parse_number("2e-3"), parse_number("1_0"), parse_number("0,5")
    (-0.5, 0.002, None, None)
    """
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def printable(text: object) -> str:
    r"""Return a text in one line with control characters as escapes, so that they cannot control a terminal.

    Parameters
    ----------
    text : object
        A message, which may contain names from a stranger's file.

    Returns
    -------
    str

    Examples
    --------
    >>> print(printable("P1\x1b[2J\nP2 é"))
    P1\x1b[2J\nP2 é
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in str(text)
    )


def valid_text(name: str) -> str:
    r"""Return a name as text that every file can hold: bytes of a path that are not UTF-8 become question marks.

    Parameters
    ----------
    name : str
        Part of a path as Python decodes it, or a text from JSON.

    Returns
    -------
    str

    Examples
    --------
    >>> valid_text("größer"), valid_text("model\udcff")
    ('größer', 'model?')
    """
    return name.encode(errors="replace").decode()


def parse_json(text: str | bytes) -> Any:
    r"""Parse JSON. Its strings become text that every file can hold; see :func:`valid_text`.

    Parameters
    ----------
    text : str or bytes
        JSON, which can escape what is not a character.

    Returns
    -------
    Any

    Raises
    ------
    ValueError, RecursionError
        If the text is not JSON.

    Examples
    --------
    >>> parse_json(r'{"name": "a\udcff"}')
    {'name': 'a?'}
    """
    return json.loads(valid_text(json.dumps(json.loads(text), ensure_ascii=False)))


def each_warning_once(show: Callable[[str], object]) -> Callable[..., None]:
    """Return a function for ``warnings.showwarning`` that shows each text once, because inputs are read several times.

    Parameters
    ----------
    show : callable
        Called with the text of a warning.

    Returns
    -------
    callable

    Examples
    --------
    >>> show = each_warning_once(print)
    >>> show(UserWarning("a sequence was changed")); show(UserWarning("a sequence was changed"))
    a sequence was changed
    """
    shown: set[str] = set()

    def show_once(message: Warning | str, *_: object, **__: object) -> None:
        if (text := str(message)) not in shown:
            shown.add(text)
            show(text)

    return show_once
