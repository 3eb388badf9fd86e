"""Tools to build checkpoints that this package would never write."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

CONFIG = "./model_config.yaml"
WEIGHTS = "./model_weights.ckpt"


def read_members(path: Path) -> dict[str, bytes]:
    """Regular members of a tar in order."""
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


def write_tar(path: Path, members: dict[str, bytes] | list, mode: str = "w") -> Path:
    """A tar of (name or TarInfo, content) pairs; a TarInfo's size is taken as it is where the content is None."""
    with tarfile.open(path, mode) as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if content is not None:
                header.size = len(content)
            tar.addfile(header, io.BytesIO(content or b""))
    return path


def rewrite_zip(data: bytes, change: Callable[[str, bytes], bytes | None], compression: int = 0) -> bytes:
    """Pass every entry through ``change(name without folder, content)``; None drops it."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", compression) as target:
        for entry in source.infolist():
            content = change(entry.filename.partition("/")[2], source.read(entry))
            if content is not None:
                target.writestr(entry.filename, content)
    return out.getvalue()


def with_pickle(weights: bytes, pickle: bytes) -> bytes:
    """The same weights file with another ``data.pkl``."""
    return rewrite_zip(weights, lambda name, content: pickle if name == "data.pkl" else content)


def saved(state_dict: dict) -> bytes:
    """What ``torch.save`` writes."""
    import torch

    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    return buffer.getvalue()
