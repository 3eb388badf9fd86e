"""Predictions as a CSV table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np

from prott5nv.embedding.skips import Skips, checked_records
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.predictor import Prediction, Predictor
from prott5nv.flip.tasks import OutputSpec
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.io.inputs import Input, input_name, reads_once
from prott5nv.io.record import Record, location
from prott5nv.io.table import write_table


def predict_file(
    run: str | os.PathLike[str],
    source: Input,
    output: str | os.PathLike[str],
    *,
    device: str = "auto",
    precision: str = "auto",
    cleaning: Cleaning = DEFAULT_CLEANING,
    skips: Skips | None = None,
) -> int:
    """Predict the proteins of a file and write a table. All proteins are checked before the model is loaded.

    Parameters
    ----------
    run : str or PathLike
        Folder of a fine-tuning run, or the ``model.safetensors`` in it.
    source : str, PathLike or InputFiles
        FASTA, CSV, TSV or Parquet, gzipped or not; a pipe; ``-`` for standard input; or several of these.
    output : str or PathLike
        The CSV file to write; see :func:`write_predictions`.
    device, precision : str
        As for :class:`prott5nv.embedding.embedder.Embedder`.
    cleaning : Cleaning
        What to do with gaps and nucleotides; see :mod:`prott5nv.io.cleaning`.
    skips : Skips, optional
        What to do with a protein that cannot be used. By default the first one is an error.

    Returns
    -------
    int
        Number of proteins predicted.

    Raises
    ------
    ProtT5nvError
        If the model or the proteins cannot be read, or the table cannot be written.
    """
    skips = skips or Skips()
    records: Iterable[Record] = checked_records(source, skips, cleaning)
    if reads_once(source):
        records = list(records)
    else:
        for _ in records:
            pass
        # The faulty proteins are counted already, and the second pass skips them again.
        records = checked_records(source, Skips(skip_errors=True), cleaning)
    predictor = Predictor(run, device=device, precision=precision)

    def skip(record: Record, error: ProtT5nvError) -> None:
        skips.add(ProtT5nvError(f"{location(record, input_name(source))}: {error}"), record.line, record.id)

    # The records are clean.
    predictions = predictor.predict(records, cleaning=None, on_error=skip)
    return write_predictions(output, predictor.output_spec, predictions)


def write_predictions(
    path: str | os.PathLike[str],
    spec: OutputSpec,
    predictions: Iterable[Prediction],
    targets: Iterable[np.ndarray] | None = None,
) -> int:
    """Write one row per protein.

    The columns are ``id``, ``length``, ``prediction``, for classes ``confidence``, and, if given, ``target``.
    The prediction for the residues of a protein is one letter per residue, or numbers separated by spaces. Its
    confidence is one digit per residue, the first decimal of the probability: 9 is 0.9 or more.

    Parameters
    ----------
    path : str or PathLike
    spec : OutputSpec
        What the predictions mean.
    predictions : iterable of Prediction
        Predictions in output order. They are written one at a time.
    targets : iterable of ndarray, shape=(R,), optional
        True classes or numbers of each protein. Classes that are not scored are written as ``-``.

    Returns
    -------
    int
        Number of proteins written.

    Raises
    ------
    ProtT5nvError
        If the file cannot be written.
    """
    columns = ["id", "length", "prediction"]
    columns += ["confidence"] * (spec.label == "class") + ["target"] * (targets is not None)
    return write_table(path, columns, _rows(spec, predictions, targets))


def _rows(
    spec: OutputSpec, predictions: Iterable[Prediction], targets: Iterable[np.ndarray] | None
) -> Iterator[list[object]]:
    remaining_targets = iter(targets) if targets is not None else None
    for name, length, rows in predictions:
        cells: list[object] = [name, length]
        if spec.label == "class":
            cells += [_text(spec, rows.argmax(-1)), _confidence(spec, rows.max(-1))]
        else:
            cells.append(_text(spec, rows))
        if remaining_targets is not None:
            cells.append(_text(spec, next(remaining_targets)))
        yield cells


def _text(spec: OutputSpec, values: np.ndarray) -> str:
    if spec.label == "number":
        return " ".join(f"{value:.6g}" for value in values)
    return "".join(spec.classes[value] if value >= 0 else "-" for value in values)


def _confidence(spec: OutputSpec, probabilities: np.ndarray) -> str:
    if spec.level == "protein":
        return f"{probabilities[0]:.4f}"
    return "".join(map(str, np.minimum(9, (probabilities * 10).astype(int))))
