"""Safe reading of HDF5 files that strangers may have made.

The structure of a file is read in a process of its own, because the HDF5 library can hang or crash on a damaged file:
see :mod:`prott5nv.io.hdf5_process`. That process refuses links, data in other files and everything that is not plain
numbers, and compares declared sizes with the size of the file. One process serves all files, starts with the first one,
and ends with this process. The values of a dataset that lies in one run of bytes are read here, without HDF5.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import subprocess
import threading
from collections import deque
from dataclasses import dataclass
from itertools import count
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import Any, cast

import numpy as np

from prott5nv.errors import ProtT5nvError
from prott5nv.io.guarded import start_guarded
from prott5nv.io.source import require_file

_PROGRAM = Path(__file__).with_name("hdf5_process.py")
_DAMAGED = "not a readable HDF5 file (the HDF5 library crashes on it or does not come to an end)"


@dataclass(frozen=True)
class Dataset:
    """Description of a dataset.

    Attributes
    ----------
    dtype : dtype
        Data type of its values.
    shape : tuple of int
        Its shape.
    offset : int or None
        Position of its values in the file; None if they are not in one run of bytes, or compressed.
    attributes : dict
        Its attributes.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int | None
    attributes: dict[str, Any]


class HDF5File:
    """An HDF5 file of numbers, open for reading.

    Links, values in other files, and everything that is not plain numbers are refused. It may be used in several
    threads and after a fork.

    Parameters
    ----------
    path : str or PathLike
        The file.

    Attributes
    ----------
    path : Path
        The file.
    attributes : dict
        Attributes of the whole file.

    Raises
    ------
    ProtT5nvError
        If there is no such file, or the file is damaged or has parts that are refused.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        require_file(path)
        if not self.path.is_file():
            raise ProtT5nvError(f"{path}: there is no such file")
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise ProtT5nvError(f"{path}: {error.strerror or error}") from None
        self._number = next(_numbers)
        self._process_started = 0  # the process in which the file is open under its number
        self._seeking = threading.Lock()
        status = os.fstat(self._file.fileno())
        self._identity = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
        try:
            self.attributes: dict[str, Any] = self._ask("open", str(self.path.absolute()))["attributes"]
        except BaseException:
            self._file.close()
            raise

    def names(self, group: str = "/") -> list[str]:
        """Return the names in a group in their stored order.

        Parameters
        ----------
        group : str, default "/"
            Path of the group.

        Returns
        -------
        list of str

        Raises
        ------
        ProtT5nvError
            If the group contains a link or is damaged.
        """
        return self._ask("list", group)["names"]

    def describe(self, *names: str) -> list[Dataset | None]:
        """Check and describe datasets without reading their values.

        Parameters
        ----------
        *names : str
            Paths of the datasets.

        Returns
        -------
        list of Dataset or None
            None where there is no such name.

        Raises
        ------
        ProtT5nvError
            If an object is not a dataset of plain numbers in this file, or is larger than what is stored of it.
        """
        return [
            self._dataset(name, found)
            for name, found in zip(names, self._ask("describe", *names)["objects"], strict=True)
        ]

    def read(self, name: str, dataset: Dataset) -> np.ndarray:
        """Read a dataset.

        Parameters
        ----------
        name : str
            Path of the dataset.
        dataset : Dataset
            What `describe` returned for it.

        Returns
        -------
        ndarray
            A new array.

        Raises
        ------
        ProtT5nvError
            If the file was changed or is damaged.
        """
        values = np.empty(dataset.shape, dataset.dtype)
        if not values.nbytes:
            return values
        buffer = values.reshape(-1).view(np.uint8).data
        if dataset.offset is None:
            payload = self._ask("read", name)["payload"]
            if len(payload) != len(buffer):
                raise ProtT5nvError(f"{self.path}: {_DAMAGED}")
            buffer[:] = payload
        elif self._read_at(dataset.offset, buffer) != len(buffer):
            raise ProtT5nvError(f"{self.path}: the file became shorter while it was read")
        return values

    def close(self) -> None:
        """Close the file. Arrays that were read stay valid."""
        if not self._file.closed:
            self._file.close()
            _process.closed.append(self._number)  # the garbage collector may call this during another request

    def __enter__(self) -> HDF5File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_process_started"):
            self.close()

    def _read_at(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer from a position of the file and return the number of bytes."""
        done = 0
        while done < len(buffer):
            if hasattr(os, "preadv"):  # forked processes share the position of a file, so it is not used
                read = os.preadv(self._file.fileno(), [buffer[done:]], offset + done)
            else:
                with self._seeking:
                    self._file.seek(offset + done)
                    read = self._file.readinto(buffer[done:]) or 0
            if not read:
                break
            done += read
        return done

    def _dataset(self, name: str, answer: dict[str, Any]) -> Dataset | None:
        if answer["kind"] is None:
            return None
        if answer["kind"] != "dataset":
            raise ProtT5nvError(f"{self.path}: {name[:100]!r} is a group; expected a dataset")
        return Dataset(np.dtype(answer["dtype"]), tuple(answer["shape"]), answer["offset"], answer["attributes"])

    def _ask(self, operation: str, *arguments: str) -> dict[str, Any]:
        """Send a request about this file to the process, which opens the file first if it is a new one."""
        if self._file.closed:
            raise ProtT5nvError(f"{self.path}: the file is closed")
        try:
            with _process.lock:
                started = _process.ensure_started()
                if self._process_started != started:
                    opened = _process.request("open", self._number, str(self.path.absolute()))
                    self._process_started = started
                    if opened.get("identity", self._identity) != self._identity:
                        opened = {"error": "the file was changed while it was open"}
                    if operation == "open" or "error" in opened:
                        return self._checked(opened)
                return self._checked(_process.request(operation, self._number, *arguments))
        except EOFError:
            raise ProtT5nvError(f"{self.path}: {_DAMAGED}") from None

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "error" in answer:
            raise ProtT5nvError(f"{self.path}: {answer['error']}")
        return answer


