"""Checkpoint files of a run: written atomically, verified before use, and thinned out.

The folder is the only state: file names hold the step and the validation perplexity. A file gets its name only when it
is complete and on disk, and older files are deleted only after that. A kill at any moment therefore leaves a checkpoint
to resume from.

A file is what ``torch.save`` writes for tensors, numbers, texts, lists and dictionaries, so that
``torch.load(weights_only=True)`` opens it. Its zip comment is the SHA-256 checksum of everything before the comment.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from prott5nv.checkpoint.state_dict_pickle import STORAGES, StoredTensor
from prott5nv.checkpoint.weights import TorchArchive
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file

logger = logging.getLogger(__name__)

METRIC = "val_residue_perplexity"
KEEP_NEWEST = 2  # the last one, and the one before it in case the last is damaged
DTYPES = tuple(getattr(torch, name) for name, _ in STORAGES.values())  # those that the strict reader knows

_NAME = re.compile(r"step(\d{1,15})(?:-perplexity(\d+\.\d+|inf|nan))?\.ckpt")
_CHECKSUM = 64  # length in bytes, as hexadecimal digits
_END_OF_ZIP = b"PK\5\6"  # its record has 22 bytes, and the last two are the length of the comment
_MAX_DEPTH = 32


class NotWrittenError(ProtT5nvError):
    """A checkpoint cannot be written, for example because the disk is full."""


def checkpoint_name(step: int, perplexity: float | None = None) -> str:
    """Return the file name of a checkpoint.

    Parameters
    ----------
    step : int
        Number of optimizer steps taken.
    perplexity : float, optional
        Validation perplexity over residues, if this step was validated.

    Returns
    -------
    str

    Examples
    --------
    >>> checkpoint_name(400, 17.2504)
    'step400-perplexity17.250.ckpt'
    >>> checkpoint_name(412)
    'step412.ckpt'
    """
    return f"step{step}" + (f"-perplexity{perplexity:.3f}" if perplexity is not None else "") + ".ckpt"


def checkpoint_step(path: Path) -> int:
    """Return the number of optimizer steps of a checkpoint.

    Examples
    --------
    >>> checkpoint_step(Path("checkpoints/step400-perplexity17.250.ckpt"))
    400
    """
    match = _NAME.fullmatch(path.name)
    assert match, f"{path} is not named like a checkpoint"
    return int(match[1])


def plain(value: Any, depth: int = 0) -> Any:
    """Copy tensors and plain data, with dictionaries and lists in place of their relatives, such as OmegaConf's.

    Parameters
    ----------
    value : Any
        Tensors, numbers, texts, booleans, None, and mappings, lists and tuples of these.
    depth : int, default 0
        Number of containers around the value.

    Returns
    -------
    Any
        Tensors are on the CPU, and share memory with `value` where possible.

    Raises
    ------
    TypeError
        If `value` contains anything else, or is nested too deeply.

    Examples
    --------
    >>> from collections import OrderedDict
    >>> plain(OrderedDict(betas=(0.9, 0.99)))
    {'betas': (0.9, 0.99)}
    """
    if depth > _MAX_DEPTH:
        raise TypeError("nested too deeply")
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu().contiguous()
        if tensor.dtype not in DTYPES:
            raise TypeError(f"a tensor of {tensor.dtype}")
        # For a view, torch.save would write the whole storage.
        return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
    if isinstance(value, Mapping):
        items = {key: plain(inner, depth + 1) for key, inner in value.items()}
        if all(type(key) in (str, int) for key in items):
            return items
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return (tuple if isinstance(value, tuple) else list)(plain(inner, depth + 1) for inner in value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise TypeError(f"{type(value).__name__}, which is not plain data")


def write_checkpoint(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint, which appears under its name only when it is complete and on disk.

    Parameters
    ----------
    checkpoint : mapping
        Lightning's checkpoint.
    path : str or Path

    Raises
    ------
    NotWrittenError
        If it cannot be written, for example on a full disk. An existing file at `path` stays as it was.
    ProtT5nvError
        If `checkpoint` contains anything but tensors and plain data.
    """
    path = Path(path)
    try:
        content = plain(checkpoint)
    except TypeError as error:
        raise ProtT5nvError(f"{path}: the state of the run or of a callback contains {error}") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            torch.save(content, temporary)
            _append_checksum(temporary)
    except (OSError, RuntimeError, ProtT5nvError) as error:  # PyTorch raises RuntimeError if the disk is full
        reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ").partition("\n")[0]
        raise NotWrittenError(f"{path}: the checkpoint cannot be written: {reason}") from None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint. No code of the file is run.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict
        Lightning's checkpoint, with tensors on the CPU.

    Raises
    ------
    ProtT5nvError
        If the file is damaged, or contains anything but tensors and plain data.
    """
    path = Path(path)
    if (damage := _damage(path)) is not None:
        raise ProtT5nvError(f"{path}: damaged: {damage}")
    with open(path, "rb") as file:
        archive = TorchArchive(file, str(path), comment=_CHECKSUM)
        stored: dict[str, StoredTensor] = {}
        content = _replaced(archive.content, stored, set(), path, "")
        tensors = archive.read_tensors(stored)
    return _filled(content, tensors)


class _Slot(str):
    """The name of a tensor that is not read yet."""


def _replaced(value: Any, stored: dict[str, StoredTensor], seen: set[int], path: Path, name: str) -> Any:
    """Copy containers, with a slot in place of each stored tensor, which is added to `stored`."""
    if isinstance(value, StoredTensor) and name not in stored:
        stored[name] = value
        return _Slot(name)
    if type(value) in (dict, list, tuple) and value:
        # Each container occurs once in a file of ours. A crafted file could nest them without end.
        if id(value) in seen or name.count("/") >= _MAX_DEPTH:
            raise ProtT5nvError(f"{path}: {name[:100]!r} is nested in itself or too deeply; nothing in it was used")
        seen.add(id(value))
        if isinstance(value, dict):
            return {key: _replaced(inner, stored, seen, path, f"{name}/{key}") for key, inner in value.items()}
        return type(value)(_replaced(inner, stored, seen, path, f"{name}/{i}") for i, inner in enumerate(value))
    if value is None or type(value) in (bool, int, float, str, dict, list, tuple):
        return value
    raise ProtT5nvError(f"{path}: {name[:100]!r} is neither a tensor nor plain data; nothing in it was used")


def _filled(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Put the tensors into their slots."""
    if isinstance(value, _Slot):
        return tensors[value]
    if isinstance(value, dict):
        return {key: _filled(inner, tensors) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_filled(inner, tensors) for inner in value)
    return value


