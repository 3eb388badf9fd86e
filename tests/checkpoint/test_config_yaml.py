"""The configuration is plain data, and names members of the archive."""

from __future__ import annotations

import pytest

from prott5nv import ProtT5nvError
from prott5nv.checkpoint.config_yaml import artifact_members, parse_config


def test_values_are_plain_data():
    values = parse_config(b"a: 1\nb: [1.5, null, true]\nc: {d: text}\ntarget: os.system\n", "config")
    assert values == {"a": 1, "b": [1.5, None, True], "c": {"d": "text"}, "target": "os.system"}


def test_errors_name_the_line():
    with pytest.raises(ProtT5nvError, match=r"^model\.nemo: config, line 2: .*expected plain YAML$"):
        parse_config(b"a: 1\nb: [}\n", "model.nemo: config")


def test_artifacts_are_found_in_nested_values_and_named_once():
    values = {"a": "nemo:one.model", "b": [{"c": "nemo:./two.txt"}, "nemo:one.model"], "d": "no artifact", "e": 7}
    assert sorted(artifact_members(values, "config")) == ["one.model", "two.txt"]
