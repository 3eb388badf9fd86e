"""Names and types of the settings of a Hydra configuration, and errors about them in one line.

The settings are the fields of a dataclass. Its sections are fields that are dataclasses themselves.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Collection, Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    OmegaConfBaseException,
    ValidationError,
)

from prott5nv.io.text import did_you_mean, shortened

_TYPES = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
_LISTS = {int: ("integers", "[1,2]"), float: ("numbers", "[0.1,0.2]"), str: ("texts", "[a,b]")}
# What Hydra says about an override that it cannot use, and about a part of the configuration that nobody chose
_OF_OVERRIDE = re.compile(r"(?:Error merging override |Ambiguous value for argument ')\+{0,2}([\w.]+)=([^\n]*)")
_OF_FILE = re.compile(r"In '([^']+)': (\w+) raised while composing config:\s+.*full_key: (\S+)", re.DOTALL)
_OF_MISSING = re.compile(r"You must specify '(\w+)'.*\nAvailable options:\n(.*)", re.DOTALL)


def setting_fields(config: type, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """Yield the name, the field and the type of each section and each setting.

    Parameters
    ----------
    config : type
        Dataclass of all settings.
    prefix : str, default ""
        Beginning of the names.
    """
    hints = get_type_hints(config)
    for field in fields(config):
        hint = hints[field.name]
        yield prefix + field.name, field, hint
        if isinstance(hint, type) and is_dataclass(hint):
            yield from setting_fields(hint, f"{prefix}{field.name}.")


def setting_names(config: type) -> list[str]:
    """Return the names of all settings and sections, such as ``trainer`` and ``trainer.max_steps``.

    Parameters
    ----------
    config : type
        Dataclass of all settings.
    """
    return [name for name, _, _ in setting_fields(config)]


def flat(section: dict[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """Return the values of nested sections by their full names.

    Parameters
    ----------
    section : dict
        A configuration as a dictionary. It may be nested deeply, for example in a stranger's file.
    without : collection of str
        Full names of values and sections to leave out.

    Returns
    -------
    dict of str to Any

    Examples
    --------
    >>> flat({"name": "x", "trainer": {"devices": 1, "max_steps": 5}}, without=["trainer.devices"])
    {'name': 'x', 'trainer.max_steps': 5}
    """
    values = {}
    remaining: list[tuple[str, Any]] = [("", section)]
    while remaining:
        name, value = remaining.pop()
        if name in without:
            continue
        if isinstance(value, dict):
            remaining += [(f"{name}.{key}" if name else key, inner) for key, inner in reversed(value.items())]
        else:
            values[name] = value
    return values


def can_be_added(name: str, config: type) -> bool:
    """Return whether ``+NAME=VALUE`` can add a setting that the configuration does not declare.

    Parameters
    ----------
    name : str
        Full name of the setting.
    config : type
        Dataclass of all settings.
    """
    section = _types(config).get(name.rpartition(".")[0])
    return get_origin(section) is dict or getattr(section, "is_open", False)


def required_type(hint: Any) -> tuple[Any, bool]:
    """Return a type without None, and whether None is allowed, too.

    Parameters
    ----------
    hint : Any
        Type of a setting.
    """
    if get_origin(hint) in (Union, types.UnionType):
        required = [part for part in get_args(hint) if part is not type(None)]
        return required[0] if len(required) == 1 else hint, len(required) < len(get_args(hint))
    return hint, False


def describe(error: Exception, config: type) -> str:
    """Return an error in one line that names the setting, and what is expected or the most similar name.

    Parameters
    ----------
    error : Exception
        Error of Hydra or OmegaConf, or of this package.
    config : type
        Dataclass of all settings.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name}: must be one of {', '.join(error.options)}{did_you_mean(name, error.options)}"
    if isinstance(error, OverrideParseException):
        return (
            f"{shortened(error.override)}: cannot be parsed; close all brackets, and quote a text with special "
            "characters"
        )
    if missing := _OF_MISSING.match(str(error)):
        return f"{missing[1]} has no value: add {missing[1]}=NAME, where NAME is one of {', '.join(missing[2].split())}"
    if in_file := _OF_FILE.match(str(error)):
        file, kind, name = in_file.groups()
        expected = "" if kind in ("ConfigKeyError", "ConfigAttributeError") else _expected(name, None, config)
        return f"{file}.yaml: {f'{name}: {expected}' if expected else unknown_setting(name, config)}"
    # OmegaConf's own errors have a cause under a debugger, whose text is not complete.
    cause = error
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        cause = error.__cause__
    given = _OF_OVERRIDE.match(str(error)) if isinstance(error, HydraException) else None
    if given and cause is error:
        name, values = given[1], given[2].removesuffix("'")
        if get_origin(_types(config).get(name)) is list:
            return f"{name}={values}: {_expected(name, values, config)}"
        return f"{name}={values}: several values need --multirun, and a text with a comma needs quotes"
    if not isinstance(cause, OmegaConfBaseException) or not cause.full_key:
        return " ".join(str(cause).split())
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        return unknown_setting(str(cause.full_key), config)
    name = re.sub(r"\[\d+\]$", "", str(cause.full_key))  # an item of a list
    if isinstance(cause, (ValidationError, ConfigTypeError)):
        if given and given[1] == name:
            value = given[2]
        else:  # a setting that takes its value from another one, or that is set from Python
            value = None if isinstance(cause, ConfigTypeError) or name != cause.full_key else _written(cause.value)
        if expected := _expected(name, value, config):
            return f"{name if value is None else f'{name}={shortened(value)}'}: {expected}"
    return f"{name}: {str(cause).splitlines()[0]}"


