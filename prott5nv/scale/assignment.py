"""The device and the threads that Ray has assigned to a process."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from prott5nv.embedding.embedder import Embedder
from prott5nv.extras import load_extensions
from prott5nv.model.onednn import limit_onednn_cache


class Assignment(NamedTuple):
    """What a process may use.

    Attributes
    ----------
    device : str
        Device for :class:`prott5nv.Embedder`.
    threads : int or None
        Number of threads; None if the choice is PyTorch's.
    """

    device: str
    threads: int | None


def assignment() -> Assignment:
    """Return what Ray has assigned to this task or actor. Outside of them, nothing is assigned.

    Returns
    -------
    Assignment

    Examples
    --------
    >>> assignment()
    Assignment(device='auto', threads=None)
    """
    if "ray" not in sys.modules:  # A task or actor has imported it.
        return Assignment("auto", None)
    import ray

    if not ray.is_initialized() or ray.get_runtime_context().get_task_id() is None:
        return Assignment("auto", None)
    context = ray.get_runtime_context()
    # Ray hides the GPUs of others from this process, so the first one that it can see is its own.
    device = "cuda" if context.get_accelerator_ids().get("GPU") else "cpu"
    return Assignment(device, max(1, int(context.get_assigned_resources().get("CPU", 1))))


def assigned_embedder(model: str | None, **options: Any) -> Embedder:
    """Load a model on the device that Ray has assigned to this process, and use as many threads as Ray allows.

    Parameters
    ----------
    model : str, optional
        As for :class:`prott5nv.Embedder`.
    **options
        Further arguments of :class:`prott5nv.Embedder`, except `device`.

    Returns
    -------
    Embedder
    """
    import torch

    limit_onednn_cache()
    load_extensions()  # This process has none of the poolings that were registered in the driver.
    device, threads = assignment()
    if threads is not None:
        torch.set_num_threads(threads)
    return Embedder(model, device=device, **options)
