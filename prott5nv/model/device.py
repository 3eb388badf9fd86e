"""Where to run and in which precision, chosen from what the machine has, with the reason."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from prott5nv.errors import ProtT5nvError
from prott5nv.model.config import ModelConfig

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = ("auto", "cuda", "mps", "cpu")

# Products of 512 to 4,096 rows ran equally fast on the one CPU tried (AVX512-bf16, no AMX); more only takes memory.
_CPU_BUDGET = 4096
# Enough to fill the largest GPU; beyond it only memory grows.
_GPU_BUDGET = 65536
# A batch has four: every layer multiplies by matrices of the same shapes.
_COMPILED_PRODUCTS = "5"


@dataclass(frozen=True)
class Hardware:
    """A device and a precision.

    Attributes
    ----------
    device : torch.device
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    reason : str
        Why this precision, in words.
    """

    device: torch.device
    precision: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """The precision as PyTorch calls it."""
        return PRECISIONS[self.precision]

    def __str__(self) -> str:
        if self.device.type == "cuda":
            place = torch.cuda.get_device_name(self.device)
        elif self.device.type == "mps":
            place = "Apple GPU"
        else:
            threads = torch.get_num_threads()
            place = f"CPU, {threads} thread{'s' * (threads > 1)}"
        return f"{self.precision} on {place} ({self.reason})"


def choose_hardware(device: str = "auto", precision: str = "auto") -> Hardware:
    """Settle on a device and a precision.

    Parameters
    ----------
    device : str
        ``auto`` (CUDA, else Apple's MPS, else CPU), or any name PyTorch knows, such as ``cuda:1``.
    precision : str
        ``auto``, ``fp32``, ``bf16`` or ``fp16``.

    Raises
    ------
    ProtT5nvError
        If the device is not there, or the precision is unknown.

    Examples
    --------
    >>> choose_hardware("cpu", "fp32").reason
    'as asked'
    """
    if precision not in ("auto", *PRECISIONS):
        raise ProtT5nvError(f"precision={precision!r}: choose auto, {', '.join(PRECISIONS)}")
    chosen = _device(device)
    if precision != "auto":
        return Hardware(chosen, precision, "as asked")
    if chosen.type == "cuda":
        if torch.cuda.get_device_capability(chosen) >= (8, 0):
            return Hardware(chosen, "bf16", "this GPU computes it natively")
        return Hardware(chosen, "fp16", "this GPU is too old for bf16")
    if chosen.type == "cpu":
        # .get: absent on other architectures.
        capabilities = torch.cpu.get_capabilities()
        if capabilities.get("amx_bf16"):
            return Hardware(chosen, "bf16", "this CPU has AMX")
        if capabilities.get("avx512_bf16"):
            return Hardware(chosen, "bf16", "this CPU has AVX512-bf16")
        return Hardware(chosen, "fp32", "this CPU has no fast bf16")
    return Hardware(chosen, "fp32", "the safe choice there")


def bound_compiled_products() -> None:
    """Keep memory flat on CPUs; to be called before the first product of matrices.

    oneDNN compiles a product anew for every number of rows and keeps half a megabyte of each, 1,024 times, in two
    caches of which PyTorch has one. Unpadded batches hardly ever have the same number of rows twice, so that nothing is
    lost with a cache that holds the products of one batch: the four of a layer, or five where there is a decoder.
    """
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, _COMPILED_PRODUCTS)


def residue_budget(config: ModelConfig, hardware: Hardware) -> int:
    """Residues to compute at once: as many as speed asks for and a quarter of a GPU's free memory holds."""
    if hardware.device.type == "cpu":
        return _CPU_BUDGET
    if hardware.device.type != "cuda":
        return 4 * _CPU_BUDGET
    # Alive at once in a layer: residual stream, normed copy, query, key and value, attention, and both MLP activations.
    values = 8 * config.hidden_size + 2 * config.ffn_hidden_size
    free_bytes, _ = torch.cuda.mem_get_info(hardware.device)
    fits = free_bytes // 4 // (values * hardware.dtype.itemsize)
    return max(config.max_position_embeddings, min(_GPU_BUDGET, fits))


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ProtT5nvError(f"device={name!r}: choose {', '.join(DEVICES)} or a numbered GPU such as cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ProtT5nvError(f"device={name!r}: PyTorch sees {torch.cuda.device_count()} CUDA devices here; try cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ProtT5nvError("device='mps': PyTorch sees no Apple GPU here; try cpu")
    return device
