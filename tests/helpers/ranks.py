"""One process of a test that runs several.

This is not in conftest.py, because a process finds its function by the name of the module, and several modules are
named conftest.
"""

import os
import traceback


def run_rank(rank, size, port, function, arguments, results):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    # As torchrun sets them.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.update(WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size), TORCHELASTIC_RUN_ID="test")
    dist.init_process_group("gloo")
    try:
        results.put((rank, function(*arguments), None))
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
