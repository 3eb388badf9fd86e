"""Predictions as a CSV table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np

from prott5nv.embedding.skips import Skips, checked_records
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.predictor import Prediction, Predictor
from prott5nv.flip.tasks import OutputSpec
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.io.inputs import Input, input_name, reads_once
from prott5nv.io.progress import Progress
from prott5nv.io.record import Record, accession, location
from prott5nv.io.table import write_table

Writer: TypeAlias = Callable[[str | os.PathLike[str], Predictor, Iterable[Prediction]], int]


def predict_file(
    run: str | os.PathLike[str],
    source: Input,
    output: str | os.PathLike[str],
    *,
    device: str = "auto",
    precision: str = "auto",
    cleaning: Cleaning = DEFAULT_CLEANING,
    skips: Skips | None = None,
    spreadsheet_safe: bool = False,
    write: Writer | None = None,
    on_start: Callable[[Predictor], object] = lambda predictor: None,
) -> int:
    """Predict the proteins of a file and write a table. All proteins are checked before the model is loaded.

    Parameters
    ----------
    run : str or PathLike
        Folder of a fine-tuning run, the ``model.safetensors`` in it, or the name of a ready predictor.
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
    spreadsheet_safe : bool, default False
        See :func:`prott5nv.io.table.write_table`.
    write : callable, optional
        Writes the output from its path, the predictor and the predictions, and returns the number of proteins. By
        default it is a CSV table.
    on_start : callable
        Called with the predictor when it is loaded.

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
    is_read_once = reads_once(source)
    if is_read_once:
        records = list(records)
    residues = sum(len(record.sequence) for record in records)  # this reads, and so checks, all of them
    if not is_read_once:
        # The faulty proteins are counted already, and the second pass skips them again.
        records = checked_records(source, Skips(skip_errors=True), cleaning)
    predictor = Predictor(run, device=device, precision=precision)
    on_start(predictor)

    def skip(record: Record, error: ProtT5nvError) -> None:
        skips.add(ProtT5nvError(f"{location(record, input_name(source))}: {error}"), record.line, record.id)

    # The records are clean.
    predictions = predictor.predict(records, cleaning=None, on_error=skip)
    with Progress(residues) as bar:
        counted_predictions = _counted(predictions, bar)
        if write:
            return write(output, predictor, counted_predictions)
        return write_predictions(
            output, predictor.output_spec, counted_predictions, model=predictor.label, spreadsheet_safe=spreadsheet_safe
        )


def _counted(predictions: Iterable[Prediction], bar: Progress) -> Iterator[Prediction]:
    for prediction in predictions:
        yield prediction
        bar.update(prediction.length)


def write_predictions(
    path: str | os.PathLike[str],
    spec: OutputSpec,
    predictions: Iterable[Prediction],
    targets: Iterable[np.ndarray] | None = None,
    *,
    model: str,
    spreadsheet_safe: bool = False,
) -> int:
    """Write one row per protein.

    The columns are ``protein`` (the accession), ``original_id``, ``length``, ``prediction``, for classes
    ``confidence``, if given ``target``, and ``model``.
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
    model : str
        Label of the model.
    spreadsheet_safe : bool, default False
        See :func:`prott5nv.io.table.write_table`.

    Returns
    -------
    int
        Number of proteins written.

    Raises
    ------
    ProtT5nvError
        If the file cannot be written.
    """
    columns = ["protein", "original_id", "length", "prediction"]
    columns += ["confidence"] * (spec.label == "class") + ["target"] * (targets is not None) + ["model"]
    return write_table(path, columns, _rows(spec, predictions, targets, model), spreadsheet_safe=spreadsheet_safe)


def _rows(
    spec: OutputSpec, predictions: Iterable[Prediction], targets: Iterable[np.ndarray] | None, model: str
) -> Iterator[list[object]]:
    remaining_targets = iter(targets) if targets is not None else None
    for prediction in predictions:
        cells: list[object] = [accession(prediction.id), prediction.id, prediction.length]
        cells += class_and_confidence(spec, prediction) if spec.label == "class" else [_text(spec, prediction.rows)]
        if remaining_targets is not None:
            cells.append(_text(spec, next(remaining_targets)))
        yield [*cells, model]


def class_and_confidence(spec: OutputSpec, prediction: Prediction) -> tuple[str, str]:
    """Return the predicted class of a protein or its residues, and the confidence; see :func:`write_predictions`."""
    return _text(spec, prediction.rows.argmax(-1)), _confidence(spec, prediction.rows.max(-1))


def _text(spec: OutputSpec, values: np.ndarray) -> str:
    if spec.label == "number":
        return " ".join(f"{value:.6g}" for value in values)
    return "".join(spec.classes[value] if value >= 0 else "-" for value in values)


def _confidence(spec: OutputSpec, probabilities: np.ndarray) -> str:
    if spec.level == "protein":
        return f"{probabilities[0]:.4f}"
    return "".join(map(str, np.minimum(9, (probabilities * 10).astype(int))))
