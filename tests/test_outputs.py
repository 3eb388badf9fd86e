"""Tests that run the examples of the page about other programs, each where its libraries are installed."""

import ast
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from prott5nv.embedding.job import embed_file

PAGE = (Path(__file__).parents[1] / "docs" / "guides" / "outputs.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def imported(code):
    """Names of the packages that an example imports."""
    names = [alias.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    return sorted({name.partition(".")[0] for name in names})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_checkpoint, examples):
    """A folder with the embeddings that the page describes, by a tiny model."""
    pytest.importorskip("pyarrow", reason="needs the parquet extra")
    folder = tmp_path_factory.mktemp("outputs")
    shutil.copytree(examples, folder / "examples")
    for name, key in (("means.parquet", "accession"), ("hashes.h5", "biotrainer")):
        embed_file(examples / "proteins.fasta", folder / name, tiny_checkpoint, pooling="mean", key=key)
    return folder


def test_every_program_of_the_table_has_a_section():
    anchors = re.findall(r"\]\(#([\w-]+)\)", PAGE)
    headings = [heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.*)$", PAGE, re.MULTILINE)]
    assert anchors == headings


@pytest.mark.parametrize("code", EXAMPLES, ids=["-".join(imported(code)) for code in EXAMPLES])
def test_example_runs(code, folder, monkeypatch):
    if missing := [name for name in imported(code) if find_spec(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    monkeypatch.chdir(folder)
    exec(compile(code, "outputs.md", "exec"), {})
