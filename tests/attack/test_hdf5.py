"""A short form of the attacks with HDF5 files in ``benchmarks/attack``."""

from __future__ import annotations

import hdf5
import mutants
import pytest


@pytest.mark.parametrize("name", hdf5.HOSTILE)
def test_hostile_files_are_refused_in_one_line(name, tmp_path):
    hdf5.write_hostile(tmp_path / "hostile.h5", name)
    result, message = mutants.outcome_of(lambda: hdf5.load_store(tmp_path / "hostile.h5") is None, tmp_path)
    assert result == mutants.REFUSED, message


def test_damaged_stores_are_read_or_refused(tmp_path):
    outcome = hdf5.attack_stores(tmp_path, files=40, seed=1)
    assert not outcome.failures
    assert outcome.counts[mutants.REFUSED] > 10


@pytest.mark.slow
def test_damaged_predictors_are_read_or_refused(tmp_path):
    outcome = hdf5.attack_predictors(tmp_path, files=20, seed=1)
    assert not outcome.failures
    assert outcome.counts[mutants.REFUSED] > 4
