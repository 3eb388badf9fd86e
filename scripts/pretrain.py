"""Run `prott5nv pretrain` from a checkout: the same arguments, the same program.

python scripts/pretrain.py model=small model.data.dataset_path=DIR trainer.max_steps=2000
python scripts/pretrain.py model.data.dataset_path=DIR trainer.devices=8 trainer.num_nodes=4
"""

import sys

from prott5nv.cli import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
