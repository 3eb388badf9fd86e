"""Choices that depend on the machine."""

import os
import shutil

import pytest
import torch

pytest.importorskip("nemo", reason="needs the train extra")

from prott5nv import ModelConfig
from prott5nv.pretraining import hardware
from prott5nv.pretraining.hardware import (
    MEASURED_TOKENS,
    bytes_per_token,
    choose_compile,
    choose_micro_batch_tokens,
    choose_num_workers,
    micro_batch_tokens,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FULL = ModelConfig()
USUAL = dict(precision="bf16-mixed", recompute=False)


def test_the_measured_micro_batch_is_the_default_on_large_gpus():
    for memory in (139 * 2**30, 79 * 2**30):
        assert micro_batch_tokens(FULL, memory, **USUAL) == MEASURED_TOKENS == 65_536 + 20_480


def test_micro_batches_shrink_with_memory_and_grow_with_recomputation():
    sizes = [micro_batch_tokens(FULL, gigabytes * 1e9, **USUAL) for gigabytes in (8, 16, 24, 40)]
    assert sizes == sorted(sizes) and 4_000 < sizes[0] < sizes[-1] < MEASURED_TOKENS
    recomputed = micro_batch_tokens(FULL, 16e9, precision="bf16-mixed", recompute=True)
    assert recomputed > 3 * sizes[1]
    assert micro_batch_tokens(FULL, 16e9, precision="32", recompute=False) < 0.8 * sizes[1]
    assert micro_batch_tokens(FULL, 16e9, **USUAL, tensor_parallel=2) > 1.3 * sizes[1]
    assert micro_batch_tokens(FULL, 1e9, **USUAL) == 512 + 155  # the longest protein


def saved_bytes(model, batch):
    """Memory of the tensors that autograd keeps for the backward pass, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(batch).float().sum()
    return sum(storages.values())


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_the_estimate_of_activations_is_that_of_the_network(cfg, precision):
    """The CPU also keeps the attention weights, and other masks of dropout, so the two agree only roughly."""
    from prott5nv.pretraining.model import ProtT5nvModel

    cfg.model.num_layers = 4
    model = ProtT5nvModel(cfg.model)
    model.configure_model()
    [batch] = model._dataset("train", shuffle=True).__getitems__(range(8))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "32"):
        found = saved_bytes(model.megatron.train(), batch) / batch["lengths"].sum()
    expected = bytes_per_token(model.config, precision=precision, recompute=False)
    assert 0.6 * expected < found < 1.8 * expected


def test_the_micro_batches_of_a_cpu_depend_on_the_model_only():
    sizes = {name: choose_micro_batch_tokens(ModelConfig.preset(name), CPU, **USUAL) for name in ("prott5nv", "tiny")}
    assert sizes == {"prott5nv": 4096, "tiny": 12288}


def test_a_gpu_reports_its_micro_batches(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 * 10**9, 24 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * 10**9)
    with caplog.at_level("INFO", logger="prott5nv"):
        tokens = choose_micro_batch_tokens(FULL, GPU, **USUAL)
    assert tokens == micro_batch_tokens(FULL, 24e9, **USUAL)
    assert f"micro-batches: at most {tokens:,} tokens (24 GB of GPU memory" in caplog.text


@pytest.mark.parametrize(("cores", "processes", "workers"), [(2, 1, 1), (16, 1, 4), (16, 8, 1), (96, 8, 4)])
def test_workers_for_a_gpu_follow_the_cpu_cores(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(cores), raising=False)
    assert choose_num_workers(GPU, processes) == workers and choose_num_workers(CPU, processes) == 1


def test_compilation_is_chosen_for_long_runs_on_gpus(monkeypatch):
    monkeypatch.setattr(hardware.torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not choose_compile("auto", GPU, "bf16-mixed", 100_000)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "clang" else None)
    assert choose_compile("auto", GPU, "bf16-mixed", 100_000)
    for device, precision, steps in ((CPU, "bf16-mixed", 10**6), (GPU, "32", 10**6), (GPU, "bf16-mixed", 100)):
        assert not choose_compile("auto", device, precision, steps)
    assert choose_compile(True, CPU, "32", 1) and not choose_compile(False, GPU, "bf16-mixed", 10**6)
