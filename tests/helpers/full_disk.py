"""A limit of the size of files, which stands for a full disk."""

import resource
from contextlib import contextmanager


@contextmanager
def limited(size):
    """Let files have at most this size, as on a full disk. Python ignores the signal, so the write fails."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
