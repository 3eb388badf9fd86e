"""What the package promises before any of it runs: light imports, an honest Dockerfile, a complete wheel."""

import re
import subprocess
import sys
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
HEAVY = ("torch", "nemo", "megatron", "lightning", "hydra", "transformers")


def modules_after(code):
    """Names of the heavy packages that are loaded once the code has run in a fresh interpreter."""
    report = f"import sys; {code}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_importing_the_package_loads_nothing_heavy():
    assert modules_after("import prott5nv") == "[]"


def test_help_loads_nothing_heavy():
    run = "from click.testing import CliRunner; from prott5nv.cli import command"
    assert modules_after(f"{run}; assert CliRunner().invoke(command, ['--help']).exit_code == 0") == "[]"
    assert modules_after(f"{run}; assert CliRunner().invoke(command, ['embed', '--help']).exit_code == 0") == "[]"


def test_embedding_loads_torch_alone(tiny_checkpoint):
    embed = f"import prott5nv; prott5nv.seqs_to_embedding(['MKV'], model={str(tiny_checkpoint)!r})"
    assert modules_after(embed) == "['torch']"


def test_public_names_exist():
    import prott5nv

    assert all(getattr(prott5nv, name) is not None for name in prott5nv.__all__)
    with pytest.raises(AttributeError, match="no attribute 'embed_everything'"):
        prott5nv.embed_everything  # noqa: B018
    assert prott5nv.__version__ == version("prott5nv")


def test_dockerfile_installs_what_pyproject_asks_for():
    """A version pinned there lies within the project's range, and an extra named there exists."""
    declared = [Requirement(line) for line in requires("prott5nv")]
    extras = {extra for line in declared if line.marker for extra in re.findall(r'extra == "(\w+)"', str(line.marker))}
    pip_lines = re.findall(r"^RUN pip install (.*)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert pip_lines
    for item in re.findall(r'"([^"]+)"', " ".join(pip_lines)):
        if own := re.fullmatch(r"/opt/prott5nv(?:\[(.*)\])?", item):
            assert set((own[1] or "").split(",")) - {""} <= extras
            continue
        pinned = Requirement(item)
        (pin,) = pinned.specifier
        ranges = [
            line.specifier
            for line in declared
            if canonicalize_name(line.name) == canonicalize_name(pinned.name) and line.extras == pinned.extras
        ]
        assert pin.operator == "==" and ranges and all(pin.version in allowed for allowed in ranges), item


def test_wheel_carries_configuration_vocabulary_and_model(tmp_path):
    pytest.importorskip("hatchling", reason="needs the build backend")
    build = "import hatchling.build, sys; hatchling.build.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "prott5nv/conf/pretrain.yaml",
        "prott5nv/conf/model.yaml",
        "prott5nv/assets/protein_sequence_sentencepiece.model",
        "prott5nv/assets/builtin.nemo",
        "prott5nv/assets/builtin.md",
        "prott5nv/scatter.html",
    } <= names
