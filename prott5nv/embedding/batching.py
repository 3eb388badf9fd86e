"""Stretches of proteins that a model sees at once: cut, put together in batches, joined again.

Shapes: L residues of a protein, D hidden size; T residues of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

_NAMES_SHOWN = 10

Item = TypeVar("Item")


class LongProteins:
    """Proteins longer than the model sees at once: their number, and the first few by name.

    Examples
    --------
    >>> long = LongProteins()
    >>> for number in range(12):
    ...     long.add(f"titin_{number}", 35213)
    >>> long.count, str(long)[-43:]
    (12, 'titin_8 (35213), titin_9 (35213) and 2 more')
    """

    def __init__(self):
        self.count = 0
        self._first: list[str] = []

    def add(self, name: str, length: int) -> None:
        """Count one more."""
        self.count += 1
        if self.count <= _NAMES_SHOWN:
            self._first.append(f"{name} ({length})")

    def __str__(self) -> str:
        more = f" and {self.count - _NAMES_SHOWN} more" if self.count > _NAMES_SHOWN else ""
        return ", ".join(self._first) + more


class Window(NamedTuple):
    """A stretch of one protein that the model sees at once; the whole protein, unless it is cut into windows."""

    protein: int  # index in the window of proteins
    start: int
    tokens_T: np.ndarray
    name: str

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens_T)


def window_starts(length: int, limit: int) -> range:
    """Where the overlapping windows of a protein begin; a protein that fits is one window.

    >>> list(window_starts(1100, 512)), list(window_starts(512, 512))
    ([0, 256, 512, 768], [0])
    """
    stride = limit // 2
    # The last window begins where more than a stride is left, so it is never a mere stump.
    return range(0, max(1, length - stride), stride)


def batches_of(items: Iterable[Item], length_of: Callable[[Item], int], max_tokens: int) -> Iterator[list[Item]]:
    """Cut items into batches, in order, by a token budget.

    Parameters
    ----------
    items : iterable
    length_of : callable
        Returns the number of tokens of an item.
    max_tokens : int
        Upper limit of the tokens in a batch. An item that exceeds it forms a batch of its own.

    Yields
    ------
    list
        At least one item.

    Examples
    --------
    >>> list(batches_of(["MSL", "KR", "MKVLA", "A"], len, max_tokens=5))
    [['MSL', 'KR'], ['MKVLA'], ['A']]
    """
    batch: list[Item] = []
    tokens = 0
    for item in items:
        length = length_of(item)
        if batch and tokens + length > max_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(item)
        tokens += length
    if batch:
        yield batch


def join(parts: list[tuple[int, np.ndarray]] | None) -> np.ndarray | None:
    """Rows of a whole protein from those of its windows, averaged where windows overlap."""
    if parts is None or len(parts) == 1:
        return parts and parts[0][1]
    length = max(start + len(rows) for start, rows in parts)
    total_LD = np.zeros((length, parts[0][1].shape[1]), dtype=np.float32)
    windows_L1 = np.zeros((length, 1), dtype=np.float32)
    for start, rows in sorted(parts, key=lambda part: part[0]):
        total_LD[start : start + len(rows)] += rows
        windows_L1[start : start + len(rows)] += 1
    return total_LD / windows_L1
