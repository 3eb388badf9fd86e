"""Cutting long proteins into windows, packing windows into batches, and joining the rows of windows again.

Shapes: L residues of a protein, D hidden size, T residues of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

_NAMES_SHOWN = 10

Item = TypeVar("Item")


class LongProteins:
    """Proteins that are longer than the model accepts at once: their number, and the names of the first ten.

    Attributes
    ----------
    count : int
        Number of proteins.

    Examples
    --------
    >>> long = LongProteins()
    >>> for number in range(12):
    ...     long.add(f"titin_{number}", 35213)
    >>> long.count, str(long)[-43:]
    (12, 'titin_8 (35213), titin_9 (35213) and 2 more')
    """

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, name: str, length: int) -> None:
        """Count one more protein."""
        self.count += 1
        if self.count <= _NAMES_SHOWN:
            self._first.append(f"{name} ({length})")

    def extend(self, others: LongProteins) -> None:
        """Add the proteins of another part of the same input."""
        self.count += others.count
        self._first = (self._first + others._first)[:_NAMES_SHOWN]

    def __str__(self) -> str:
        more = f" and {self.count - _NAMES_SHOWN} more" if self.count > _NAMES_SHOWN else ""
        return ", ".join(self._first) + more


class Window(NamedTuple):
    """A stretch of one protein that the model computes at once. Most proteins fit into a single window.

    Attributes
    ----------
    protein : int
        Index of the protein in its chunk.
    start : int
        Position of the window's first residue in the protein, counted from 0.
    tokens_T : ndarray, shape=(T,), dtype=int64
        Token ids.
    name : str
        Name of the protein in error messages.
    """

    protein: int
    start: int
    tokens_T: np.ndarray
    name: str

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens_T)


def window_starts(length: int, limit: int) -> range:
    """Return where the overlapping windows of a protein start.

    Windows overlap by half, so each residue of a long protein is in two windows, except near both ends.

    Parameters
    ----------
    length : int
        Number of residues of the protein.
    limit : int
        Number of residues of a window.

    Returns
    -------
    range

    Examples
    --------
    >>> list(window_starts(1100, 512)), list(window_starts(512, 512))
    ([0, 256, 512, 768], [0])
    """
    if length <= limit:
        return range(1)
    stride = limit // 2
    # The last window starts where more than one stride of residues remains, so it is never very short.
    return range(0, length - stride, stride)


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


class TokenBudget:
    """Number of tokens of a batch, which shrinks when a batch does not fit into memory and grows again afterwards.

    Other programs may have used the memory for a while. After a number of batches that fit, the budget is doubled. The
    number doubles with each failure, so that a budget that is too large is not tried again and again.

    Parameters
    ----------
    tokens : int
        The budget at the beginning, which is also its upper limit.

    Attributes
    ----------
    tokens : int
        The current budget.

    Examples
    --------
    >>> budget = TokenBudget(1000)
    >>> budget.failed(fitting=400)
    >>> for _ in range(32):
    ...     budget.succeeded()
    >>> budget.tokens
    800
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = self._most = tokens
        self._successes, self._patience = 0, 16

    def succeeded(self) -> None:
        """Note that a batch fitted into memory."""
        self._successes += 1
        if self.tokens < self._most and self._successes >= self._patience:
            self.tokens = min(self._most, 2 * self.tokens)
            self._successes = 0

    def failed(self, fitting: int) -> None:
        """Note that a batch did not fit, and that one of `fitting` tokens will be tried."""
        self.tokens = min(self.tokens, fitting)
        self._successes = 0
        self._patience *= 2


def join(parts: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Join the rows of a protein's windows. Where windows overlap, their rows are averaged.

    Parameters
    ----------
    parts : list of tuple of (int, ndarray of shape (T, D))
        Start and rows of each window, in any order.

    Returns
    -------
    ndarray, shape=(L, D), dtype=float32
    """
    if len(parts) == 1:
        return parts[0][1]
    length = max(start + len(rows_TD) for start, rows_TD in parts)
    total_LD = np.zeros((length, parts[0][1].shape[1]), dtype=np.float32)
    windows_L1 = np.zeros((length, 1), dtype=np.float32)
    for start, rows_TD in sorted(parts, key=lambda part: part[0]):
        total_LD[start : start + len(rows_TD)] += rows_TD
        windows_L1[start : start + len(rows_TD)] += 1
    return total_LD / windows_L1
