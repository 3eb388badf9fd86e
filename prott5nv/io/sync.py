"""Writing to the disk what the operating system still holds in memory, so that it survives a power failure."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Write a folder's list of names to the disk, so that a new name in it survives a power failure.

    Parameters
    ----------
    folder : Path
        An existing folder.

    Raises
    ------
    OSError
        If the disk reports an error.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: str | Path) -> None:
    """Write the content of a file to the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_tree(folder: Path) -> None:
    """Write all files of a folder and its subfolders to the disk."""
    for subfolder, _, names in os.walk(folder):
        for name in names:
            sync_file(os.path.join(subfolder, name))
        sync_folder(Path(subfolder))
