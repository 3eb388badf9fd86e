"""Overrides on the command line: their names, and quoting, so that a setting of text takes any text, such as a path."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, cast, get_type_hints

from prott5nv.errors import ProtT5nvError
from prott5nv.io.text import did_you_mean
from prott5nv.settings import required_type, setting_fields, setting_names, unknown_setting

_OVERRIDE = re.compile(r"(\+{0,2})([\w.]+)=(.*)", re.DOTALL)
_SWEEP = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)
_HYDRA_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
# Flags of Hydra
_FLAG = re.compile(
    "-(h|c|p|r|m|sc|cp|cn|cd|i)|--(help|hydra-help|version|cfg|resolve|package|run|multirun|shell-completion|"
    "config-path|config-name|config-dir|info|experimental-rerun)"
)


def text_settings(config: type) -> set[str]:
    """Return the names of the settings that take any text, as they are written on the command line.

    Parameters
    ----------
    config : type
        Dataclass of all settings. These are its fields of type str, and those with ``text`` in their metadata.

    Returns
    -------
    set of str
        Names such as ``model.data.dataset_path``, and those of Hydra's own folders.
    """
    texts = {
        name
        for name, field, hint in setting_fields(config)
        if required_type(hint)[0] is str or field.metadata.get("text")
    }
    return texts | set(_HYDRA_FOLDERS)


def refuse_unknown_settings(values: Mapping[str, Any], config: type) -> None:
    """Refuse settings that ``+NAME=VALUE`` added and that nothing reads.

    Parameters
    ----------
    values : mapping
        The composed configuration.
    config : type
        Dataclass of all settings. A section with a true attribute ``is_open`` takes any setting.

    Raises
    ------
    ProtT5nvError
        Names the first unknown setting and the most similar one that exists.
    """
    names = setting_names(config)
    sections: list[tuple[str, Mapping[str, Any], type]] = [("", values, config)]
    while sections:
        prefix, section, schema = sections.pop()
        hints = get_type_hints(schema)
        for key, value in section.items():
            name = f"{prefix}{key}"
            if name in names:
                if is_dataclass(hints[key]) and isinstance(value, Mapping):
                    sections.append((f"{name}.", value, cast(type, hints[key])))
            elif key in getattr(schema, "fixed", ()) or not getattr(schema, "is_open", False):
                raise ProtT5nvError(unknown_setting(name, config))


def refuse_unknown_flags(arguments: Sequence[str], config: type) -> None:
    """Refuse an argument that looks like an option but is none of Hydra's flags.

    Parameters
    ----------
    arguments : sequence of str
        Overrides and flags for Hydra.
    config : type
        Dataclass of all settings.

    Raises
    ------
    ProtT5nvError
        Says how a setting is written, and names the most similar one.
    """
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.startswith("-") and not _FLAG.fullmatch(flag):
            hint = did_you_mean(flag.lstrip("-").replace("-", "_"), setting_names(config))
            raise ProtT5nvError(f"there is no option {flag}; a setting is written NAME=VALUE{hint}")


def quote_texts(arguments: Sequence[str], settings: Collection[str]) -> list[str]:
    """Quote the values of some settings, so that Hydra reads every character literally.

    A leading ``~`` becomes the home folder. ``null``, a list, a value that is already quoted and interpolations
    (``${...}``) keep their meaning. With ``--multirun``, a comma separates values.

    Parameters
    ----------
    arguments : sequence of str
        Overrides and flags for Hydra.
    settings : collection of str
        Names of the settings whose values are quoted.

    Returns
    -------
    list of str

    Examples
    --------
    >>> quote_texts(["data_dir=a (1), b=2", "seeds=[1,2]"], {"data_dir"})
    ["data_dir='a (1), b=2'", 'seeds=[1,2]']
    """
    multirun = is_multirun(arguments)
    quoted = []
    for argument in arguments:
        match = _OVERRIDE.fullmatch(argument)
        if match is None or match[2] not in settings:
            quoted.append(argument)
            continue
        value = match[3]
        if multirun and not _SWEEP.fullmatch(value):
            value = ",".join(_quote_unless_special(part) for part in _split(value))
        elif not multirun:
            value = _quote_unless_special(value)
        quoted.append(f"{match[1]}{match[2]}={value}")
    return quoted


def quote(text: str) -> str:
    """Quote a text that may contain anything for Hydra's grammar of overrides.

    Examples
    --------
    >>> print(quote("it's"))
    'it\\'s'
    """
    # A backslash is special only in front of a quote, which includes the closing one.
    escaped = re.sub(r"(\\*)('|\Z)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"


def is_multirun(arguments: Sequence[str]) -> bool:
    """Return whether Hydra's flag for several jobs is among the arguments."""
    return any(argument in ("-m", "--multirun") for argument in arguments)


def differs_between_jobs(arguments: Sequence[str], setting: str) -> bool:
    """Return whether the command line gives a setting another value for each job of ``--multirun``.

    Parameters
    ----------
    arguments : sequence of str
        Arguments of the command.
    setting : str
        Name of the setting.
    """
    matches = [match for match in map(_OVERRIDE.fullmatch, arguments) if match and match[2] == setting]
    return any("${" in match[3] or len(_split(match[3])) > 1 or _SWEEP.fullmatch(match[3]) for match in matches)


def _quote_unless_special(value: str) -> str:
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if value in ("", "null", "???") or is_quoted or value[0] + value[-1] == "[]":
        return value
    return quote(os.path.expanduser(value))


def _split(value: str) -> list[str]:
    """Split at commas, but not within quotes or brackets."""
    parts = re.findall(r"(?:'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\$\{[^}]*\}|[^,])+", value)
    return parts or [value]
