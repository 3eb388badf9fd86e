"""Checkpoints: ``.nemo`` files in and out, safely.

One layout is shared by pretraining, inference, NeMo 1.x and BioNeMo v1; :func:`read_nemo` is its only reader.
"""

from prott5nv.checkpoint.reader import NemoFile, load, read_nemo
from prott5nv.checkpoint.warm_start import warm_start_weights
from prott5nv.checkpoint.writer import save_nemo

__all__ = ["NemoFile", "load", "read_nemo", "save_nemo", "warm_start_weights"]
