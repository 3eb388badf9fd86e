"""Optional packages: which extra installs them, and the error message if they are missing."""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec

from prott5nv.errors import ProtT5nvError

#: Packages of each extra, as in ``pyproject.toml``, with the name of the module that each provides.
EXTRAS: dict[str, dict[str, str]] = {
    "train": {
        "nemo_toolkit": "nemo",
        "megatron-core": "megatron",
        "lightning": "lightning",
        "hydra-core": "hydra",
        "omegaconf": "omegaconf",
        "pandas": "pandas",
        "einops": "einops",
        "tensorboard": "tensorboard",
        "matplotlib": "matplotlib",
    },
    "finetune": {
        "hydra-core": "hydra",
        "omegaconf": "omegaconf",
        "platformdirs": "platformdirs",
        "peft": "peft",
        "torchmetrics": "torchmetrics",
        "jinja2": "jinja2",
        "scikit-learn": "sklearn",
        "matplotlib": "matplotlib",
    },
    "plot": {"plotly": "plotly", "matplotlib": "matplotlib"},
    "umap": {"umap-learn": "umap"},
    "parquet": {"pyarrow": "pyarrow"},
    "hf": {"huggingface_hub": "huggingface_hub"},
    "ray": {"ray": "ray"},
    "serve": {
        "ray": "ray",
        "fastapi": "fastapi",
        "pydantic": "pydantic",
        "prometheus_client": "prometheus_client",
        "uvicorn": "uvicorn",
        "plotly": "plotly",
    },
}


def require_extra(extra: str, purpose: str, *packages: str) -> None:
    """Raise an error in one line if packages of an extra are missing, without importing them.

    Parameters
    ----------
    extra : str
        A key of `EXTRAS`.
    purpose : str
        What needs the packages; the subject of the message, such as ``"fine-tuning"``.
    *packages : str
        The packages that are needed; by default all packages of the extra.

    Raises
    ------
    ProtT5nvError
        Names the missing packages, the command that installs the extra, and what it installs.
    """
    modules = EXTRAS[extra]
    missing = [package for package in packages or modules if find_spec(modules[package]) is None]
    if missing:
        raise ProtT5nvError(
            f"{purpose} needs {', '.join(missing)}: pip install 'prott5nv[{extra}]' (installs {', '.join(modules)})"
        )


def load_extensions() -> None:
    """Import the modules that installed packages name as entry points of the group ``prott5nv.extensions``.

    They add heads, poolings and optimizers by decorators, such as :func:`prott5nv.register_head`.

    Raises
    ------
    ProtT5nvError
        If a module cannot be imported.
    """
    for entry in entry_points(group="prott5nv.extensions"):
        try:
            entry.load()
        except Exception as error:
            raise ProtT5nvError(f"extension {entry.name} ({entry.value}): {type(error).__name__}: {error}") from error
