"""The operations of a step, against those that PyTorch counts, and the matmul rate of the machine."""

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from prott5nv import ModelConfig, ProtT5
from prott5nv.pretraining.flops import matmul_peak, training_flops


def test_the_matmuls_are_those_that_pytorch_counts():
    config = ModelConfig.preset("tiny", decoder_num_layers=1)
    model = ProtT5(config)
    # Proteins of two residues need very little attention, which PyTorch does not count on every device.
    proteins = 100
    encoder = torch.arange(0, 2 * proteins + 1, 2, dtype=torch.int32)
    decoder = torch.arange(proteins + 1, dtype=torch.int32)
    with FlopCounterMode(display=False) as counter:
        hidden = model.encode(torch.full((2 * proteins,), 5), encoder)
        decoded = model.decode(torch.full((proteins,), 5), decoder, hidden, encoder)
        model.logits(decoded).sum().backward()
    assert counter.get_total_flops() == pytest.approx(training_flops(config, [2] * proteins, [1] * proteins), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measuring_the_matmul_peak_takes_seconds_with_any_data_type(dtype):
    start = time.process_time()
    assert matmul_peak(torch.device("cpu"), dtype) > 1e7
    assert time.process_time() - start < 60  # 4,096 rows take minutes in bf16 on a CPU without bf16 instructions
