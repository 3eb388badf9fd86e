"""Sphinx configuration. Build the site with: sphinx-build -W -b html docs docs/_build/html"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import GenericAlias
from typing import TypeVar

from sphinx.application import Sphinx

import prott5nv

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
# Notebooks call the `prott5nv` command of the environment that builds the site.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

project = "prott5nv"
author = "the prott5nv developers"
copyright = f"2026, {author}"
version = release = prott5nv.__version__

extensions = [
    "command_help",
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
# No intersphinx: the build works without a network.

nitpicky = True  # a reference that does not resolve is an error

# Markdown and notebooks
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # notebooks are committed without outputs
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars

# API reference
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's Parameters sections already state the types
numpydoc_show_class_members = False
numpydoc_xref_param_type = False


def skip_member(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave out type variables and aliases, and the members of named tuples: docstrings describe their fields."""
    named_tuple_field = (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")
    return True if named_tuple_field or isinstance(obj, TypeVar | GenericAlias) else None


def setup(app: Sphinx) -> None:
    """Connect the hooks above."""
    app.connect("autodoc-skip-member", skip_member)


# Appearance
toc_object_entries_show_parents = "hide"
html_theme = "pydata_sphinx_theme"
html_title = "prott5nv"
html_static_path = ["_static"]
html_css_files = ["prott5nv.css"]
html_show_sourcelink = False
html_theme_options = {
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "secondary_sidebar_items": ["page-toc"],
}
pygments_style = "tango"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
