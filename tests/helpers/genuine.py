"""Files that NeMo 1.x wrote, and the numbers that it computed from them.

Shapes: B proteins, L residues of the longest, T packed tokens.
"""

from __future__ import annotations

import numpy as np
import torch

FILES = ("prott5nv.nemo", "variant_flatcfg.nemo", "variant_gz.nemo")


def packed(ids_BL: np.ndarray, mask_BL: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of all proteins end to end, and where each begins."""
    cu_seqlens_B1 = np.concatenate([[0], np.cumsum(mask_BL.sum(1))]).astype(np.int32)
    return torch.from_numpy(ids_BL[mask_BL]), torch.from_numpy(cu_seqlens_B1)
