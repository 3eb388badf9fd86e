"""A short form of the attacks with tables, archives, models and interrupted runs in ``benchmarks/attack``."""

from __future__ import annotations

import importlib

import mutants
import pytest

pytest.importorskip("pyarrow", reason="needs the parquet extra")
import tables


@pytest.mark.parametrize("name", tables.HOSTILE)
def test_hostile_files_are_refused_in_one_line(name, tmp_path):
    path = tmp_path / name.replace(".zip", ".splits.zip")
    tables.HOSTILE[name](path)
    before = sorted(tmp_path.rglob("*"))
    result, message = mutants.outcome_of(lambda: tables.load(path) is None, tmp_path)
    assert result == mutants.REFUSED, message
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("module", "name", "files"),
    [
        ("tables", "attack_parquet", 15),
        ("tables", "attack_archives", 40),
        ("models", "attack_predictors", 40),
        ("models", "attack_folders", 30),
        ("journals", "attack_journals", 20),
    ],
)
def test_damaged_files_are_read_or_refused(module, name, files, tmp_path):
    outcome = getattr(importlib.import_module(module), name)(tmp_path, files, seed=1)
    assert not outcome.failures
    assert outcome.counts.total() == files and outcome.counts[mutants.REFUSED] > 3
