"""How threads wait."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_openmp_lets_waiting_threads_sleep_unless_the_user_decides(given, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if given:
        environment["OMP_WAIT_POLICY"] = given
    done = subprocess.run(
        [sys.executable, "-m", "prott5nv", "fill", "MKT?AY"],
        env=environment | {"OMP_DISPLAY_ENV": "TRUE"},
        capture_output=True,
        text=True,
        check=True,
    )
    if "OPENMP DISPLAY ENVIRONMENT" not in done.stderr:
        pytest.skip("this PyTorch has no OpenMP")
    policies = [line.split("'")[1] for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line]
    assert set(policies) == {expected}
