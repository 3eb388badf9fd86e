"""Program that opens HDF5 files for :mod:`prott5nv.io.hdf5`, in a process of its own.

The HDF5 library can hang, crash or use much memory on a damaged file. In this process that harms nobody: it has a limit
on memory, and a limit on the CPU time of each request. It reads requests from standard input, one JSON object per line,
and answers on standard output: one line of JSON, followed by as many bytes as its entry ``bytes`` states.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

if __name__ == "__main__":  # the caller's module search path, which -I does not keep
    sys.path[:] = json.loads(sys.argv[1])

import numpy as np
from h5py import h5, h5a, h5d, h5f, h5g, h5l, h5o, h5p, h5s, h5t, h5z

from prott5nv.io.guarded import limit_memory, limit_time

_CPU_SECONDS = 2  # for each answer
_UNPACKED_PER_SECOND = 1 << 25  # bytes, for which a request has more time
_MEMORY = 1 << 30  # bytes of address space; the libraries take about a third of it
_NAMES_PER_ANSWER = 2000
_MIN_LINK_BYTES = 8  # a link in a group takes more than this
_MAX_ATTRIBUTES = 1000
_MAX_ATTRIBUTE_BYTES = 1 << 20
_MAX_RATIO = 100
_RATIO_FREE_BYTES = 1 << 26  # small constant arrays may compress better than _MAX_RATIO
_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_LZF}
_IS_LINK = "is a link, which is not allowed"

Answer = dict[str, Any]


class Refused(Exception):
    """The file has a part that is not read. The message follows the name of the file."""


class OpenFile:
    """An open file and what its datasets claim to hold."""

    def __init__(self, path: str) -> None:
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_fclose_degree(h5f.CLOSE_STRONG)
        self.id = h5f.open(os.fsencode(path), h5f.ACC_RDONLY, access)
        # The descriptor belongs to the open file even if another file has taken its name meanwhile.
        status = os.fstat(self.id.get_vfd_handle())
        self.identity = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
        self.size = status.st_size
        self.root = h5g.open(self.id, b"/")
        self._claims: dict[str, int] = {}
        self._claimed = 0

    def object(self, name: str) -> h5g.GroupID | h5d.DatasetID | None:
        """Return a group or dataset, reached by hard links only; None if there is no such name."""
        current: Any = self.root
        for part in name.strip("/").split("/") if name.strip("/") else ():
            encoded = part.encode("utf-8", "surrogateescape")
            if not isinstance(current, h5g.GroupID) or part in ("", "."):
                return None
            try:
                kind = current.links.get_info(encoded).type
            except Exception:
                if current.links.exists(encoded):
                    raise
                return None
            if kind != h5l.TYPE_HARD:
                raise Refused(f"{shown(part)} {_IS_LINK}")
            current = h5o.open(current, encoded)
        if not isinstance(current, (h5g.GroupID, h5d.DatasetID)):
            raise Refused(f"{shown(name)} is neither a group nor a dataset")
        return current

    def claim(self, name: str, size: int) -> None:
        """Count the stored bytes of a dataset; together the datasets cannot hold more than the file."""
        self._claimed += size - self._claims.get(name, 0)
        self._claims[name] = size
        if self._claimed > self.size:
            raise Refused(f"{shown(name)} makes the datasets larger than the file of {self.size:,} bytes")


files: dict[int, OpenFile] = {}


def open_file(number: int, path: str) -> Answer:
    """Open a file under a number that the caller has chosen, and return its identity and attributes."""
    file = files[number] = OpenFile(path)
    return {"identity": file.identity, "attributes": attributes(file.root, "")}


def list_members(number: int, group: str, send: Callable[[Answer], None]) -> Answer:
    """Return the names in a group in their stored order. `send` takes all but the last of them."""
    file = files[number]
    opened = file.object(group)
    if not isinstance(opened, h5g.GroupID):
        raise Refused(f"{shown(group)} is not a group")
    names: list[str] = []
    count = 0

    def add(name: bytes, info: h5l.LinkInfo) -> str | None:
        # h5py loses exceptions that are raised here, so errors are returned, which ends the iteration.
        nonlocal count
        text = name.decode("utf-8", "surrogateescape")
        names.append(text)
        count += 1
        if info.type != h5l.TYPE_HARD:
            return f"{shown(text)} {_IS_LINK}"
        if not text.isascii() and text != name.decode("utf-8", "replace"):
            return f"{shown(text)} is not a name in UTF-8"
        if count * _MIN_LINK_BYTES > file.size:
            return "it lists more names than fit into the file"
        if len(names) == _NAMES_PER_ANSWER:
            send({"names": names[:], "more": True})
            names.clear()
        return None

    tracked = opened.get_create_plist().get_link_creation_order() & h5p.CRT_ORDER_INDEXED
    error, _ = opened.links.iterate(add, info=True, idx_type=h5.INDEX_CRT_ORDER if tracked else h5.INDEX_NAME)
    if error:
        raise Refused(error)
    return {"names": names}


def describe(number: int, *names: str) -> Answer:
    """Return the data type, the shape, the position and the attributes of datasets; for groups only their kind."""
    return {"objects": [describe_object(files[number], name) for name in names]}


def describe_object(file: OpenFile, name: str) -> Answer:
    """Return the description of a group or dataset."""
    opened = file.object(name)
    if not isinstance(opened, h5d.DatasetID):
        return {"kind": None if opened is None else "group"}
    dtype, shape, offset = layout(file, opened, name)
    found = attributes(opened, name)
    return {"kind": "dataset", "dtype": dtype.str, "shape": shape, "offset": offset, "attributes": found}


def read(number: int, name: str) -> Answer:
    """Return the values of a dataset whose position `describe` did not give."""
    file = files[number]
    opened = file.object(name)
    if not isinstance(opened, h5d.DatasetID):
        raise Refused(f"{shown(name)} is not a dataset")
    dtype, shape, _ = layout(file, opened, name)
    values = np.empty(shape, dtype)
    if values.size:
        limit_time(_CPU_SECONDS + values.nbytes / _UNPACKED_PER_SECOND)
        opened.read(h5s.ALL, h5s.ALL, values)
    return {"payload": values.reshape(-1).view(np.uint8).data}


def close(number: int) -> None:
    """Close a file, if it was opened."""
    if (file := files.pop(number, None)) is not None:
        file.id.close()


def layout(file: OpenFile, dataset: h5d.DatasetID, name: str) -> tuple[np.dtype, tuple[int, ...], int | None]:
    """Check how a dataset is stored, without reading any of it.

    Returns
    -------
    dtype : dtype
    shape : tuple of int
    offset : int or None
        Position of its bytes in the file; None if only HDF5 can read them.
    """
    stored_type = dataset.get_type()
    dtype = stored_type.dtype if stored_type.get_class() in (h5t.INTEGER, h5t.FLOAT) else None
    if dtype is None or dtype.kind not in "iuf":
        raise Refused(f"{shown(name)} does not hold plain numbers")
    if dataset.get_space().get_simple_extent_type() == h5s.NULL:
        raise Refused(f"{shown(name)} has no values")
    plist = dataset.get_create_plist()
    kind = plist.get_layout()
    if kind == h5d.VIRTUAL or plist.get_external_count():
        raise Refused(f"{shown(name)} has its values in other files, which are not opened")
    shape = dataset.shape
    size, stored = math.prod(shape) * dtype.itemsize, dataset.get_storage_size()
    ratio = 1
    if kind == h5d.CHUNKED:
        check_chunks(plist, name, size, dtype.itemsize)
        ratio = _MAX_RATIO
    if size > ratio * stored and (ratio == 1 or size > _RATIO_FREE_BYTES):
        raise Refused(f"{shown(name)} has {size:,} bytes, but only {stored:,} are stored")
    file.claim(name, stored)
    offset = dataset.get_offset() if kind == h5d.CONTIGUOUS and size else None
    if offset is not None and offset + size > file.size:
        raise Refused(f"{shown(name)} ends at byte {offset + size:,}, after the end of the file")
    # Where NumPy has no equal type, HDF5 converts the values.
    return dtype, shape, offset if h5t.py_create(dtype) == stored_type else None


def check_chunks(plist: h5p.PropDCID, name: str, size: int, itemsize: int) -> None:
    """Refuse chunks that take much memory, and filters that h5py does not bring along: HDF5 loads code for them."""
    chunk = math.prod(plist.get_chunk()) * itemsize
    if chunk > max(_RATIO_FREE_BYTES, size):
        raise Refused(f"{shown(name)} has {size:,} bytes in chunks of {chunk:,}")
    for index in range(plist.get_nfilters()):
        if (number := plist.get_filter(index)[0]) not in _FILTERS:
            raise Refused(f"{shown(name)} is compressed by filter {number}; repack the file with gzip compression")


def attributes(opened: h5g.GroupID | h5d.DatasetID, name: str) -> dict[str, Any]:
    """Read all attributes of an object as texts, numbers and lists of them."""
    count = h5a.get_num_attrs(opened)
    if count > _MAX_ATTRIBUTES:
        raise Refused(f"{shown(name)} has {count:,} attributes; at most {_MAX_ATTRIBUTES:,} are read")
    values = {}
    for index in range(count):
        attribute = h5a.open(opened, index=index)
        key = attribute.name.decode("utf-8", "replace")
        values[key] = attribute_value(attribute, key)
    return values


def attribute_value(attribute: h5a.AttrID, key: str) -> Any:
    """Return the value of an attribute."""
    kind, space = attribute.get_type(), attribute.get_space()
    is_text = isinstance(kind, h5t.TypeStringID)
    shape = space.get_simple_extent_dims()
    size = math.prod(shape or ()) * kind.get_size()
    if not is_text and kind.get_class() not in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM):
        raise Refused(f"the attribute {shown(key)} is neither text nor numbers")
    if size > _MAX_ATTRIBUTE_BYTES:
        raise Refused(f"the attribute {shown(key)} has {size:,} bytes; at most {_MAX_ATTRIBUTE_BYTES:,} are read")
    if space.get_simple_extent_type() == h5s.NULL:
        return "" if is_text else None
    if not size:
        return []
    values = np.empty(shape, kind.dtype)
    attribute.read(values)
    return plain(values.tolist())


def plain(value: Any) -> Any:
    """Turn bytes within lists into text."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def shown(name: str) -> str:
    """Return a name as it appears in messages."""
    return repr(name[:100]) if name else "the file"


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the caller closes the pipe."""

    def send(answer: Answer) -> None:
        payload = answer.pop("payload", b"")
        answers.write(json.dumps({**answer, "bytes": len(payload)}).encode() + b"\n")
        answers.write(payload)
        answers.flush()
        limit_time(_CPU_SECONDS)

    answers.flush()
    operations: dict[str, Callable[..., Answer]] = {
        "open": open_file,
        "list": lambda number, group: list_members(number, group, send),
        "describe": describe,
        "read": read,
    }
    for line in requests:
        closed, operation, *arguments = json.loads(line)
        limit_time(_CPU_SECONDS)
        try:
            for number in closed:
                close(number)
            answer = operations[operation](*arguments)
        except Refused as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"error": "it needs too much memory"}
        except Exception as error:  # h5py turns the errors of HDF5 into many types
            reason = f"({' '.join(str(error).split())[:200]})"
            if "file signature not found" in reason:
                reason = "of embeddings; prott5nv embed makes one from proteins"
            answer = {"error": f"not a readable HDF5 file {reason}"}
        send(answer)


if __name__ == "__main__":
    limit_memory(_MEMORY)
    sys.stdout.buffer.write(b"ready\n")
    serve(sys.stdin.buffer, sys.stdout.buffer)
