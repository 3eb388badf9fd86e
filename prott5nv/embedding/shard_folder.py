"""A folder of Parquet shards, as ``prott5nv embed --ray`` writes it: its manifest and its reader.

The folder holds ``part-000000.parquet`` and so on, each with consecutive proteins of the input. ``manifest.json``
describes all of them, and ``skipped.tsv`` lists the proteins that were skipped. A folder can come from a stranger. The
names in its manifest cannot point out of the folder, and :mod:`prott5nv.embedding.pooled_files` reads the shards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prott5nv.embedding.pooled_files import ParquetFile
from prott5nv.errors import ProtT5nvError
from prott5nv.io.atomic import whole_file
from prott5nv.io.hdf5 import Dataset

FORMAT = "prott5nv shards 1"
MANIFEST = "manifest.json"
SKIPPED = "skipped.tsv"

_MOST_BYTES = 1 << 28  # of a manifest; a shard takes about 200
_OPEN_SHARDS = 2


class Shard(NamedTuple):
    """What a manifest says about a shard.

    Attributes
    ----------
    name : str
        Name of the file.
    first, records : int
        Index of its first record in the input, counted from 0, and number of its records.
    proteins, residues, skipped : int
        Numbers of proteins in the file, of residues that were embedded, and of records that were skipped.
    bytes : int
        Size of the file.
    sha256 : str
        Checksum of the file.
    """

    name: str
    first: int
    records: int
    proteins: int
    residues: int
    skipped: int
    bytes: int
    sha256: str


class Manifest(NamedTuple):
    """Description of a folder of shards.

    Attributes
    ----------
    attributes : dict
        Attributes of the embeddings, as in the file that a run without Ray writes.
    shards : list of Shard
        The shards in input order.
    """

    attributes: dict[str, str]
    shards: list[Shard]

    @property
    def proteins(self) -> int:
        """Number of proteins in all shards."""
        return sum(shard.proteins for shard in self.shards)

    @property
    def residues(self) -> int:
        """Number of residues that were embedded."""
        return sum(shard.residues for shard in self.shards)

    @property
    def skipped(self) -> int:
        """Number of records that were skipped."""
        return sum(shard.skipped for shard in self.shards)


def shard_name(number: int) -> str:
    """Return the file name of a shard, whose number is counted from 0."""
    return f"part-{number:06d}.parquet"


def is_shard_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a folder with a manifest."""
    return (Path(path) / MANIFEST).is_file()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder.

    Parameters
    ----------
    folder : Path
    manifest : Manifest
    """
    content = {
        "format": FORMAT,
        "attributes": manifest.attributes,
        "proteins": manifest.proteins,
        "residues": manifest.residues,
        "skipped": {"count": manifest.skipped, "file": SKIPPED if manifest.skipped else None},
        "files": [shard._asdict() for shard in manifest.shards],
    }
    with whole_file(folder / MANIFEST) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read and check the manifest of a folder.

    Parameters
    ----------
    folder : str or PathLike

    Returns
    -------
    Manifest

    Raises
    ------
    ProtT5nvError
        If there is no manifest, it is damaged, or a shard is missing or has another size.
    """
    path = Path(folder) / MANIFEST
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ProtT5nvError(f"{path}: this manifest has more than {_MOST_BYTES:,} bytes")
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ProtT5nvError(f"{path}: the format is {str(content['format'])[:40]!r}, not {FORMAT!r}")
        attributes = content["attributes"]
        shards = [Shard(**entry) for entry in content["files"]]
        is_sound = _are_texts(attributes) and all(map(_is_sound, range(len(shards)), shards))
    except OSError as error:
        raise ProtT5nvError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_sound = False
    if not is_sound:
        raise ProtT5nvError(f"{path}: damaged, or not a manifest that prott5nv embed wrote")
    for shard in shards:
        try:
            size = (Path(folder) / shard.name).stat().st_size
        except OSError as error:
            raise ProtT5nvError(f"{Path(folder) / shard.name}: {error.strerror or error}") from None
        if size != shard.bytes:
            raise ProtT5nvError(
                f"{Path(folder) / shard.name}: the file has {size:,} bytes, but {shard.bytes:,} in {MANIFEST}"
            )
    return Manifest(attributes, shards)


def _are_texts(attributes: Any) -> bool:
    return isinstance(attributes, dict) and all(isinstance(value, str) for value in attributes.values())


def _is_sound(number: int, shard: Shard) -> bool:
    counts = (shard.first, shard.records, shard.proteins, shard.residues, shard.skipped, shard.bytes)
    return (
        shard.name == shard_name(number)
        and isinstance(shard.sha256, str)
        and all(type(count) is int and count >= 0 for count in counts)
    )


class ShardFolder:
    """A folder of shards, open for reading, with the methods of :class:`prott5nv.io.hdf5.HDF5File`.

    Parameters
    ----------
    path : Path
        The folder.

    Attributes
    ----------
    attributes : dict
        Attributes of the embeddings.

    Raises
    ------
    ProtT5nvError
        If the manifest is damaged, or a shard is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._manifest = read_manifest(path)
        self.attributes: dict[str, Any] = self._manifest.attributes
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(self._open_shard)

    def _open_shard(self, number: int) -> ParquetFile:
        shard = self._manifest.shards[number]
        file = ParquetFile(self._path / shard.name)
        if (count := len(file.names())) != shard.proteins:
            raise ProtT5nvError(
                f"{self._path / shard.name}: the file has {count:,} proteins, but {shard.proteins:,} in {MANIFEST}"
            )
        return file

    @cached_property
    def _shard_of(self) -> dict[str, int]:
        """Number of the shard of each key, in the order of the shards."""
        shard_of: dict[str, int] = {}
        for number in range(len(self._manifest.shards)):
            for key in self._open(number).names():
                if key in shard_of:
                    raise ProtT5nvError(f"{self._path}: {key} is in two shards")
                shard_of[key] = number
        return shard_of

    def names(self) -> list[str]:
        """Return the keys of all proteins in their order."""
        return list(self._shard_of)

    def describe(self, *names: str) -> list[Dataset | None]:
        """Describe embeddings without reading them; None where there is no such key."""
        return [
            self._open(self._shard_of[name]).describe(name)[0] if name in self._shard_of else None for name in names
        ]

    def read(self, name: str, dataset: Dataset) -> np.ndarray:
        """Read an embedding."""
        return self._open(self._shard_of[name]).read(name, dataset)

    def blocks(self) -> Iterator[tuple[list[str], np.ndarray]] | None:
        """Return an iterator over all shards; see :meth:`prott5nv.embedding.pooled_files.ParquetFile.blocks`."""
        self.names()  # finds keys that are in two shards
        numbers = range(len(self._manifest.shards))
        if any(self._open(number).blocks() is None for number in numbers):
            return None
        return chain.from_iterable(self._open(number).blocks() or () for number in numbers)

    def close(self) -> None:
        """Close the files that are open."""
        self._open.cache_clear()
