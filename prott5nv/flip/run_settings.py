"""The settings of fine-tuning runs as text, to tell runs apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

from prott5nv.settings import flat

#: Settings that change no result.
WITHOUT_EFFECT = ("output_dir", "cache_dir", "overwrite")
_TARGET = "target"  # usual column of the targets


def written_settings(configuration: dict[str, Any]) -> dict[str, str]:
    """Return the settings that can change a result, by full name.

    Parameters
    ----------
    configuration : dict
        A :class:`prott5nv.flip.config.FinetuneConfig` as a dictionary, or ``configuration`` in a ``result.json``.

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> written_settings({"mode": "lora", "lora": {"rank": 8, "target_modules": ["dense"]}, "output_dir": "results"})
    {'mode': 'lora', 'lora.rank': '8', 'lora.target_modules': '["dense"]'}
    """
    values = flat(configuration, WITHOUT_EFFECT)
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def differing_names(written: Sequence[dict[str, str]]) -> list[str]:
    """Return the names of the settings that not all runs have alike.

    Parameters
    ----------
    written : sequence of dict
        What :func:`written_settings` returns for each run.

    Examples
    --------
    >>> differing_names([{"mode": "lora", "seeds": "[1]"}, {"mode": "full", "seeds": "[1]"}])
    ['mode']
    """
    names = dict.fromkeys(chain.from_iterable(written))
    return [name for name in names if len({settings.get(name) for settings in written}) > 1]


def name_targets(runs: Sequence[dict[str, Any]]) -> None:
    """Add the column of the targets to the ``task`` of runs, in place, where those of one table differ in it.

    Parameters
    ----------
    runs : sequence of dict
        Contents of their ``result.json``.
    """
    columns = [str(run["configuration"]["task"].get("target_column", _TARGET)) for run in runs]
    columns_of: dict[str, set[str]] = {}
    for run, column in zip(runs, columns, strict=True):
        columns_of.setdefault(run["task"], set()).add(column)
    for run, column in zip(runs, columns, strict=True):
        if column != _TARGET and len(columns_of[run["task"]]) > 1:
            run["task"] = f"{run['task']} ({column})"
