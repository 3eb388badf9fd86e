"""Checkpoints that NeMo 1.x wrote, and its token batches in packed form.

Shapes: B proteins, L residues of the longest protein, T packed tokens.
"""

from __future__ import annotations

import numpy as np
import torch

FILES = ("prott5nv.nemo", "variant_flatcfg.nemo", "variant_gz.nemo")


def packed(ids_BL: np.ndarray, mask_BL: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Concatenate the token ids of all proteins, and return them with the boundaries of the proteins."""
    cu_seqlens_B1 = np.concatenate([[0], np.cumsum(mask_BL.sum(1))]).astype(np.int32)
    return torch.from_numpy(ids_BL[mask_BL]), torch.from_numpy(cu_seqlens_B1)