class _Process:
    """The process that reads structures. It is started on demand: at first, after its death, and after a fork."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.closed: deque[int] = deque()  # numbers of files to close with the next request
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: io.BufferedReader | None = None
        self._starts = 0

    def ensure_started(self) -> int:
        """Start the process unless it runs, and return how many have been started."""
        if self._process is None:
            environment = {"HDF5_USE_FILE_LOCKING": "FALSE", "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
            self._process = start_guarded(_PROGRAM, environment=environment)
            self._answers = io.BufferedReader(cast(io.FileIO, self._process.stdout))
            self._starts += 1
            if self._answers.readline() != b"ready\n":
                self.stop()
                raise ProtT5nvError(f"{get_executable()} cannot be started to read HDF5 files")
        return self._starts

    def request(self, *request: str | int) -> dict[str, Any]:
        """Send a request and return the answer. EOFError means that the process died of it."""
        assert self._process is not None and self._process.stdin is not None and self._answers is not None
        names: list[str] = []
        complete = False
        try:
            closed = [self.closed.popleft() for _ in range(len(self.closed))]
            self._process.stdin.write(json.dumps([closed, *request]).encode() + b"\n")
            while True:
                line = self._answers.readline()
                if not line.endswith(b"\n"):
                    raise EOFError
                answer: dict[str, Any] = json.loads(line)
                answer["payload"] = self._answers.read(answer["bytes"])
                names += answer.get("names", [])
                if not answer.get("more"):
                    complete = True
                    return {**answer, "names": names}
        except BrokenPipeError:
            raise EOFError from None
        finally:
            if not complete:  # the rest of an answer may be in the pipe
                self.stop()

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._close_pipes()

    def leave_to_parent(self) -> None:
        """Give up the process after a fork."""
        self.lock = threading.Lock()
        self.closed.clear()
        self._close_pipes()

    def _close_pipes(self) -> None:
        process, answers = self._process, self._answers
        self._process = self._answers = None
        if process is not None and process.stdin is not None and answers is not None:
            process.stdin.close()
            answers.close()
            process.wait()


_process = _Process()
_numbers = count(1)
atexit.register(_process.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.leave_to_parent)
