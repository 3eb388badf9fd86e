"""Program that reads a Parquet file once for :mod:`prott5nv.io.parquet`, in a process of its own.

Apache Arrow believes what a file states about its sizes: 55 kB can take a minute and 9 GB. In this process that harms
nobody, because its memory and its CPU time are limited. It prints an error in one line, or ``sound``.
"""

from __future__ import annotations

import json
import os
import sys

if __name__ == "__main__":  # the caller's module search path, which -I does not keep
    sys.path[:] = json.loads(sys.argv[1])

import pyarrow

from prott5nv.io.guarded import limit_memory, limit_time
from prott5nv.io.parquet import batches

_MEMORY = 1 << 30  # bytes of address space; the libraries take about a third of it
_MEMORY_RATIO = 4
_SECONDS = 8.0
_BYTES_PER_SECOND = 1 << 20
_MAX_RATIO = 1000
_RATIO_FREE_BYTES = 1 << 26


def find_fault(path: str, columns: list[str]) -> str | None:
    """Read columns of a file and return why it must not be read; None if it is sound."""
    unpacked, size = 0, os.path.getsize(path)
    try:
        for batch in batches(path, columns):
            unpacked += batch.nbytes
            if unpacked > max(_RATIO_FREE_BYTES, _MAX_RATIO * size):
                return f"its {size:,} bytes unpack to more than {unpacked:,}"
    except MemoryError:
        return "it needs too much memory"
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        return " ".join(str(error).split())[:200]
    return None


def main() -> None:
    """Check the file and the columns that the command line names."""
    path, *columns = sys.argv[2:]
    size = os.path.getsize(path)
    limit_memory(_MEMORY + _MEMORY_RATIO * size)
    limit_time(_SECONDS + size / _BYTES_PER_SECOND)
    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    print(find_fault(path, columns) or "sound")


if __name__ == "__main__":
    main()
