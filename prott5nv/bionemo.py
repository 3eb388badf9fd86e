"""The methods that a BioNeMo v1 user knows, under their names there.

Shapes: B proteins, L residues of the longest, D hidden size; W residues of one protein.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prott5nv.decoding.fill import fill_from_hidden, gaps, make_choice, mask_gaps
from prott5nv.decoding.masking import GAP, max_masked
from prott5nv.embedding.batching import Window
from prott5nv.embedding.embedder import Embedder, NamedProtein, check_sequences, seqs_to_embedding
from prott5nv.errors import ProtT5nvError
from prott5nv.model.config import ModelConfig
from prott5nv.model.device import Hardware
from prott5nv.model.prott5 import ProtT5
from prott5nv.model.tokenizer import PAD, ProteinTokenizer


class ProtT5nvInference:
    """A loaded model with the methods of BioNeMo v1's class of the same name, and :meth:`embed`.

    BioNeMo v1 declared ``hiddens_to_seq`` and ``sample`` and left them empty. Here ``?`` stands for a masked residue:
    the encoder reads a sentinel in its place, and the decoder, which was trained to predict what stands behind
    sentinels and nothing else, predicts it. The decoder cannot read back the residues that were given.

    Parameters
    ----------
    model, device, precision, max_tokens, compile
        As for :class:`prott5nv.Embedder`.

    Attributes
    ----------
    embedder : Embedder
        The engine that computes everything.

    Raises
    ------
    ProtT5nvError
        If the checkpoint cannot be read, or the device is not available.

    Examples
    --------
    >>> from prott5nv import ModelConfig, ProtT5
    >>> model = ProtT5nvInference(ProtT5(ModelConfig.preset("tiny")))
    >>> hiddens, mask = model.seq_to_hiddens(["MSLKR", "MS"])
    >>> hiddens.shape, mask.sum(1).tolist()
    (torch.Size([2, 5, 64]), [5, 2])
    >>> model.hiddens_to_embedding(hiddens, mask).shape
    torch.Size([2, 64])
    """

    def __init__(
        self,
        model: str | Path | ProtT5 | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        max_tokens: int | None = None,
        compile: bool = False,
    ):
        self.embedder = Embedder(model, device=device, precision=precision, max_tokens=max_tokens, compile=compile)

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        return self.embedder.config

    @property
    def hardware(self) -> Hardware:
        """The device and the precision in use."""
        return self.embedder.hardware

    @property
    def network(self) -> ProtT5:
        """Encoder and decoder as a PyTorch module."""
        return self.embedder.network

    @property
    def tokenizer(self) -> ProteinTokenizer:
        """Residues to token ids."""
        return self.embedder.tokenizer

    @property
    def max_tokens(self) -> int:
        """Residues computed at once."""
        return self.embedder.max_tokens

    def embed(
        self,
        proteins: Iterable[str | NamedProtein],
        *,
        pooling: str | None = None,
        long: str = "truncate",
        on_error: Callable[[str | NamedProtein, ProtT5nvError], None] | None = None,
    ) -> Iterator[tuple[str | NamedProtein, np.ndarray | None]]:
        """Embed a stream of proteins; the same as :meth:`prott5nv.Embedder.embed`."""
        return self.embedder.embed(proteins, pooling=pooling, long=long, on_error=on_error)

    def tokenize(self, seqs: Sequence[str], *, long: str = "truncate") -> tuple[Tensor, Tensor]:
        """Token ids, padded at the end.

        Returns
        -------
        ids : Tensor, shape=(B, L), dtype=int64
        mask : Tensor, shape=(B, L), dtype=bool
            True where there is a residue.
        """
        check_sequences(seqs)
        limit = self.config.max_position_embeddings if long == "truncate" else None
        tokens = [torch.from_numpy(self.tokenizer.encode(sequence)[:limit]) for sequence in seqs]
        return _pad(tokens, PAD)

    def seq_to_hiddens(self, seqs: Sequence[str], *, long: str = "truncate") -> tuple[Tensor, Tensor]:
        """Hidden states of every residue, padded at the end with zeros.

        Parameters
        ----------
        seqs : sequence of str
            A ``?`` is a hidden residue, for :meth:`hiddens_to_seq` to name; proteins with one must not be longer than
            the model sees at once.
        long : str
            As for :meth:`ProtT5nvInference.embed`.

        Returns
        -------
        hiddens : Tensor, shape=(B, L, D), dtype=float32
        mask : Tensor, shape=(B, L), dtype=bool
            True where there is a residue.
        """
        check_sequences(seqs)
        whole = iter(self.embed([sequence for sequence in seqs if GAP not in sequence], long=long))
        gapped = iter(self._hiddens_with_gaps([sequence for sequence in seqs if GAP in sequence]))
        empty = np.zeros((0, self.config.hidden_size), dtype=np.float32)
        rows = [next(gapped) if GAP in sequence else next(whole)[1] for sequence in seqs]
        rows = [torch.from_numpy(empty if found is None else found) for found in rows]
        return _pad(rows, 0.0, (self.config.hidden_size,))

    def hiddens_to_embedding(self, hiddens: Tensor, mask: Tensor) -> Tensor:
        """Mean over the residues of each protein: Tensor, shape=(B, D), from what :meth:`seq_to_hiddens` returned."""
        residues_B1 = mask.sum(1, keepdim=True).clamp(min=1)
        return (hiddens * mask.unsqueeze(-1)).sum(1) / residues_B1

    def seq_to_embeddings(self, seqs: Sequence[str], *, long: str = "truncate") -> Tensor:
        """One embedding per protein, the mean over its residues: Tensor, shape=(B, D), dtype=float32."""
        return torch.from_numpy(seqs_to_embedding(seqs, self, pooling="mean", long=long))

    def hiddens_to_seq(
        self,
        hiddens: Tensor,
        mask: Tensor,
        seqs: Sequence[str],
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """Name the hidden residues of proteins from their hidden states, perturbed or not.

        Parameters
        ----------
        hiddens : Tensor, shape=(B, L, D)
        mask : Tensor, shape=(B, L), dtype=bool
            What :meth:`seq_to_hiddens` returned for `seqs`.
        seqs : sequence of str
            The B proteins, ``?`` where a residue is to be named. Other residues are taken from here: the decoder
            cannot read them from hidden states, which is also why this argument, which upstream had not, is needed.
        temperature, top_p, seed
            As for :func:`prott5nv.fill`.

        Returns
        -------
        list of str
            Proteins of the same lengths, without gaps.

        Raises
        ------
        ProtT5nvError
            If a protein has no ``?``, or `hiddens` are not those of `seqs`.

        Examples
        --------
        >>> from prott5nv import ModelConfig, ProtT5, ProtT5nvInference
        >>> model = ProtT5nvInference(ProtT5(ModelConfig.preset("tiny")))
        >>> seqs = ["MKT???AYI", "M?LKR"]
        >>> [len(protein) for protein in model.hiddens_to_seq(*model.seq_to_hiddens(seqs), seqs)]
        [9, 5]
        """
        check_sequences(seqs)
        readings, choose = make_choice(1, None, temperature, top_p, np.random.default_rng(seed))
        if len(hiddens) != len(seqs) or mask.sum(1).tolist() != [len(sequence) for sequence in seqs]:
            raise ProtT5nvError("these are not the hidden states of these proteins: the lengths are not the same")
        proteins = []
        for number, (hidden_LD, mask_L, sequence) in enumerate(zip(hiddens, mask, seqs, strict=True), 1):
            if not gaps(sequence):
                raise ProtT5nvError(f"sequence {number} has no ?: write one where a residue is to be named")
            [filled] = fill_from_hidden(self.embedder, sequence, hidden_LD[mask_L], readings, choose)
            proteins.append(filled.sequence)
        return proteins

    def sample(
        self,
        seqs: Sequence[str],
        num_samples: int = 10,
        *,
        scaled_radius: float = 0.0,
        fraction: float = 0.15,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[list[str]]:
        """Proteins like the given ones: some residues are hidden, and named anew from perturbed hidden states.

        Parameters
        ----------
        seqs : sequence of str
            B proteins. What has a ``?`` is named anew there and nowhere else; of other proteins, each sample hides a
            random `fraction` of the residues, as pretraining does.
        num_samples : int
            For each protein.
        scaled_radius : float
            Standard deviation of the Gaussian noise that is added to hidden states, in units of each column's own
            standard deviation over the residues of the protein. At 0 hidden states stay as they are; far above 1 the
            decoder knows little more than how frequent amino acids are.
        fraction : float
            Of the residues to hide; at least one is, and no more than the model has sentinels for.
        temperature, top_p, seed
            As for :func:`prott5nv.fill`. With temperature 0, samples differ by what is hidden, and by the noise.

        Returns
        -------
        list of list of str
            `num_samples` proteins for each of `seqs`, of the same length.

        Examples
        --------
        >>> from prott5nv import ModelConfig, ProtT5, ProtT5nvInference
        >>> model = ProtT5nvInference(ProtT5(ModelConfig.preset("tiny")))
        >>> [samples] = model.sample(["MSLKRAVLGG"], 3, scaled_radius=0.5)
        >>> [len(protein) for protein in samples]
        [10, 10, 10]
        """
        check_sequences(seqs)
        if num_samples < 1 or scaled_radius < 0 or not 0 < fraction <= 1:
            raise ProtT5nvError(
                f"num_samples={num_samples}, scaled_radius={scaled_radius}, fraction={fraction}: "
                "at least 1, at least 0, and above 0 up to 1"
            )
        rng = np.random.default_rng(seed)
        gapped = [self._hide_some(sequence, fraction, rng) for sequence in seqs for _ in range(num_samples)]
        hiddens, mask = self.seq_to_hiddens(gapped)
        for hidden_LD, mask_L in zip(hiddens, mask, strict=True):
            spread_D = hidden_LD[mask_L].std(0, correction=0).numpy()
            noise_WD = scaled_radius * spread_D * rng.standard_normal((int(mask_L.sum()), len(spread_D)))
            hidden_LD[mask_L] += torch.from_numpy(noise_WD.astype(np.float32))
        proteins = self.hiddens_to_seq(hiddens, mask, gapped, temperature=temperature, top_p=top_p, seed=seed)
        return [proteins[first : first + num_samples] for first in range(0, len(proteins), num_samples)]

    def _hide_some(self, sequence: str, fraction: float, rng: np.random.Generator) -> str:
        if GAP in sequence or not sequence:
            return sequence
        count = min(max(1, round(fraction * len(sequence))), max_masked(self.config))
        hidden = set(rng.choice(len(sequence), count, replace=False).tolist())
        return "".join(GAP if place in hidden else letter for place, letter in enumerate(sequence))

    def _hiddens_with_gaps(self, seqs: Sequence[str]) -> list[np.ndarray]:
        """Rows of each protein: ndarray, shape=(W, D), dtype=float32."""
        limit = self.config.max_position_embeddings
        windows = []
        for number, sequence in enumerate(seqs):
            if len(sequence) > limit:
                raise ProtT5nvError(
                    f"a protein of {len(sequence)} residues with ?; this model sees at most {limit} at once: use fill, "
                    "which takes a window round them"
                )
            name = f"{sequence[:10]}..."
            windows.append(Window(number, 0, mask_gaps(sequence, self.embedder, name), name))
        return self.embedder.encode_windows(windows)


def _pad(items: list[Tensor], value: float, shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    if not items:
        return torch.zeros(0, 0, *shape), torch.zeros(0, 0, dtype=torch.bool)
    lengths_B = torch.tensor([len(item) for item in items])
    mask_BL = torch.arange(int(lengths_B.max())) < lengths_B[:, None]
    return torch.nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=value), mask_BL
