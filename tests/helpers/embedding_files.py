"""Random proteins, and the contents of embedding files for comparisons."""

from __future__ import annotations

import random
from pathlib import Path

import h5py

from prott5nv.model.tokenizer import RESIDUES


def random_fasta(path: Path, count: int, seed: int = 0) -> Path:
    """Write a FASTA file of proteins with 20 to 600 residues."""
    rng = random.Random(seed)
    with open(path, "w") as file:
        for number in range(count):
            sequence = "".join(rng.choices(RESIDUES, k=rng.randint(20, 600)))
            file.write(f">sp|Q{number:05}|R{number}_TEST\n{sequence}\n")
    return path


def contents(path: Path) -> dict:
    """Return the keys in order, the values and all attributes of an HDF5 file."""
    with h5py.File(path) as file:
        return {
            "attributes": dict(file.attrs),
            "keys": list(file),
            "proteins": {key: (file[key][()].tobytes(), file[key].shape, dict(file[key].attrs)) for key in file},
        }
