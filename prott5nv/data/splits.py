"""Divides proteins into training, validation and test set in one pass, and writes the CSV files.

A size that is a fraction needs no memory: a seeded random number decides for each protein, so the size of the set is
close to the fraction, but not exact. With groups, this number is a seeded hash of the group's name, so all proteins of
a group are in the same set.

A size that is a count needs a reservoir sample: the first proteins fill the reservoir, and each later one may replace a
random protein in it, which then goes to the training set. Every protein has the same chance. The reservoir is held in
memory: about 0.4 GB for the 879,350 validation and test proteins of ProtT5nv's model card.

Rows of the training set stay in the order of the file, except that a protein which leaves the reservoir takes the place
of the one that replaced it. Pretraining shuffles in every epoch, so shuffling here would have no use.
"""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path
from typing import BinaryIO

from prott5nv.data import CSV_HEADER
from prott5nv.data.groups import Groups
from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record


class EmptySplitError(ProtT5nvError):
    """A set has no proteins."""


class CsvFiles:
    """Writes the rows of one set to x000.csv, x001.csv, ... in a new folder.

    Parameters
    ----------
    folder : Path
    records_per_file : int
        Maximum number of rows in a file.
    """

    def __init__(self, folder: Path, records_per_file: int):
        folder.mkdir()
        self.folder = folder
        self.records_per_file = records_per_file
        self.proteins = self.residues = self.files = 0
        self._file: BinaryIO | None = None
        self._room = 0

    def write(self, row: bytes) -> None:
        """Write a row, which ends with a newline."""
        if self._file is None or not self._room:
            self.close()
            path = self.folder / f"x{self.files:03d}.csv"
            self._file = open(path, "wb", 1 << 20)  # noqa: SIM115 (open across calls)
            self._file.write(CSV_HEADER + b"\n")
            self.files += 1
            self._room = self.records_per_file
        self._room -= 1
        self.proteins += 1
        self.residues += len(row) - row.rindex(b",") - 2  # the last field without its comma and the newline
        self._file.write(row)

    def close(self) -> None:
        """Write the current file to the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def summary(self) -> dict[str, int]:
        """Return the number of proteins, residues and files."""
        return {"proteins": self.proteins, "residues": self.residues, "files": self.files}


class Splitter:
    """Divides proteins into training, validation and test set; see the module docstring.

    Parameters
    ----------
    folder : Path
        Gets a folder for each set.
    validation, test : int or float
        A count or a fraction; 0 leaves the set out.
    groups : Groups, optional
        Groups of proteins that stay together.
    seed : int
    records_per_file : int
        Maximum number of rows in a CSV file.

    Attributes
    ----------
    files : dict of CsvFiles
        By the names of the sets: ``train``, ``val``, ``test``.
    num_offered : int
        Number of proteins that the reservoir has been offered.
    """

    def __init__(
        self,
        folder: Path,
        validation: int | float,
        test: int | float,
        groups: Groups | None,
        seed: int,
        records_per_file: int,
    ):
        self.files = {
            split: CsvFiles(folder / split, records_per_file)
            for split, size in (("train", 1), ("val", validation), ("test", test))
            if size
        }
        self.validation_fraction = validation if isinstance(validation, float) else 0.0
        self.held_out_fraction = self.validation_fraction + (test if isinstance(test, float) else 0.0)
        self.validation_count = validation if isinstance(validation, int) else 0
        self.reservoir_size = self.validation_count + (test if isinstance(test, int) else 0)
        self.reservoir: list[bytes] = []
        self.num_offered = 0
        self._groups = groups
        self._key = b"%d " % seed
        self._generator = random.Random(seed)

    def add(self, record: Record, row: bytes) -> None:
        """Decide where a protein goes.

        Parameters
        ----------
        record : Record
        row : bytes
            Its row in a CSV file.
        """
        if self.held_out_fraction:
            number = self._generator.random() if self._groups is None else self._hash(self._groups.group_of(record))
            if number < self.held_out_fraction:
                self.files["val" if number < self.validation_fraction else "test"].write(row)
                return
        if self.reservoir_size:
            self.num_offered += 1
            if self.num_offered <= self.reservoir_size:
                self.reservoir.append(row)
                return
            position = int(self._generator.random() * self.num_offered)
            if position < self.reservoir_size:
                row, self.reservoir[position] = self.reservoir[position], row
        self.files["train"].write(row)

    def _hash(self, group: str) -> float:
        """Return a number in [0, 1) that depends only on the seed and the name of a group."""
        digest = hashlib.blake2b(self._key + group.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    def finish(self) -> None:
        """Write the reservoir to its sets and close the files.

        Raises
        ------
        ProtT5nvError
            If a set has no proteins.
        """
        # Positions in the reservoir are not random, since early proteins are at the front; only membership is.
        self._generator.shuffle(self.reservoir)
        count = self.validation_count
        for split, sample in (("val", self.reservoir[:count]), ("test", self.reservoir[count:])):
            for row in sorted(sample, key=lambda row: int(row.partition(b",")[0])):
                self.files[split].write(row)
        for split, files in self.files.items():
            files.close()
            if not files.proteins:
                raise EmptySplitError(f"the {split} split is empty; {self._remedy(split)}")

    def _remedy(self, split: str) -> str:
        """Return what to do if a set has no proteins."""
        if split == "train":
            return "give smaller sizes of the other splits"
        if self._groups:
            return "give a larger fraction or another seed"
        return "give a count such as 10, or another fraction or seed"
