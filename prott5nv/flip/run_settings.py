"""The settings of fine-tuning runs as text, to tell runs apart."""

from __future__ import annotations

import json
from typing import Any

#: Settings that change no result.
WITHOUT_EFFECT = ("output_dir", "cache_dir", "overwrite")


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
    written = {}
    sections: list[tuple[str, Any]] = [
        (name, value) for name, value in configuration.items() if name not in WITHOUT_EFFECT
    ]
    while sections:  # not by recursion: a stranger's file may be nested deeply
        name, value = sections.pop(0)
        if isinstance(value, dict):
            sections += [(f"{name}.{key}", inner) for key, inner in value.items()]
        else:
            written[name] = value if isinstance(value, str) else json.dumps(value)
    return written
