"""Download of models from the Hugging Face Hub: configuration, tokenizer and weights, but never code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from prott5nv.checkpoint.safetensors_folder import INDEX_FILE, TORCH_FILE, TORCH_INDEX_FILE, WEIGHTS_FILE
from prott5nv.errors import ProtT5nvError
from prott5nv.extras import require_extra

_NAME = re.compile(r"(?P<repository>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w][\w./-]*))?")
_FILES = ["config.json", "tokenizer.json", "spiece.model", "added_tokens.json", "tokenizer_config.json"]
_WEIGHTS = (
    (WEIGHTS_FILE, [WEIGHTS_FILE]),
    (INDEX_FILE, [INDEX_FILE, "model-*.safetensors"]),
    (TORCH_FILE, [TORCH_FILE]),
    (TORCH_INDEX_FILE, [TORCH_INDEX_FILE, "pytorch_model-*.bin"]),
)


class Download(NamedTuple):
    """A model from the Hub in the local cache.

    Attributes
    ----------
    folder : Path
        Folder with the files.
    name : str
        Name of the model with the revision that was downloaded, such as ``Rostlab/ProstT5@d7d097d5...``. The same
        files are opened under this name later.
    """

    folder: Path
    name: str


def is_hub_name(model: str | Path) -> bool:
    """Return whether a model is given by its name on the Hub, such as ``Rostlab/ProstT5`` or ``Rostlab/ProstT5@main``.

    Examples
    --------
    >>> is_hub_name("Rostlab/ProstT5"), is_hub_name("prott5nv.nemo"), is_hub_name("models/prott5nv.nemo")
    (True, False, False)
    """
    return isinstance(model, str) and not Path(model).exists() and not _is_file_name(model) and bool(_match(model))


def download(name: str) -> Download:
    """Download a model, or find it in the local cache. Progress bars are shown on standard error.

    Parameters
    ----------
    name : str
        Name of the model, with a branch, tag or commit behind ``@`` if it is not to be the newest version.

    Returns
    -------
    Download

    Raises
    ------
    ProtT5nvError
        If the package huggingface_hub is missing, or the model is neither in the cache nor available from the Hub.
    """
    require_extra("hf", f"{name}, a name on the Hugging Face Hub,")
    import huggingface_hub

    match = _match(name)
    if match is None:
        raise ProtT5nvError(f"{name!r} is not a name on the Hugging Face Hub, such as Rostlab/ProstT5")
    repository, revision = match["repository"], match["revision"]
    try:
        info = huggingface_hub.HfApi().model_info(repository, revision=revision)
        present = {file.rfilename for file in info.siblings or []}
        weights = next((patterns for first, patterns in _WEIGHTS if first in present), None)
        if weights is None:
            raise ProtT5nvError(f"{name}: has no weights as safetensors or as {TORCH_FILE}")
        folder = huggingface_hub.snapshot_download(repository, revision=info.sha, allow_patterns=[*_FILES, *weights])
    except ProtT5nvError:
        raise
    except Exception as error:  # The errors of a missing network come from several packages.
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        try:
            folder = huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True)
        except Exception:
            raise ProtT5nvError(
                f"{name}: no such file or folder, not in the cache of the Hugging Face Hub, and not available from the "
                f"Hub ({reason}); on a machine with a network, run `hf download {repository}`, and copy the folder "
                "here or give its path"
            ) from None
    # In the cache, the folder of a version has the name of its commit.
    return Download(Path(folder), f"{repository}@{Path(folder).name}")


def _match(name: str) -> re.Match[str] | None:
    return _NAME.fullmatch(name)


def _is_file_name(name: str) -> bool:
    return name.endswith((".nemo", ".safetensors", ".bin"))
