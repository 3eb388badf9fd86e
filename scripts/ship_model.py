"""Make a pretrained model the built-in model of the package.

    python scripts/ship_model.py results/NAME/NAME.nemo

The weights are converted to bf16 and written to prott5nv/assets/builtin.nemo. Write the model's card, builtin.md in the
same folder, by hand; `prott5nv info` prints it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from prott5nv.assets import BUILTIN_CARD, BUILTIN_MODEL
from prott5nv.checkpoint import read_nemo, save_nemo

MAX_MEGABYTES = 32  # the model is part of the wheel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="FILE.nemo", help="Pretrained model.")
    trained = read_nemo(parser.parse_args().checkpoint)
    megabytes = sum(2 * tensor.numel() for tensor in trained.state_dict.values()) / 1e6
    if megabytes > MAX_MEGABYTES:
        sys.exit(f"error: the weights take {megabytes:.1f} MB in bf16, more than the limit of {MAX_MEGABYTES} MB")
    save_nemo(BUILTIN_MODEL, trained.config, trained.state_dict, dtype=torch.bfloat16)
    print(
        f"wrote {BUILTIN_MODEL}, {BUILTIN_MODEL.stat().st_size / 1e6:.1f} MB; now write its card, {BUILTIN_CARD.name}"
    )


if __name__ == "__main__":
    main()
