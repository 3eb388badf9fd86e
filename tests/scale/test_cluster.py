"""A short form of ``benchmarks/ray_cluster.py``."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "ray_cluster.py"


@pytest.mark.slow
def test_a_node_is_killed_and_another_joins():
    """The output is that of a run without Ray."""
    pytest.importorskip("ray", reason="needs the extra ray")
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "kill", "--proteins", "400"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a node killed after 2 of" in done.stdout
    assert "largest difference from a run without Ray: " in done.stdout
