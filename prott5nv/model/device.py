"""Choice of device, precision and batch size for this machine."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cache

import torch

from prott5nv.errors import ProtT5nvError
from prott5nv.model.encoder import EncoderConfig

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = ("auto", "cuda", "mps", "cpu")

# On the CPU that was measured (AVX512-bf16, no AMX), matmuls of 512 to 4,096 rows ran equally fast. A larger batch only
# takes more memory.
_CPU_BUDGET = 4096
# This many residues fill the largest GPU. A larger batch only takes more memory.
_GPU_BUDGET = 65536


@dataclass(frozen=True)
class Hardware:
    """A device and a precision.

    Attributes
    ----------
    device : torch.device
        Device that runs the model.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    reason : str
        Why this precision was chosen.
    """

    device: torch.device
    precision: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """The precision as a PyTorch data type."""
        return PRECISIONS[self.precision]

    def __str__(self) -> str:
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        elif self.device.type == "mps":
            name = "Apple GPU"
        else:
            threads = torch.get_num_threads()
            name = f"CPU, {threads} thread{'s' * (threads > 1)}"
        return f"{self.precision} on {name} ({self.reason})"


def choose_hardware(device: str = "auto", precision: str = "auto") -> Hardware:
    """Choose a device and a precision.

    Parameters
    ----------
    device : str
        ``auto`` chooses CUDA, otherwise Apple's MPS, otherwise the CPU. Any name that PyTorch knows, such as
        ``cuda:1``, is accepted.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``. ``auto`` chooses bf16 where the hardware computes it natively, fp16 on older
        CUDA devices, and fp32 elsewhere.

    Returns
    -------
    Hardware

    Raises
    ------
    ProtT5nvError
        If the device is not available, or the precision is unknown.

    Examples
    --------
    >>> choose_hardware("cpu", "fp32").reason
    'requested'
    """
    if precision not in ("auto", *PRECISIONS):
        raise ProtT5nvError(f"precision={precision!r}: choose auto, {', '.join(PRECISIONS)}")
    chosen = _find_device(device)
    if chosen.type == "cpu":
        _allow_forks()
    if precision != "auto":
        return Hardware(chosen, precision, "requested")
    if chosen.type == "cuda":
        if torch.cuda.get_device_capability(chosen) >= (8, 0):
            return Hardware(chosen, "bf16", "this GPU computes bf16 natively")
        return Hardware(chosen, "fp16", "this GPU is too old for bf16")
    if chosen.type == "cpu":
        capabilities = torch.cpu.get_capabilities()  # a dictionary whose keys depend on the architecture
        if capabilities.get("amx_bf16"):
            return Hardware(chosen, "bf16", "this CPU has AMX")
        if capabilities.get("avx512_bf16"):
            return Hardware(chosen, "bf16", "this CPU has AVX512-bf16")
        return Hardware(chosen, "fp32", "this CPU has no fast bf16")
    return Hardware(chosen, "fp32", "the safe choice for this device")


def residue_budget(config: EncoderConfig, hardware: Hardware) -> int:
    """Choose the number of residues to compute at once.

    On a GPU, the activations of a batch take at most a quarter of the free memory, but a batch always has room for the
    longest protein that the model accepts, if its length is limited.

    Parameters
    ----------
    config : EncoderConfig
        Architecture of the model.
    hardware : Hardware
        Device and precision.

    Returns
    -------
    int
    """
    if hardware.device.type == "cpu":
        return _CPU_BUDGET
    if hardware.device.type != "cuda":
        return 4 * _CPU_BUDGET
    free_bytes, _ = torch.cuda.mem_get_info(hardware.device)
    residues = free_bytes // 4 // (config.activations_per_residue * hardware.dtype.itemsize)
    return max(config.max_residues or 1, min(_GPU_BUDGET, residues))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device. The host does not wait for what a GPU is computing.

    Parameters
    ----------
    tensor : Tensor
    device : torch.device

    Returns
    -------
    Tensor
        The tensor itself if it is on the device already.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def can_compile(device: torch.device) -> bool:
    """Return whether ``torch.compile`` can build whole layers for a device.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    bool
        True for a GPU whose attention can be part of a compiled layer (from Ampere on), on a machine with the C
        compiler that ``torch.compile`` needs.
    """
    has_compiler = any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))
    return has_compiler and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def _allow_forks() -> None:
    """Let processes that are forked from now on compute, with one thread each.

    The threads of OpenMP do not exist in a forked process, and PyTorch would wait for them forever.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def _find_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ProtT5nvError(f"device={name!r}: choose {', '.join(DEVICES)} or a numbered GPU such as cuda:1") from None
    if device.type == "meta":
        raise ProtT5nvError(f"device={name!r}: this device computes nothing; choose {', '.join(DEVICES)}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ProtT5nvError(f"device={name!r}: PyTorch finds {torch.cuda.device_count()} CUDA devices here; try cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ProtT5nvError("device='mps': PyTorch finds no Apple GPU here; try cpu")
    return device
