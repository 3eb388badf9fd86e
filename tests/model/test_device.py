"""The choice of device, precision and batch size on many kinds of hardware."""

from __future__ import annotations

import pytest
import torch

from prott5nv import ModelConfig, ProtT5nvError
from prott5nv.cli import options
from prott5nv.model.device import DEVICES, PRECISIONS, Hardware, choose_hardware, residue_budget


@pytest.fixture
def machine(monkeypatch):
    """Pretend that PyTorch runs on another machine."""

    def machine(*, gpus=0, compute_capability=(8, 0), mps=False, cpu=(), free_bytes=0):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: compute_capability)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_bytes, free_bytes))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(cpu, True))

    return machine


@pytest.mark.parametrize(
    ("hardware", "device", "precision", "reason"),
    [
        (dict(gpus=1, compute_capability=(9, 0)), "cuda", "bf16", "natively"),
        (dict(gpus=1, compute_capability=(8, 0), cpu=["amx_bf16"]), "cuda", "bf16", "natively"),
        (dict(gpus=2, compute_capability=(7, 5)), "cuda", "fp16", "too old for bf16"),
        (dict(mps=True, cpu=["amx_bf16"]), "mps", "fp32", "safe choice"),
        (dict(cpu=["amx_bf16", "avx512_bf16"]), "cpu", "bf16", "AMX"),
        (dict(cpu=["avx512_bf16"]), "cpu", "bf16", "AVX512-bf16"),
        (dict(cpu=["avx2"]), "cpu", "fp32", "no fast bf16"),
        (dict(), "cpu", "fp32", "no fast bf16"),
    ],
)
def test_the_automatic_choice_follows_the_hardware(machine, hardware, device, precision, reason):
    machine(**hardware)
    chosen = choose_hardware()
    assert (chosen.device.type, chosen.precision) == (device, precision)
    assert reason in chosen.reason
    assert chosen.dtype == PRECISIONS[precision]


def test_a_requested_device_and_precision_are_used(machine):
    machine(gpus=2, compute_capability=(7, 5))
    assert choose_hardware("cuda:1", "bf16") == Hardware(torch.device("cuda:1"), "bf16", "requested")
    assert choose_hardware("cpu").device.type == "cpu"


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("cuda", "auto", "finds 0 CUDA devices"),
        ("cuda:3", "auto", "device='cuda:3'"),
        ("mps", "auto", "finds no Apple GPU"),
        ("tpu", "auto", "choose auto, cuda, mps, cpu"),
        ("meta", "auto", "device='meta': this device computes nothing; choose auto, cuda, mps, cpu"),
        ("cpu", "int8", "choose auto, fp32, bf16, fp16"),
    ],
)
def test_errors_name_the_choices(machine, device, precision, message):
    machine()
    with pytest.raises(ProtT5nvError, match=message):
        choose_hardware(device, precision)


def test_the_description_names_device_and_threads():
    threads = torch.get_num_threads()
    expected = f"fp32 on CPU, {threads} thread{'s' if threads > 1 else ''} (requested)"
    assert str(choose_hardware("cpu", "fp32")) == expected
    assert str(Hardware(torch.device("mps"), "fp32", "x")) == "fp32 on Apple GPU (x)"


def test_the_budget_on_a_gpu_fills_a_quarter_of_the_free_memory(machine):
    config = ModelConfig.preset("prott5nv")
    bytes_per_residue = 2 * (8 * config.hidden_size + 2 * config.ffn_hidden_size)
    gpu = Hardware(torch.device("cuda"), "bf16", "")
    machine(gpus=1, free_bytes=4 * 1000 * bytes_per_residue)
    assert residue_budget(config, gpu) == 1000
    assert residue_budget(config, Hardware(gpu.device, "fp32", "")) == max(500, config.max_position_embeddings)
    machine(gpus=1, free_bytes=0)
    assert residue_budget(config, gpu) == config.max_position_embeddings
    machine(gpus=1, free_bytes=1 << 50)
    assert residue_budget(config, gpu) == 65536


def test_the_budget_elsewhere_is_fixed():
    config = ModelConfig.preset("tiny")
    assert residue_budget(config, Hardware(torch.device("cpu"), "fp32", "")) == 4096
    assert residue_budget(config, Hardware(torch.device("mps"), "fp32", "")) == 16384


def test_the_command_line_offers_the_same_precisions_and_devices():
    def dummy():
        pass

    options.device(options.precision(dummy))
    precision, device = dummy.__click_params__
    assert list(precision.type.choices) == ["auto", *PRECISIONS]
    assert device.metavar == "|".join(DEVICES)
