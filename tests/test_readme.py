"""Tests that run the README's shell examples: those that need only the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
EXAMPLES = re.findall(r"<!-- tested -->\n```bash\n(.*?)```", README, re.DOTALL)


def test_there_are_examples():
    assert len(EXAMPLES) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=[example.split("\n")[0] for example in EXAMPLES])
def test_example_runs(example, tmp_path):
    if "pretrain" in example:
        pytest.importorskip("nemo", reason="needs the train extra")
    for folder in ("examples", "scripts"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    # `prott5nv` and `python` are those of the environment that runs the tests.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", example], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr


def test_both_first_commands_set_up_their_environment():
    """A reader can paste either command into a fresh clone; both install the tested versions."""
    set_up = r"^python3 -m venv \.venv && \.venv/bin/pip install -q -c constraints\.txt \S+ && (.*)$"
    commands = re.findall(set_up, README, re.MULTILINE)
    assert commands == [".venv/bin/prott5nv embed examples/proteins.fasta -o proteins.h5", ".venv/bin/pytest -n 3"]
