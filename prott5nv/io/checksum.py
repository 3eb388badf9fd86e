"""Checksums of files."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

_BLOCK = 1 << 20


def file_checksum(file: BinaryIO, algorithm: str = "sha256") -> str:
    """Compute the checksum of a file from its current position to its end, in bounded memory.

    Parameters
    ----------
    file : binary file
    algorithm : str, default "sha256"
        A name that ``hashlib`` knows.

    Returns
    -------
    str
        Hexadecimal digits.

    Examples
    --------
    >>> import io
    >>> file_checksum(io.BytesIO(b"MSLKR"), "md5")
    '90c121d691043f1cbb00ceefe701512f'
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
