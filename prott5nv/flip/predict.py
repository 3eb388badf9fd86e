"""Predictions as a table: what a person reads, and what another program does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np

from prott5nv.flip.predictor import OutputSpec, Prediction, Predictor
from prott5nv.io.reader import read_records
from prott5nv.io.table import write_table


def predict_file(
    run: str | os.PathLike,
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    device: str = "auto",
    precision: str = "auto",
) -> int:
    """Predict the proteins of a file; the output appears when it is complete.

    Parameters
    ----------
    run : path-like
        Folder of a fine-tuning run, or its ``model.h5``.
    source : path-like
        FASTA, CSV or TSV, gzipped or not.
    output : path-like
        CSV.

    Returns
    -------
    int
        Proteins predicted.
    """
    predictor = Predictor(run, device=device, precision=precision)
    return write_predictions(output, predictor.meaning, predictor.predict(read_records(source)))


def write_predictions(
    path: str | os.PathLike,
    meaning: OutputSpec,
    predictions: Iterable[Prediction],
    targets: Iterable[np.ndarray] | None = None,
) -> int:
    """Write one row per protein.

    ``prediction`` of residues is one letter each, or numbers with spaces between them; ``confidence`` is then one digit
    each, the probability in tenths (9: 0.9 or more). With targets, their column has ``-`` for what is not scored.
    """
    confident = meaning.label == "class"
    columns = ["id", "length", "prediction"] + ["confidence"] * confident + ["target"] * (targets is not None)
    return write_table(path, columns, _rows(meaning, predictions, targets))


def _rows(
    meaning: OutputSpec, predictions: Iterable[Prediction], targets: Iterable[np.ndarray] | None
) -> Iterator[list[object]]:
    confident = meaning.label == "class"
    rest = iter(targets) if targets is not None else None
    for name, length, rows in predictions:
        cells = [name, length, _text(meaning, rows.argmax(-1) if confident else rows)]
        if confident:
            cells.append(_confidence(meaning, rows.max(-1)))
        if rest is not None:
            cells.append(_text(meaning, next(rest)))
        yield cells


def _text(meaning: OutputSpec, values: np.ndarray) -> str:
    if meaning.label == "number":
        return " ".join(f"{value:.6g}" for value in values)
    return "".join(meaning.classes[value] if value >= 0 else "-" for value in values)


def _confidence(meaning: OutputSpec, probabilities: np.ndarray) -> str:
    if meaning.level == "protein":
        return f"{probabilities[0]:.4f}"
    return "".join(map(str, np.minimum(9, (probabilities * 10).astype(int))))
