"""Memory limit for oneDNN, the library that runs PyTorch's matmuls on CPUs. This module does not import PyTorch."""

from __future__ import annotations

import os

# One batch needs four kernels, because every layer has the same four weight shapes; the decoder adds a fifth.
_KERNELS_OF_ONE_BATCH = "5"


def limit_onednn_cache() -> None:
    """Keep the memory of long inference runs on a CPU flat.

    oneDNN compiles a kernel for every new number of rows in a matmul. It caches up to 1,024 kernels of half a megabyte
    each, and PyTorch has a second cache of the same size. Batches without padding rarely have the same number of rows
    twice, so the caches grow without being used. This function limits both caches to the kernels of one batch.

    Call it once, before the first matmul of the process; later calls have no effect. The ``prott5nv`` command calls it
    for you, and a Python program that embeds many proteins on a CPU should do the same. A program that trains should
    not call it, because the backward pass needs more kernels than the limit.

    Notes
    -----
    The function sets the environment variables ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` and ``LRU_CACHE_CAPACITY`` of this
    process, which its child processes inherit. A value that is already set is kept.

    Examples
    --------
    >>> import prott5nv
    >>> prott5nv.limit_onednn_cache()
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, _KERNELS_OF_ONE_BATCH)