def _types(config: type) -> dict[str, Any]:
    return {name: hint for name, _, hint in setting_fields(config)}


def unknown_setting(name: str, config: type) -> str:
    """Return the error for a name that is no setting, or one whose value the package chooses.

    Parameters
    ----------
    name : str
        Full name.
    config : type
        Dataclass of all settings. A section names settings that nobody else can choose in an attribute ``fixed``.
    """
    section, _, last = name.rpartition(".")
    if last in getattr(_types(config).get(section), "fixed", ()):
        return (
            f"{name} cannot be set, because this package chooses its value; leave it out (see docs/guides/migration.md)"
        )
    similar = setting_names(config)
    if is_open := can_be_added(name, config):
        similar = [other for other in similar if other.startswith(f"{section}.")]
    hint = did_you_mean(name, similar)
    if is_open:
        hint += f" To add it, write +{name}=VALUE" if hint else f"; to add it, write +{name}=VALUE"
    return f"there is no setting {name}{hint or '; docs/reference/settings.md lists all settings'}"


def _expected(name: str, value: str | None, config: type) -> str:
    """Return what a setting takes; an empty text if there is no such setting, or it takes anything."""
    required, is_optional = required_type(_types(config).get(name))
    or_null = " or null" if is_optional else ""
    if required in _TYPES:
        number = value if value is not None and required is int else ""
        whole = re.fullmatch(r"[+-]?\d+\.0*|\d+(?:\.\d*)?[eE]\+?\d+", number)
        example = f", such as {float(number):.0f}" if whole and float(number).is_integer() else ""
        return f"must be {_TYPES[required]}{or_null}{example}"
    if get_origin(required) is list:
        items, example = _LISTS[get_args(required)[0]]
        fits = {"integers": r"[\d,]+", "numbers": r"[\d.,eE-]+", "texts": r"[\w.,-]+"}[items]
        if value is not None and value != "null" and re.fullmatch(fits, value):
            return f"must be a list of {items}: write '{name}=[{value}]'"
        return f"must be a list of {items}{or_null}, such as '{name}={example}'"
    if get_origin(required) is dict:
        return f"must be a dictionary, such as '{name}={{key: value}}'"
    if isinstance(required, type) and is_dataclass(required):
        first = next((other.name for other in fields(required)), "NAME")
        return f"{name} is a section of settings; set one of them, such as {name}.{first}=VALUE"
    return ""


def _written(value: object) -> str:
    """Return a value as it is written on the command line."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
