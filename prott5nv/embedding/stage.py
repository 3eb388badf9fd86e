"""Work in the background, one item after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Stage(Generic[Item]):
    """Calls a function for each item, in order, in a thread of its own. The first error ends the work.

    Parameters
    ----------
    work : callable
        Takes an item.

    Notes
    -----
    One item can wait for the one before it. The thread starts with the first item.

    Examples
    --------
    >>> done = []
    >>> stage = Stage(done.append)
    >>> stage.put("a")
    >>> stage.put("b")
    >>> stage.wait()
    >>> done
    ['a', 'b']
    >>> stage.close()
    """

    def __init__(self, work: Callable[[Item], object]) -> None:
        self._work = work
        self._items: Queue[Item | None] = Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def put(self, item: Item) -> None:
        """Hand over an item, and wait while another one is waiting. Raise the first error of the work."""
        self._raise_error()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._items.put(item)

    def wait(self) -> None:
        """Wait until all items are done. Raise the first error of the work."""
        self._items.join()
        self._raise_error()

    def close(self) -> None:
        """Wait until all items are done, and end the thread."""
        if self._thread is not None:
            self._items.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            try:
                if self._error is None:
                    self._work(item)
            except BaseException as error:
                self._error = error
            finally:
                del item  # It can hold much memory.
                self._items.task_done()
        self._items.task_done()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
