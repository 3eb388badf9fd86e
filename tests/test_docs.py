"""Tests that hold the documentation to the package."""

import re
from pathlib import Path

import prott5nv
from prott5nv.cli import COMMANDS

DOCS = Path(__file__).parents[1] / "docs"


def test_the_api_page_lists_every_public_name():
    listed = re.findall(r"^   ~prott5nv\.(\w+)$", (DOCS / "api" / "index.rst").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(set(prott5nv.__all__) - {"__version__"})


def test_the_command_page_lists_every_command():
    listed = re.findall(r"^```{command-help} (\w+)", (DOCS / "reference" / "commands.md").read_text(), re.MULTILINE)
    assert set(listed) == set(COMMANDS)


def test_the_architecture_page_names_what_exists():
    """Dotted names in backticks are importable, and repository paths exist."""
    text = (DOCS / "development" / "architecture.md").read_text()
    for dotted in re.findall(r"`(prott5nv(?:\.\w+)+)`", text):
        assert _exists(dotted), dotted
    for path in re.findall(r"`((?:prott5nv|conf|docs|tests)/[\w/.]*)`", text):
        assert (DOCS.parent / path).exists(), path


def _exists(dotted: str) -> bool:
    """Whether a module file, or a name defined in it, exists; nothing heavy is imported."""
    package = DOCS.parent
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        module = package.joinpath(*parts[:count])
        file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        if file.is_file():
            names = parts[count:]
            source = file.read_text()
            return all(re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b.*=", source, re.MULTILINE) for name in names)
    return False
