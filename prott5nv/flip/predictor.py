"""A fine-tuned model as one file: encoder, head, and what its outputs mean. HDF5, so that opening it runs nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch

from prott5nv.embedding.embedder import Embedder
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.heads import Head, make_head
from prott5nv.io.atomic import whole_file
from prott5nv.io.record import Record
from prott5nv.model.config import ModelConfig
from prott5nv.model.prott5 import ProtT5

MODEL_FILE = "model.h5"
_FORMAT = 1


@dataclass(frozen=True)
class OutputSpec:
    """What a head's outputs are.

    Attributes
    ----------
    task, split, level, label : str
        As for :class:`prott5nv.flip.tasks.Task`.
    classes : tuple of str
    head : dict
        ``name`` and settings.
    """

    task: str
    split: str
    level: str
    label: str
    classes: tuple[str, ...]
    head: dict


class Prediction(NamedTuple):
    """One protein's result.

    Attributes
    ----------
    id : str
    length : int
        Residues.
    rows : ndarray, shape=(L, K), (1, K), (L,) or (1,), dtype=float32
        Probabilities of the classes, or numbers; of each residue, or of the protein.
    """

    id: str
    length: int
    rows: np.ndarray


def save_predictor(path: Path, model: ProtT5, head: Head, meaning: OutputSpec) -> None:
    """Write encoder and head; the file appears under its name only when it is complete."""
    about = {"format": _FORMAT, "meaning": asdict(meaning), "config": asdict(model.config)}
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["prott5nv"] = json.dumps(about)
        for group, state in (("encoder", _encoder_state(model)), ("head", head.state_dict())):
            for name, tensor in state.items():
                file[f"{group}/{name}"] = tensor.detach().float().cpu().numpy()


class Predictor:
    """A fine-tuned model, ready to predict.

    Parameters
    ----------
    path : path-like
        The file, or the folder of the run that made it.
    device, precision : str
        As for :class:`prott5nv.Embedder`.

    Attributes
    ----------
    meaning : OutputSpec

    Raises
    ------
    ProtT5nvError
        If the file is not one of ours.
    """

    def __init__(self, path: str | os.PathLike, *, device: str = "auto", precision: str = "auto"):
        path = Path(path)
        path = path / MODEL_FILE if path.is_dir() else path
        try:
            with h5py.File(path, "r") as file:
                about = json.loads(file.attrs["prott5nv"])
                encoder, head = (
                    {name: torch.from_numpy(np.asarray(item)) for name, item in file[group].items()}
                    for group in ("encoder", "head")
                )
            self.meaning = OutputSpec(**{**about["meaning"], "classes": tuple(about["meaning"]["classes"])})
            config = ModelConfig.from_dict(about["config"])
            outputs = len(self.meaning.classes) or 1
            self._head = make_head(self.meaning.level, config.hidden_size, outputs, **self.meaning.head).eval()
            self._head.load_state_dict(head)
            with torch.device("meta"):  # the decoder, which has no part in this, takes no memory
                model = ProtT5(config)
            model.load_state_dict(encoder, strict=False, assign=True)
            del model.decoder
        except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ProtT5nvError(f"{path}: not a model that `prott5nv finetune` wrote ({reason})") from None
        self._inference = Embedder(model, device=device, precision=precision)

    @torch.inference_mode()
    def predict(self, records: Iterable[Record]) -> Iterator[Prediction]:
        """Predict a stream of proteins, in input order; long ones are embedded whole, by windows."""
        for record, rows in self._inference.embed(records, long="window"):
            scores = self._head(torch.from_numpy(rows), [len(rows)])
            outputs = scores.softmax(-1) if self.meaning.label == "class" else scores[:, 0]
            yield Prediction(record.id, len(rows), outputs.numpy())


def _encoder_state(model: ProtT5) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("decoder.")}
