"""Functions that build checkpoints which this package would never write."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

CONFIG = "./model_config.yaml"
WEIGHTS = "./model_weights.ckpt"


def read_members(path: Path) -> dict[str, bytes]:
    """Read the regular members of a tar, in the order of the archive."""
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


def write_tar(path: Path, members: dict[str, bytes] | list, mode: str = "w") -> Path:
    """Write a tar of pairs of name (or TarInfo) and content.

    If the content is None, the header keeps the size in its TarInfo.
    """
    with tarfile.open(path, mode) as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if content is not None:
                header.size = len(content)
            tar.addfile(header, io.BytesIO(content or b""))
    return path


def rewrite_zip(data: bytes, change: Callable[[str, bytes], bytes | None], compression: int = 0) -> bytes:
    """Replace the content of each entry by ``change(name, content)``, or remove the entry if that is None.

    The name is passed without the folder that contains all entries.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", compression) as target:
        for entry in source.infolist():
            content = change(entry.filename.partition("/")[2], source.read(entry))
            if content is not None:
                target.writestr(entry.filename, content)
    return out.getvalue()


def with_pickle(weights: bytes, pickle: bytes) -> bytes:
    """Return the weights file with another ``data.pkl``."""
    return rewrite_zip(weights, lambda name, content: pickle if name == "data.pkl" else content)


def saved(state_dict: dict) -> bytes:
    """Return the bytes that ``torch.save`` writes."""
    import torch

    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    return buffer.getvalue()
