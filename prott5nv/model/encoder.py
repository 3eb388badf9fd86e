"""The interface between a model and the code that computes embeddings.

Everything above this layer (embedding, fine-tuning, prediction) uses an encoder only through these classes. A new
architecture is a subclass of :class:`Encoder`, and a reader of its files in :mod:`prott5nv.checkpoint`.

Shapes: B proteins, T packed residues, D hidden size.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from prott5nv.model.tokenizer import ResidueTokenizer


class EncoderConfig(Protocol):
    """What the code above the model needs to know about an architecture, which is a dataclass."""

    @property
    def hidden_size(self) -> int:
        """Size of the hidden states, D."""

    @property
    def max_residues(self) -> int | None:
        """Number of residues that the encoder accepts at once; None if there is no limit."""

    @property
    def activations_per_residue(self) -> int:
        """Number of values that one layer holds at once for each residue."""


class LayerStack(nn.Module):
    """Layers of one kind, followed by a normalization.

    Attributes
    ----------
    layers : ModuleList
    final_layernorm : Module
    """

    layers: nn.ModuleList
    final_layernorm: nn.Module


class Encoder(nn.Module, ABC):
    """A network that computes one hidden state per residue.

    Attributes
    ----------
    config : EncoderConfig
        Architecture of the model.
    tokenizer : ResidueTokenizer
        Converts residues to the token ids that :meth:`encode` takes.
    encoder : LayerStack
        The layers and the final normalization.
    """

    config: EncoderConfig
    tokenizer: ResidueTokenizer
    encoder: LayerStack

    @abstractmethod
    def encode(self, tokens_T: Tensor, cu_seqlens_B1: Tensor) -> Tensor:
        """Compute the hidden states of the last encoder layer, after the final normalization.

        Parameters
        ----------
        tokens_T : Tensor, shape=(T,), dtype=int64
            Concatenated residue tokens of B proteins.
        cu_seqlens_B1 : Tensor, shape=(B + 1,), dtype=int32
            Start of each protein, followed by the end of the last one; on the host or on the device. If it is on the
            host, the host does not wait for a GPU.

        Returns
        -------
        Tensor, shape=(T, D)
            One hidden state per residue.
        """

    @abstractmethod
    def fusible_parts(self) -> Iterator[nn.Module]:
        """Iterate over the parts of the encoder that ``torch.compile`` can fuse for batches of any size."""

    def end_after(self, layer: int) -> None:
        """Remove all layers after one of them, and the final normalization.

        :meth:`encode` then returns what transformers calls ``hidden_states[layer]``, and takes less time.

        Parameters
        ----------
        layer : int
            Number of the last layer to keep, from 1. The whole encoder stays as it is.
        """
        if layer < len(self.encoder.layers):
            self.encoder.layers = self.encoder.layers[:layer]
            self.encoder.final_layernorm = nn.Identity()

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the model to a device and convert its weights to a data type, in place.

        Parameters
        ----------
        device : torch.device
        dtype : torch.dtype
            Data type of the computation. A subclass may keep some weights in float32.
        """
        self.to(device, dtype)

    def sha256(self) -> str:
        """Compute a checksum of the configuration and all weights, as hexadecimal digits.

        Returns
        -------
        str
            SHA-256 hash. It depends on the data type of the weights, but not on their device.
        """
        settings = asdict(cast(Any, self.config))
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()
