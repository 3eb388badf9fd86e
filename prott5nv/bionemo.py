"""The inference class of BioNeMo v1, with the same name and methods, as a thin layer over :class:`prott5nv.Embedder`.

Shapes: B proteins, L residues of the longest, D hidden size, W residues of one protein.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from prott5nv.decoding.fill import choice_rule, fill_from_hidden, gaps, mask_gaps
from prott5nv.decoding.masking import GAP, max_masked
from prott5nv.embedding.batching import Window
from prott5nv.embedding.embedder import Embedder
from prott5nv.embedding.proteins import Protein, ProteinLike, sequences_of
from prott5nv.embedding.sequences import seqs_to_embedding
from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.model.config import ModelConfig
from prott5nv.model.device import Hardware
from prott5nv.model.prott5 import ProtT5
from prott5nv.model.tokenizer import PAD, ResidueTokenizer


class ProtT5nvInference:
    """A loaded model with the methods of BioNeMo v1's class of the same name, and ``embed``.

    BioNeMo v1 declared ``hiddens_to_seq`` and ``sample`` without implementing them. Here both predict masked residues,
    which are written as ``?``. The encoder reads a sentinel token in place of each masked residue, and the decoder
    predicts the residue behind each sentinel, as in pretraining. The decoder cannot reconstruct residues that were not
    masked.

    Parameters
    ----------
    model, device, precision, max_tokens, compile
        See :class:`prott5nv.Embedder`.

    Attributes
    ----------
    embedder : Embedder
        The engine that this class wraps.

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
        model: str | os.PathLike[str] | ProtT5 | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        max_tokens: int | None = None,
        compile: bool = False,
    ) -> None:
        self.embedder = Embedder(model, device=device, precision=precision, max_tokens=max_tokens, compile=compile)

    @property
    def config(self) -> ModelConfig:
        """Architecture of the model."""
        return self.embedder.decoder_config

    @property
    def hardware(self) -> Hardware:
        """Device and precision in use."""
        return self.embedder.hardware

    @property
    def network(self) -> ProtT5:
        """Encoder and decoder as a PyTorch module."""
        return self.embedder.network

    @property
    def tokenizer(self) -> ResidueTokenizer:
        """Converts residues to token ids."""
        return self.embedder.tokenizer

    @property
    def max_tokens(self) -> int:
        """Number of residues to compute at once."""
        return self.embedder.max_tokens

    def embed(
        self,
        proteins: Iterable[Protein],
        *,
        pooling: str | None = None,
        long: str = "truncate",
        cleaning: Cleaning | None = DEFAULT_CLEANING,
        on_error: Callable[[Protein, ProtT5nvError], None] | None = None,
    ) -> Iterator[tuple[Protein, np.ndarray | None]]:
        """Embed a stream of proteins; see :meth:`prott5nv.Embedder.embed`."""
        return self.embedder.embed(proteins, pooling=pooling, long=long, cleaning=cleaning, on_error=on_error)

    def tokenize(
        self, seqs: Iterable[ProteinLike], *, long: str = "truncate", cleaning: Cleaning | None = DEFAULT_CLEANING
    ) -> tuple[Tensor, Tensor]:
        """Convert proteins to token ids, padded at the end.

        Parameters
        ----------
        seqs : iterable of str, Bio.Seq, Bio.SeqRecord or Record
            Proteins in one-letter code.
        long : str
            ``truncate`` keeps the first ``config.max_position_embeddings`` residues of a longer protein. Any other
            value keeps all residues.
        cleaning : Cleaning or None
            What to do with gaps and nucleotides; see :meth:`prott5nv.Embedder.embed`.

        Returns
        -------
        ids : Tensor, shape=(B, L), dtype=int64
        mask : Tensor, shape=(B, L), dtype=bool
            True at residues, False at padding.

        Raises
        ------
        ProtT5nvError
            If a protein contains a character that is not a residue.
        """
        sequences = sequences_of(seqs, cleaning)
        limit = self.config.max_position_embeddings if long == "truncate" else None
        tokens = [torch.from_numpy(self.tokenizer.encode(sequence)[:limit]) for sequence in sequences]
        return _pad(tokens, PAD)

    def seq_to_hiddens(
        self, seqs: Iterable[ProteinLike], *, long: str = "truncate", cleaning: Cleaning | None = DEFAULT_CLEANING
    ) -> tuple[Tensor, Tensor]:
        """Compute the hidden states of every residue, padded at the end with zeros.

        Parameters
        ----------
        seqs : iterable of str, Bio.Seq, Bio.SeqRecord or Record
            Proteins in one-letter code. A ``?`` is a masked residue, which :meth:`hiddens_to_seq` predicts. A protein
            with ``?`` must not be longer than ``config.max_position_embeddings``.
        long, cleaning
            See :meth:`prott5nv.Embedder.embed`.

        Returns
        -------
        hiddens : Tensor, shape=(B, L, D), dtype=float32
        mask : Tensor, shape=(B, L), dtype=bool
            True at residues, False at padding.

        Raises
        ------
        ProtT5nvError
            If a protein cannot be embedded.
        """
        sequences = sequences_of(seqs, cleaning)
        unmasked = [sequence for sequence in sequences if GAP not in sequence]
        # A list, because `embed` warns of long proteins at the end.
        whole = iter(list(self.embed(unmasked, long=long, cleaning=None)))
        masked = iter(self._masked_hiddens([sequence for sequence in sequences if GAP in sequence]))
        hiddens = [next(masked) if GAP in sequence else next(whole)[1] for sequence in sequences]
        skipped = np.zeros((0, self.config.hidden_size), dtype=np.float32)
        rows = [torch.from_numpy(skipped if hidden_LD is None else hidden_LD) for hidden_LD in hiddens]
        return _pad(rows, 0.0, (self.config.hidden_size,))

    def hiddens_to_embedding(self, hiddens: Tensor, mask: Tensor) -> Tensor:
        """Average the hidden states of each protein over its residues.

        Parameters
        ----------
        hiddens : Tensor, shape=(B, L, D)
        mask : Tensor, shape=(B, L), dtype=bool
            Both as returned by :meth:`seq_to_hiddens`.

        Returns
        -------
        Tensor, shape=(B, D)
            Rows of NaN stand for proteins without residues, which ``long="skip"`` left out.

        Raises
        ------
        ProtT5nvError
            If the hidden states of a protein, or their mean, are NaN or infinite.
        """
        means_BD = torch.where(mask.unsqueeze(-1), hiddens, 0).sum(1) / mask.sum(1, keepdim=True)
        is_finite_B = means_BD.isfinite().all(1) | ~mask.any(1)
        if not is_finite_B.all():
            number = int(is_finite_B.int().argmin()) + 1
            raise ProtT5nvError(f"sequence {number}: the hidden states or their mean are NaN or infinite")
        return means_BD

    def seq_to_embeddings(
        self, seqs: Iterable[ProteinLike], *, long: str = "truncate", cleaning: Cleaning | None = DEFAULT_CLEANING
    ) -> Tensor:
        """Compute one embedding per protein, the average over its residues.

        Parameters
        ----------
        seqs : iterable of str, Bio.Seq, Bio.SeqRecord or Record
            Proteins in one-letter code.
        long, cleaning
            See :meth:`prott5nv.Embedder.embed`.

        Returns
        -------
        Tensor, shape=(B, D), dtype=float32
            Rows of NaN stand for proteins that ``long="skip"`` left out.

        Raises
        ------
        ProtT5nvError
            If a protein cannot be embedded.
        """
        return torch.from_numpy(seqs_to_embedding(seqs, self, pooling="mean", long=long, cleaning=cleaning))

    def hiddens_to_seq(
        self,
        hiddens: Tensor,
        mask: Tensor,
        seqs: Iterable[ProteinLike] | None = None,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        cleaning: Cleaning | None = DEFAULT_CLEANING,
    ) -> list[str]:
        """Predict the masked residues of proteins from their hidden states.

        Parameters
        ----------
        hiddens : Tensor, shape=(B, L, D)
            Hidden states that :meth:`seq_to_hiddens` returned for `seqs`, possibly with noise added.
        mask : Tensor, shape=(B, L), dtype=bool
            Mask that :meth:`seq_to_hiddens` returned.
        seqs : iterable of str, Bio.Seq, Bio.SeqRecord or Record
            The B proteins, with ``?`` at the residues to predict. All other residues are copied from here, because the
            decoder cannot reconstruct them from hidden states. BioNeMo v1 lacked this argument; here it is required.
        temperature, top_p, seed
            See :func:`prott5nv.fill`.
        cleaning : Cleaning or None
            As for :meth:`seq_to_hiddens`.

        Returns
        -------
        list of str
            Proteins of the same lengths, with a residue in place of each ``?``.

        Raises
        ------
        ProtT5nvError
            If `seqs` is missing, a protein has no ``?``, or `hiddens` do not belong to `seqs`.

        Examples
        --------
        >>> from prott5nv import ModelConfig, ProtT5, ProtT5nvInference
        >>> model = ProtT5nvInference(ProtT5(ModelConfig.preset("tiny")))
        >>> seqs = ["MKT???AYI", "M?LKR"]
        >>> [len(protein) for protein in model.hiddens_to_seq(*model.seq_to_hiddens(seqs), seqs)]
        [9, 5]
        """
        if seqs is None:
            raise ProtT5nvError(
                "hiddens_to_seq(hiddens, mask, seqs) needs the proteins, with ? at the residues to predict: other "
                "residues cannot be reconstructed from hidden states"
            )
        sequences = sequences_of(seqs, cleaning)
        hypotheses, choose = choice_rule(1, None, temperature, top_p, np.random.default_rng(seed))
        if len(hiddens) != len(sequences) or mask.sum(1).tolist() != [len(sequence) for sequence in sequences]:
            raise ProtT5nvError(
                "these are not the hidden states of these proteins: number or lengths differ; pass the sequences "
                "that seq_to_hiddens was called with"
            )
        proteins = []
        for number, (hidden_LD, mask_L, sequence) in enumerate(zip(hiddens, mask, sequences, strict=True), 1):
            if not gaps(sequence):
                raise ProtT5nvError(f"sequence {number} has no ?: write ? at each residue to predict")
            [filled] = fill_from_hidden(self.embedder, sequence, hidden_LD[mask_L], hypotheses, choose)
            proteins.append(filled.sequence)
        return proteins

    def sample(
        self,
        seqs: Iterable[ProteinLike],
        num_samples: int = 10,
        *,
        scaled_radius: float = 0.0,
        fraction: float = 0.15,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        cleaning: Cleaning | None = DEFAULT_CLEANING,
    ) -> list[list[str]]:
        """Generate variants of proteins: mask some residues and predict them from perturbed hidden states.

        Parameters
        ----------
        seqs : iterable of str, Bio.Seq, Bio.SeqRecord or Record
            The B proteins. In a protein with ``?``, exactly those residues are predicted. In any other protein, each
            sample masks a random `fraction` of the residues, as pretraining does.
        num_samples : int
            Number of samples for each protein.
        scaled_radius : float
            Standard deviation of the Gaussian noise that is added to the hidden states, as a multiple of the standard
            deviation of each column over the residues of the protein. 0 adds no noise. Far above 1, the predictions
            depend on little more than the frequencies of the amino acids.
        fraction : float
            Fraction of the residues to mask. At least one residue is masked, and at most as many as the model has
            sentinels for.
        temperature, top_p, seed
            See :func:`prott5nv.fill`. With temperature 0, samples differ only by the masked positions and the noise.
        cleaning : Cleaning or None
            What to do with gaps and nucleotides; see :meth:`prott5nv.Embedder.embed`.

        Returns
        -------
        list of list of str
            `num_samples` proteins for each of `seqs`, of the same length.

        Raises
        ------
        ProtT5nvError
            If a protein cannot be embedded, or an option is not valid.

        Examples
        --------
        >>> from prott5nv import ModelConfig, ProtT5, ProtT5nvInference
        >>> model = ProtT5nvInference(ProtT5(ModelConfig.preset("tiny")))
        >>> [samples] = model.sample(["MSLKRAVLGG"], 3, scaled_radius=0.5)
        >>> [len(protein) for protein in samples]
        [10, 10, 10]
        """
        sequences = sequences_of(seqs, cleaning)
        if num_samples < 1 or scaled_radius < 0 or not 0 < fraction <= 1:
            raise ProtT5nvError(
                f"num_samples={num_samples}, scaled_radius={scaled_radius}, fraction={fraction}: num_samples must be "
                "at least 1, scaled_radius at least 0, and fraction above 0 and at most 1"
            )
        rng = np.random.default_rng(seed)
        masked = [self._mask_some(sequence, fraction, rng) for sequence in sequences for _ in range(num_samples)]
        hiddens, mask = self.seq_to_hiddens(masked, cleaning=None)
        for hidden_LD, mask_L in zip(hiddens, mask, strict=True):
            deviation_D = hidden_LD[mask_L].std(0, correction=0).numpy()
            noise_WD = scaled_radius * deviation_D * rng.standard_normal((int(mask_L.sum()), len(deviation_D)))
            hidden_LD[mask_L] += torch.from_numpy(noise_WD.astype(np.float32))
        proteins = self.hiddens_to_seq(
            hiddens, mask, masked, temperature=temperature, top_p=top_p, seed=seed, cleaning=None
        )
        return [proteins[first : first + num_samples] for first in range(0, len(proteins), num_samples)]

    def _mask_some(self, sequence: str, fraction: float, rng: np.random.Generator) -> str:
        """Write ``?`` at random positions, unless the sequence has some already."""
        if GAP in sequence or not sequence:
            return sequence
        count = min(max(1, round(fraction * len(sequence))), max_masked(self.config))
        positions = set(rng.choice(len(sequence), count, replace=False).tolist())
        return "".join(GAP if position in positions else letter for position, letter in enumerate(sequence))

    def _masked_hiddens(self, seqs: Sequence[str]) -> list[np.ndarray]:
        """Return the hidden states of each protein with ``?``: ndarray, shape=(W, D), dtype=float32."""
        limit = self.config.max_position_embeddings
        windows = []
        for number, sequence in enumerate(seqs):
            if len(sequence) > limit:
                raise ProtT5nvError(
                    f"a protein with ? has {len(sequence)} residues, and this model accepts at most {limit} at once: "
                    "use prott5nv.fill, which computes a window around the masked residues"
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