def find_checkpoint(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint, and log a warning for each damaged one.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Path or None
        None if there is no checkpoint.

    Raises
    ------
    ProtT5nvError
        If all checkpoints are damaged. Only the user can decide to start again from the beginning.
    """
    checkpoints = _newest_first(folder)
    for path in checkpoints:
        if (damage := _damage(path)) is None:
            return path
        logger.warning("%s is damaged (%s): using the checkpoint before it", path, damage)
    if checkpoints:
        raise ProtT5nvError(f"{folder}: every checkpoint is damaged; delete the folder to start from the beginning")
    return None


def superseded(folder: Path, keep_best: int, step: int) -> list[Path]:
    """Return the files that are neither among the newest nor among the best checkpoints.

    Parameters
    ----------
    folder : Path
    keep_best : int
        Number of checkpoints with the lowest validation perplexity to keep; -1 keeps all.
    step : int
        Number of optimizer steps taken. Checkpoints of later steps are damaged, because the run would have continued
        from them. They do not count, and are kept for the user.

    Returns
    -------
    list of Path
        Checkpoints, and the ``.nemo`` files beside them.
    """
    if keep_best == -1:
        return []
    newest_first = [path for path in _newest_first(folder) if checkpoint_step(path) <= step]
    best = [path for path in best_first(folder) if path in newest_first]
    kept = {*newest_first[:KEEP_NEWEST], *best[:keep_best]}
    old = [path for path in newest_first if path not in kept]
    return old + [path.with_suffix(".nemo") for path in old if path.with_suffix(".nemo").exists()]


def last_validation(folder: Path) -> tuple[int, float] | None:
    """Return step and validation perplexity of the newest checkpoint that has one; None if there is none."""
    matches = map(_checkpoints(folder).__getitem__, _newest_first(folder))
    return next(((int(match[1]), float(match[2])) for match in matches if match[2]), None)


def best_first(folder: Path) -> list[Path]:
    """Return the checkpoints that have a finite validation perplexity, the lowest first."""
    perplexities = {path: float(match[2] or "nan") for path, match in _checkpoints(folder).items()}
    return sorted(
        (path for path in _newest_first(folder) if perplexities[path] < float("inf")),
        key=lambda path: perplexities[path],
    )


def _newest_first(folder: Path) -> list[Path]:
    steps = {path: int(match[1]) for path, match in _checkpoints(folder).items()}
    return sorted(steps, key=lambda path: (steps[path], path.stat().st_mtime_ns), reverse=True)


def _checkpoints(folder: Path) -> dict[Path, re.Match[str]]:
    return {path: match for path in folder.glob("*.ckpt") if (match := _NAME.fullmatch(path.name))}


def _append_checksum(path: Path) -> None:
    """Add the checksum of a zip file as its comment."""
    with open(path, "r+b") as file:
        file.seek(-22, io.SEEK_END)
        end = file.read()
        assert end[:4] == _END_OF_ZIP and end[-2:] == bytes(2), "torch.save wrote another end of a zip file"
        file.seek(-2, io.SEEK_END)
        file.write(_CHECKSUM.to_bytes(2, "little"))
        size = file.tell()
        file.write(_checksum(file, size))


def _checksum(file: io.BufferedIOBase, size: int) -> bytes:
    """Return the SHA-256 checksum of the first bytes of a file, which is then at their end."""
    checksum = hashlib.sha256()
    file.seek(0)
    while size:
        block = file.read(min(size, 1 << 24))
        if not block:
            break
        checksum.update(block)
        size -= len(block)
    return checksum.hexdigest().encode()


def _damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if its checksum matches."""
    if not path.is_file():  # opening a pipe would wait forever
        return "not a file"
    try:
        with open(path, "rb") as file:
            size = file.seek(0, io.SEEK_END) - _CHECKSUM
            if size <= 0:
                return "truncated"
            return None if _checksum(file, size) == file.read() else "its checksum does not match"
    except OSError as error:
        return error.strerror or str(error)
