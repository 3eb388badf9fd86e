"""A short run of ``benchmarks/fuzz_checkpoint.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).parents[2] / "benchmarks" / "fuzz_checkpoint.py"


@pytest.mark.slow
def test_five_hundred_mutated_files_cause_no_failure():
    done = subprocess.run([sys.executable, FUZZER, "--files", "500", "--seed", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "500  files, seed 1: 0 failures" in done.stdout
    for kind in ("bytes", "config", "gzip", "header", "members", "tokenizer", "weights", "zip"):
        assert f"{kind}: refused" in done.stdout
