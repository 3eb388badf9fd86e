"""Running the encoder on batches of windows, from their tokens to one array for each window on the host.

On a GPU, the rows are pooled, checked and converted to their final data type on the device. They are copied to the host
through pinned memory while the device computes the next batch. The host needs no further thread for this: it only
starts the work of the device, and tokenizes and packs the next proteins while the device computes. Elsewhere, NumPy
does the same with the rows of one protein after the other.

Shapes: B windows, L residues of a protein, D hidden size, T packed residues.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from prott5nv.embedding.batching import TokenBudget, Window, batches_of
from prott5nv.embedding.pooling import DEVICE_POOLINGS, POOLINGS
from prott5nv.errors import ProtT5nvError
from prott5nv.model.device import Hardware, to_device
from prott5nv.model.encoder import Encoder
from prott5nv.model.finite import not_finite

Item = TypeVar("Item")

_LENGTH_OF: Callable[[Window], int] = attrgetter("length")


@dataclass(frozen=True)
class Form:
    """The form in which the rows of a protein are returned.

    Attributes
    ----------
    pooling : str or None
        A name in :data:`prott5nv.embedding.pooling.POOLINGS`; None for one row per residue.
    dtype : str
        ``float32`` or ``float16``.
    """

    pooling: str | None = None
    dtype: str = "float32"

    def of(self, rows_LD: np.ndarray, name: str) -> np.ndarray:
        """Pool and convert the rows of a protein on the host.

        Parameters
        ----------
        rows_LD : ndarray, shape=(L, D), dtype=float32
        name : str
            Name of the protein in the error message.

        Returns
        -------
        ndarray, shape=(L, D) or (D,)

        Raises
        ------
        ProtT5nvError
            If a value is too large for the data type.

        Examples
        --------
        >>> Form("mean", "float16").of(np.float32([[1, 2], [3, 4]]), "P69905")
        array([2., 3.], dtype=float16)
        """
        values = POOLINGS[self.pooling](rows_LD) if self.pooling else rows_LD
        with np.errstate(over="ignore"):
            converted = values.astype(self.dtype, copy=False)
        if self.dtype != "float32" and not np.isfinite(converted).all():
            raise _too_large(name, self.dtype)
        return converted


class HostCopy:
    """The rows of a batch, which may still be on their way from the device.

    Parameters
    ----------
    hidden_TD : Tensor, shape=(T, D)
        Hidden states of the packed windows.
    windows : list of Window
    precision : str
        Precision of the model, for error messages.
    form : Form
        The form to give to the rows on the device.
    """

    def __init__(self, hidden_TD: Tensor, windows: list[Window], precision: str, form: Form) -> None:
        self._windows, self._precision, self._form = windows, precision, form
        self._results: list[np.ndarray | ProtT5nvError] | None = None
        values = hidden_TD
        if form.pooling:
            lengths_B = torch.tensor([window.length for window in windows])
            values = DEVICE_POOLINGS[form.pooling](hidden_TD, to_device(lengths_B, hidden_TD.device))
        converted = values.to(getattr(torch, form.dtype))
        self._finite_T = _to_host(hidden_TD.isfinite().all(dim=1))
        self._fits = None if form.dtype == "float32" else _to_host(converted.isfinite().all(dim=1))
        self._values = _to_host(converted)
        self._copied: torch.cuda.Event | None = None
        if hidden_TD.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def wait(self) -> list[np.ndarray | ProtT5nvError]:
        """Wait until the rows are on the host and return them.

        Returns
        -------
        list of ndarray or ProtT5nvError
            The rows of each window; an error if they contain NaN or infinity, or a value that is too large for the
            data type.
        """
        if self._results is not None:
            return self._results
        if self._copied is not None:
            self._copied.synchronize()
        results: list[np.ndarray | ProtT5nvError] = []
        values, finite_T = self._values.numpy(), self._finite_T.numpy()
        fits = None if self._fits is None else self._fits.numpy()
        end = 0
        for number, window in enumerate(self._windows):
            start, end = end, end + window.length
            rows = number if self._form.pooling else slice(start, end)
            if not finite_T[start:end].all():
                results.append(not_finite(window.name, self._precision))
            elif fits is not None and not fits[rows].all():
                results.append(_too_large(window.name, self._form.dtype))
            else:
                # A view would keep the whole batch in memory for as long as the caller keeps one protein.
                results.append(values[rows].copy())
        self._results = results
        del self._values, self._finite_T, self._fits
        return results


class Batch(NamedTuple):
    """A batch of windows that is being computed.

    Attributes
    ----------
    windows : list of Window
    form : Form or None
        The form in which the rows arrive; None for float32 rows, one per residue.
    copy : HostCopy or ProtT5nvError
        The rows, or the reason why there are none.
    """

    windows: list[Window]
    form: Form | None
    copy: HostCopy | ProtT5nvError

    def rows(self) -> Sequence[np.ndarray | ProtT5nvError]:
        """Wait for the rows of each window and return them; an error stands for a window without rows."""
        if isinstance(self.copy, ProtT5nvError):
            return [self.copy] * len(self.windows)
        return self.copy.wait()


class BatchRunner:
    """Runs an encoder on batches of windows.

    Parameters
    ----------
    network : Encoder
    hardware : Hardware
        Device and precision of the network.
    budget : TokenBudget
        Number of tokens of a batch.

    Attributes
    ----------
    budget : TokenBudget
    ahead : int
        Number of batches, or lists of batches, to start before the rows of one are used. Only a GPU computes in the
        background.
    """

    def __init__(self, network: Encoder, hardware: Hardware, budget: TokenBudget) -> None:
        self._network, self._hardware, self.budget = network, hardware, budget
        self.ahead = int(hardware.device.type == "cuda")

    def makes(self, form: Form) -> bool:
        """Return whether the device gives the rows their form. On a CPU, NumPy does it, and pools in float64."""
        return self._hardware.device.type == "cuda" and (form.pooling is None or form.pooling in DEVICE_POOLINGS)

    def start(self, windows: Sequence[Window], form: Form | None = None) -> Iterator[Batch]:
        """Cut windows into batches, in order, and start to compute them.

        Parameters
        ----------
        windows : sequence of Window
        form : Form, optional
            The form to give to the rows on the device. By default they are float32 rows, one per residue.

        Yields
        ------
        Batch
        """
        for batch in batches_of(windows, _LENGTH_OF, self.budget.tokens):
            yield from self._start(batch, form)

    def _start(self, windows: list[Window], form: Form | None) -> list[Batch]:
        """Start to compute a batch. One that does not fit into memory is halved until it does."""
        try:
            copy = self._forward(windows, form or Form())
            if not self.ahead:
                copy.wait()  # Taking the rows needs memory, too.
            self.budget.succeeded()
            return [Batch(windows, form, copy)]
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        # This is outside the except clause, which would keep the tensors of the failed attempt alive.
        if self._hardware.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(windows) == 1:
            reason = f"{windows[0].name}: not enough memory for its {windows[0].length} residues alone"
            return [Batch(windows, form, ProtT5nvError(reason))]
        half = len(windows) // 2
        self.budget.failed(sum(window.length for window in windows[:half]))
        return [*self._start(windows[:half], form), *self._start(windows[half:], form)]

    @torch.inference_mode()
    def _forward(self, windows: list[Window], form: Form) -> HostCopy:
        """Pack windows end to end, run the encoder, and start to copy the rows to the host."""
        device = self._hardware.device
        ends_B = accumulate(window.length for window in windows)
        cu_seqlens_B1 = torch.tensor([0, *ends_B], dtype=torch.int32)
        tokens_T = torch.from_numpy(np.concatenate([window.tokens_T for window in windows]))
        hidden_TD = self._network.encode(to_device(tokens_T, device), cu_seqlens_B1)
        return HostCopy(hidden_TD, windows, self._hardware.precision, form)


def started_ahead(items: Iterable[Item], count: int) -> Iterator[Item]:
    """Yield items in order, each after `count` later ones have been taken from the iterable.

    Parameters
    ----------
    items : iterable
        Its items start work that goes on in the background.
    count : int

    Yields
    ------
    item

    Examples
    --------
    >>> list(started_ahead((print("start", item) or item for item in "ab"), 1))
    start a
    start b
    ['a', 'b']
    """
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def _to_host(tensor: Tensor) -> Tensor:
    """Start to copy a tensor to the host."""
    if not tensor.is_cuda:
        return tensor.cpu()
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copy.copy_(tensor, non_blocking=True)


def _too_large(name: str, dtype: str) -> ProtT5nvError:
    return ProtT5nvError(f"{name}: a value is too large for {dtype}; choose --dtype float32")


def _is_out_of_memory(error: BaseException) -> bool:
    # PyTorch's CPU allocator has no exception type of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
