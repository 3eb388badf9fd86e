"""Make a pretrained model the package's built-in one: its weights in bf16, at the path that `model=None` reads.

    python scripts/ship_model.py results/NAME/NAME.nemo

The card beside it, builtin.md, is written by hand; `prott5nv info` prints it.
"""

import sys

import torch

from prott5nv.assets import BUILTIN_CARD, BUILTIN_MODEL
from prott5nv.checkpoint import read_nemo, save_nemo

MAX_MEGABYTES = 32  # it travels in the wheel


def main(path: str) -> None:
    trained = read_nemo(path)
    save_nemo(BUILTIN_MODEL, trained.config, trained.state_dict, dtype=torch.bfloat16)
    megabytes = BUILTIN_MODEL.stat().st_size / 1e6
    if megabytes > MAX_MEGABYTES:
        BUILTIN_MODEL.unlink()
        sys.exit(f"error: {megabytes:.1f} MB in bf16; the built-in model may have {MAX_MEGABYTES}")
    print(f"{BUILTIN_MODEL}: {megabytes:.1f} MB; now write {BUILTIN_CARD.name}")


if __name__ == "__main__":
    main(sys.argv[1])
