"""Prediction with a fine-tuned model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from prott5nv.assets import READY_PREDICTORS
from prott5nv.checkpoint.models import model_label
from prott5nv.embedding.embedder import Embedder
from prott5nv.embedding.proteins import Protein, name_of, sequence_of
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.description import file_sha256
from prott5nv.flip.head_base import Head
from prott5nv.flip.heads import make_head
from prott5nv.flip.predictor_file import PredictorParts, read_predictor
from prott5nv.flip.predictor_hdf5 import is_hdf5, read_hdf5_predictor
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning, InputWarning
from prott5nv.io.source import require_file
from prott5nv.io.text import valid_text
from prott5nv.model.config import ModelConfig
from prott5nv.model.encoder import Encoder
from prott5nv.model.finite import check_finite
from prott5nv.model.prott5 import ProtT5
from prott5nv.model.t5 import T5Encoder

MODEL_FILE = "model.safetensors"
_HDF5_MODEL_FILE = "model.h5"


class Prediction(NamedTuple):
    """The prediction for one protein.

    Attributes
    ----------
    id : str
    length : int
        Number of residues.
    rows : ndarray, shape=(L, K), (1, K), (L,) or (1,), dtype=float32
        Probabilities of the K classes, or numbers, for each of the L residues or for the protein.
    sequence : str
        The residues, as they were passed.
    description : str
        Whole FASTA header, if the protein is an object with one; otherwise empty.
    """

    id: str
    length: int
    rows: np.ndarray
    sequence: str
    description: str = ""


class Predictor:
    """A fine-tuned model, loaded from its file.

    Parameters
    ----------
    path : str or PathLike
        The file ``model.safetensors`` (or ``model.h5``, which older versions wrote), the folder of the run, or the name
        of a ready predictor for the built-in model: ``secondary_structure`` or ``localization``.
    device, precision : str
        As for :class:`prott5nv.embedding.embedder.Embedder`.

    Attributes
    ----------
    output_spec : OutputSpec
        What the predictions mean.
    head_settings : dict
        ``name`` and settings of the head.
    encoder_sha256 : str or None
        Hash of the ``.nemo`` file that training started from; None if the file does not record it.
    label : str
        Name of the predictor and the first digits of the checksum of its file.

    Raises
    ------
    ProtT5nvError
        If the file cannot be opened, or ``prott5nv finetune`` did not write it.
    """

    def __init__(self, path: str | os.PathLike[str], *, device: str = "auto", precision: str = "auto"):
        name, path = _find_predictor(os.fspath(path))
        try:
            require_file(path)
            self.label = model_label(valid_text(name), file_sha256(path))
            parts = read_hdf5_predictor(path) if is_hdf5(path) else read_predictor(path)
        except (OSError, ProtT5nvError) as error:
            reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ").splitlines()[0]
            raise ProtT5nvError(f"{path}: cannot be opened as a model of `prott5nv finetune`: {reason}") from None
        self.output_spec = parts.output_spec
        self.head_settings = parts.head_settings
        self.encoder_sha256 = parts.encoder_sha256
        self._head = _build_head(parts)
        encoder = _build_encoder(parts) if parts.encoder else None  # None is the built-in model
        self._embedder = Embedder(encoder, device=device, precision=precision)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "auto", precision: str = "auto") -> Predictor:
        """Load a fine-tuned model; the same as calling the class."""
        return cls(path, device=device, precision=precision)

    @property
    def encoder_label(self) -> str:
        """What the predictor was trained on, with the first digits of its checksum."""
        kind = "built-in demonstration model" if self._embedder.is_builtin else "encoder"
        return f"{kind} {(self.encoder_sha256 or 'unknown')[:8]}"

    @torch.inference_mode()
    def predict(
        self,
        proteins: Iterable[Protein],
        *,
        cleaning: Cleaning | None = DEFAULT_CLEANING,
        on_error: Callable[[Protein, ProtT5nvError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Predict a stream of proteins.

        Parameters
        ----------
        proteins : iterable of str, Bio.Seq, Bio.SeqRecord or Record
            Sequences, or objects with an id and a sequence, as for :meth:`prott5nv.Embedder.embed`. Proteins that are
            longer than the encoder accepts are embedded by overlapping windows.
        cleaning : Cleaning or None
            What to do with gaps and nucleotides; see :meth:`prott5nv.Embedder.embed`.
        on_error : callable, optional
            Called with a protein that cannot be predicted and its error. By default the error is raised.

        Yields
        ------
        Prediction
            In input order, without the proteins that cannot be predicted.

        Raises
        ------
        ProtT5nvError
            If a protein cannot be embedded, or NaN or infinity is computed for it.
        """
        embedded = self._embedder.embed(proteins, long="window", cleaning=cleaning, on_error=on_error)
        for number, (protein, rows) in enumerate(embedded, 1):
            if rows is None:  # `on_error` has been called; long="window" skips no protein
                continue
            name = name_of(protein, number)
            scores = self._head(torch.from_numpy(rows), [len(rows)])
            outputs = (scores.softmax(-1) if self.output_spec.label == "class" else scores[:, 0]).numpy()
            try:
                check_finite(outputs, name, "fp32")  # the precision of the head
            except ProtT5nvError as error:
                if on_error is None:
                    raise
                on_error(protein, error)
                continue
            sequence = _embedded_sequence(protein, name, cleaning)
            yield Prediction(name, len(rows), outputs, sequence, str(getattr(protein, "description", "")))


def _embedded_sequence(protein: object, name: str, cleaning: Cleaning | None) -> str:
    """Return the residues that the rows of a protein belong to. The warnings about them have been given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        return sequence_of(protein, name, cleaning and replace(cleaning, allow_nucleotides=True))


def _find_predictor(given: str) -> tuple[str, Path]:
    """Return the name and the file of a predictor: a ready one, the one in the folder of a run, or a file."""
    path = Path(given)
    if given in READY_PREDICTORS:
        if path.is_file() or _model_file(path).exists():
            raise ProtT5nvError(
                f"{given}: this is the name of a ready predictor, and also of a predictor in the current folder: write "
                f"./{given} for the one in the folder, or change the folder for the ready one"
            )
        return given, READY_PREDICTORS[given]
    if path.is_dir():
        return path.resolve().name, _model_file(path)
    if not path.exists():
        raise ProtT5nvError(
            f"{given}: there is no such file or folder, and the ready predictors are {', '.join(READY_PREDICTORS)}"
        )
    return path.stem if path.stem != Path(MODEL_FILE).stem else path.resolve().parent.name, path


def _model_file(folder: Path) -> Path:
    """Return the model's file in the folder of a run."""
    older = folder / _HDF5_MODEL_FILE
    return older if older.is_file() and not (folder / MODEL_FILE).exists() else folder / MODEL_FILE


def _build_head(parts: PredictorParts) -> Head:
    spec = parts.output_spec
    with torch.device("meta"):  # no memory for initial weights
        head = make_head(spec.level, parts.config.hidden_size, spec.num_outputs, **parts.head_settings)
    head.load_state_dict(parts.head, assign=True)
    return head.eval()


def _build_encoder(parts: PredictorParts) -> Encoder:
    model: Encoder
    with torch.device("meta"):
        if isinstance(parts.config, ModelConfig):
            # The file has no decoder; building a deep one only to delete it would take time.
            model = ProtT5(parts.config.replace(decoder_num_layers=1))
            del model.decoder
        else:
            assert parts.vocabulary is not None, "only ProtT5nv files have no vocabulary"
            model = T5Encoder(parts.config, parts.vocabulary)
    model.load_state_dict(parts.encoder, assign=True)
    return model
