"""Fine-tuning from a configuration to a scored and saved predictor."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from prott5nv.checkpoint.models import checksum, local_path, model_file, model_label
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.adapters import load_trainable_encoder, merge_adapters
from prott5nv.flip.baselines import scored_baselines
from prott5nv.flip.config import LEVELS, PREDICTIONS_FILE, RESULT_FILE, FinetuneConfig, TaskConfig, TrainingConfig
from prott5nv.flip.description import file_sha256, read_description
from prott5nv.flip.features import Features, LiveEncoder, stored_embeddings
from prott5nv.flip.head_base import Head, MeanHead
from prott5nv.flip.heads import HEADS, make_head
from prott5nv.flip.metrics import confusions, scores_by_length, selection_metric
from prott5nv.flip.predict import write_predictions
from prott5nv.flip.predictor import MODEL_FILE, Prediction
from prott5nv.flip.predictor_file import save_predictor
from prott5nv.flip.row_cache import cache_size, default_folder
from prott5nv.flip.run_settings import differing_names, written_settings
from prott5nv.flip.tasks import FEW_TEST_PROTEINS, LONG, SETS, Task, load_task, shared_with_training
from prott5nv.flip.train import fit, predict
from prott5nv.io.atomic import whole_files, write_text
from prott5nv.io.cleaning import Cleaning
from prott5nv.io.exclusive import exclusive_folder
from prott5nv.io.output import check_outputs
from prott5nv.io.progress import Progress
from prott5nv.io.source import read_small
from prott5nv.io.text import counted, parse_json, shortened, valid_text
from prott5nv.io.work_folders import no_empty_parents
from prott5nv.model.device import choose_hardware
from prott5nv.model.encoder import Encoder

logger = logging.getLogger(__name__)

_FEW_STEPS = 100  # with fewer, the weights of a head stay close to their initial values


class FinetuneRun(NamedTuple):
    """A finished run.

    Attributes
    ----------
    folder : Path
        Folder with ``model.safetensors``, ``predictions.csv`` of the test set and ``result.json``.
    result : dict
        The content of ``result.json``. ``result["results"]["encoder"]["all"]`` holds the scores of the test set by
        metric, each with ``mean``, ``spread`` over the seeds, and ``low`` and ``high`` of the 95 % interval. Under
        ``["results"]`` are also the baselines, and in the place of ``"all"`` proteins of up to 512 residues and longer
        ones. ``result["history"]`` holds the learning curve of each seed.
    validation : float
        Mean score on the validation set over the seeds; the higher, the better. An error, such as ``mse``, is negative.
    metric : str
        Metric of that score: ``accuracy``, ``macro_f1`` or ``mse``.
    """

    folder: Path
    result: dict[str, Any]
    validation: float
    metric: str

    def __repr__(self) -> str:
        return f"FinetuneRun(folder={str(self.folder)!r}, validation_{self.metric}={abs(self.validation):.4f})"


class _Trained(NamedTuple):
    """Result of the training with one seed; the higher ``validation``, the better."""

    seed: int
    encoder: Encoder
    head: Head
    history: list[dict[str, float]]
    validation: float
    outputs: list[np.ndarray]  # for the test proteins


def check_run(config: FinetuneConfig) -> None:
    """Check as much of a run as is possible at once, so that a series of runs does not stop in the middle.

    Parameters
    ----------
    config : FinetuneConfig

    Raises
    ------
    ProtT5nvError
        If the table or the model is missing, the head does not fit the task, or other results exist in the output
        folder.
    """
    encoder_path, table = _encoder_path(config), _table_path(config.task, Path(config.data_dir))
    folder = Path(os.path.realpath(config.output_dir))
    if _finished_run(config, encoder_path, folder):
        return
    check_outputs(_outputs(folder), [encoder_path, table], overwrite=config.overwrite)
    level = read_description(table).get("level", config.task.level)
    if level in LEVELS:
        make_head(level, 1, 1, **config.task.head.settings(config.task.head.name))


def finetune(config: FinetuneConfig) -> FinetuneRun:
    """Train a head, alone or with the encoder, once per seed; score all of them and save the best one.

    If the output folder has the results of the same settings, table and model, nothing is trained. The task and what
    :func:`prott5nv.flip.train.fit` describes are logged at level ``INFO``.

    Parameters
    ----------
    config : FinetuneConfig
        See :func:`prott5nv.flip.config.finetune_config`.

    Returns
    -------
    FinetuneRun

    Raises
    ------
    ProtT5nvError
        If the table or the model is missing or invalid, the head does not fit the task, other results exist in the
        output folder, another process writes to it, NaN or infinity is computed, or the disk is full.
    """
    encoder_path = _encoder_path(config)
    folder = Path(os.path.realpath(config.output_dir))
    # Two runs side by side would mix their files. The lock is beside the folder, which appears when it is complete.
    lock = folder.with_name(f"{folder.name}.partial")
    try:
        with no_empty_parents(folder), exclusive_folder(lock, f"results to {folder}", wait=False):
            try:
                if finished := _finished_run(config, encoder_path, folder):
                    logger.info("%s: already complete, with the same settings, table and model", folder)
                    return finished
                check_outputs(_outputs(folder), [encoder_path, config.task.file], overwrite=config.overwrite)
                return _finetune(config, encoder_path, folder)
            finally:
                with suppress(OSError):  # files of the user are in it
                    lock.rmdir()
    except OSError as error:
        raise ProtT5nvError(f"{error.filename or folder}: {error.strerror or error}") from None


def _encoder_path(config: FinetuneConfig) -> Path:
    path, _ = local_path(model_file(config.model.restore_encoder_path))
    if not path.exists():
        raise ProtT5nvError(
            f"{path}: no such file or folder; model.restore_encoder_path takes a .nemo file, or the folder of "
            "a T5 model"
        )
    return path


def _outputs(folder: Path) -> list[Path]:
    return [folder / name for name in (MODEL_FILE, PREDICTIONS_FILE, RESULT_FILE)]


def _finished_run(config: FinetuneConfig, encoder_path: Path, folder: Path) -> FinetuneRun | None:
    """Return what a run with the same settings, table and model has written to a folder; None if there is none.

    Results of another run are an error, which names what differs.
    """
    if config.overwrite or not all(path.is_file() for path in _outputs(folder)):
        return None
    try:
        result = parse_json(read_small(folder / RESULT_FILE))
        before, now = written_settings(result["configuration"]), written_settings(asdict(config))
        differing = [f"{name}={before.get(name)}" for name in differing_names([before, now])]
        if result["table"]["sha256"] != _table_checksum(config):
            differing.append("another table")
        if result["model"]["sha256"] != checksum(encoder_path):
            differing.append("another model")
        score = float(result["validation"]["score"])
        finished = FinetuneRun(folder, result, score, str(result["validation"]["metric"]))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # of an older version, or not ours
        return None
    if differing:
        raise ProtT5nvError(
            f"{folder} has the results of a run with {shortened(', '.join(differing))}; choose another folder with "
            "-o DIR, or replace them with --overwrite"
        )
    return finished


def _table_checksum(config: FinetuneConfig) -> str:
    return file_sha256(_table_path(config.task, Path(config.data_dir)))


def _table_path(config: TaskConfig, data: Path) -> Path:
    path = Path(config.file)
    if not path.is_file():
        prepared = path == data / config.name / f"{config.split}.csv"
        remedy = f"; `prott5nv prepare flip {config.name} --from DIR -o {data}` makes it" if prepared else ""
        raise ProtT5nvError(f"{path}: no such file{remedy}")
    return path


def _finetune(config: FinetuneConfig, encoder_path: Path, folder: Path) -> FinetuneRun:
    """Train and score the heads, and write the results."""
    task = _load_table(config.task, Path(config.data_dir))
    if config.proteins_per_set is not None:
        task = task.subset(config.proteins_per_set)
    _check_learnable(task, config.task.file)
    head = config.task.head.settings(config.task.head.name)
    make_head(task.level, 1, 1, **head)  # reports a head that does not fit the task before the work begins
    logger.info(_describe(task))
    _warn_of_few_steps(task, config.task.training)
    _warn_of_unreliable_scores(task)
    if task.level == "residue" and "-" in task.classes:
        logger.warning(
            "residues with the target - are a class of their own; if they have none, write 0 for them in a column mask"
        )

    sha256, table_sha256 = checksum(encoder_path), _table_checksum(config)
    start = time.perf_counter()
    embedded = _embed(task, encoder_path, config) if config.mode == "frozen" else None
    seconds = {"embedding": time.perf_counter() - start}
    start = time.perf_counter()
    trained = [_train(task, encoder_path, head, config, seed, embedded) for seed in config.seeds]
    seconds["training"] = time.perf_counter() - start
    results = {"encoder": scores_by_length(task, [one.outputs for one in trained])}
    if config.baselines:
        results |= scored_baselines(task, config.task.head, config.task.training, config.seeds, _cache(config))

    if checksum(encoder_path) != sha256:  # each seed reads the file again
        raise ProtT5nvError(f"{encoder_path}: the file has changed since the run began; run the same command again")
    validation = sum(one.validation for one in trained) / len(trained)
    metric = selection_metric(task, config.task.training.balanced)
    result = {
        **_task_facts(task),
        "mode": config.mode,
        "model": {"path": str(encoder_path), "sha256": sha256},
        "table": {"path": config.task.file, "sha256": table_sha256},
        "validation": {"metric": metric, "score": validation},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "results": results,
        "history": {str(one.seed): one.history for one in trained},
        "confusion": _confusion(task, [one.outputs for one in trained]),
        "configuration": asdict(config),
    }
    best = max(trained, key=lambda one: one.validation)
    with whole_files(folder) as temporary:
        encoder = merge_adapters(best.encoder)
        save_predictor(temporary / MODEL_FILE, encoder, best.head, head, task.output_spec, sha256)
        label = model_label(valid_text(folder.name), file_sha256(temporary / MODEL_FILE))
        _write_test_predictions(temporary / PREDICTIONS_FILE, task, best.outputs, label)
        write_text(temporary / RESULT_FILE, json.dumps(result, indent=1) + "\n")
    return FinetuneRun(folder, result, validation, metric)


def _load_table(config: TaskConfig, data: Path) -> Task:
    return load_task(
        _table_path(config, data),
        name=config.name,
        level=config.level,
        label=config.label,
        sequence_column=config.sequence_column,
        target_column=config.target_column,
        id_column=config.id_column,
        set_column=config.set_column,
        mask_column=config.mask_column,
        cleaning=Cleaning(config.gaps, config.allow_nucleotides),
        skip_missing=config.skip_missing,
    )


def _check_learnable(task: Task, table: str) -> None:
    """Refuse a task from which nothing can be learnt, before any work begins."""
    for part in SETS:
        if not any(task.scored(i).any() for i in task.indices(part)):
            raise ProtT5nvError(f"{table}: no target of the {part} set is scored")
    train = task.indices("train")
    if task.level == "protein" and len({task.sequences[i] for i in train}) == 1:
        raise ProtT5nvError(f"{table}: all proteins of the train set have the same sequence; nothing can be learnt")
    if task.label == "class":
        present = {target for i in train for target in task.targets[i][task.scored(i)].tolist()}
        if len(present) == 1:
            name = task.classes[present.pop()]
            raise ProtT5nvError(f"{table}: all targets of the train set are {name!r}; nothing can be learnt")


def _warn_of_few_steps(task: Task, training: TrainingConfig) -> None:
    proteins = len(task.indices("train"))
    steps = training.epochs * training.steps_per_epoch(proteins)
    if steps < _FEW_STEPS:
        logger.warning(
            "%s for training give only %s with task.training.batch_size=%d and task.training.epochs=%d; with "
            "smaller batches or more epochs, the head learns more, and so do the heads of the baselines",
            counted(proteins, "protein"),
            counted(steps, "step"),
            training.batch_size,
            training.epochs,
        )


def _warn_of_unreliable_scores(task: Task) -> None:
    for part, used in (("val", "training"), ("test", "training or validation")):
        if shared := shared_with_training(task.sequences, task.sets.tolist(), part):
            logger.warning(
                "%d of %s in the %s set, such as %s, have the sequence of a %s protein, so the scores of this set are "
                "too good",
                len(shared),
                counted(len(task.indices(part)), "protein"),
                part,
                task.ids[shared[0]],
                used,
            )
    if (count := len(task.indices("test"))) < FEW_TEST_PROTEINS:
        logger.warning("the test set has only %s, so its scores depend on chance", counted(count, "protein"))


def _describe(task: Task) -> str:
    counts = " / ".join(f"{len(task.indices(part)):,}" for part in SETS)
    note = f" ({task.note})" if task.note else ""
    return f"{task.name}, {task.split}{note}: {counts} train / val / test"


def _embed(task: Task, encoder_path: Path, config: FinetuneConfig) -> Features:
    """Embed all proteins or open their cached embeddings, and show the progress."""
    cache = _cache(config)
    with Progress(int(task.lengths.sum()), advice="you can stop at any time and continue later") as bar:
        features = stored_embeddings(
            task.ids,
            task.sequences,
            encoder_path,
            cache,
            pooled=issubclass(HEADS[task.level][config.task.head.name], MeanHead),
            precision=config.model.precision,
            device=config.model.device,
            on_progress=bar.update,
        )
    size = cache_size(cache)
    remedy = "delete this folder" if config.cache_dir else "type 'prott5nv cache --clear'"
    logger.info("embeddings are kept in %s (%.1f MB); to free the space, %s", cache, size.bytes / 1e6, remedy)
    return features


def _cache(config: FinetuneConfig) -> Path:
    return Path(config.cache_dir) if config.cache_dir else default_folder()


def _train(
    task: Task, encoder_path: Path, head: dict[str, Any], config: FinetuneConfig, seed: int, embedded: Features | None
) -> _Trained:
    device = choose_hardware(config.model.device).device
    encoder = load_trainable_encoder(encoder_path, config.mode, config.lora, seed).to(device)
    torch.manual_seed(seed)
    network = make_head(task.level, encoder.config.hidden_size, task.num_outputs, **head).to(device)
    features = embedded or LiveEncoder(encoder, task.sequences)
    training = config.task.training
    history = fit(network, features, task, training, seed)
    scores = [epoch[selection_metric(task, training.balanced)] for epoch in history]
    validation = max(scores) if task.label == "class" else -min(scores)
    outputs = predict(network, features, task, task.indices("test"), training.max_tokens)
    return _Trained(seed, encoder, network, history, validation, outputs)


def _task_facts(task: Task) -> dict[str, Any]:
    """Return the entries of ``result.json`` that describe the task."""
    lengths = {part: task.lengths[task.indices(part)] for part in SETS}
    return {
        "task": task.name,
        "split": task.split,
        "note": task.note,
        "level": task.level,
        "label": task.label,
        "classes": list(task.classes),
        "metric": task.metric,
        "proteins": {part: len(lengths[part]) for part in SETS},
        "longer_than_512": {part: int((lengths[part] > LONG).sum()) for part in SETS},
    }


def _write_test_predictions(path: Path, task: Task, outputs: Sequence[np.ndarray], model: str) -> None:
    test = task.indices("test")
    predictions = [
        Prediction(task.ids[i], int(task.lengths[i]), rows, task.sequences[i])
        for i, rows in zip(test, outputs, strict=True)
    ]
    write_predictions(path, task.output_spec, predictions, [task.targets[i] for i in test], model=model)


def _confusion(task: Task, outputs_by_seed: Sequence[Sequence[np.ndarray]]) -> list[list[float]] | None:
    """Return the confusion matrix of the test set, true class by predicted class, as mean over the seeds."""
    if task.label == "number":
        return None
    test = task.indices("test")
    totals = [confusions(task, test, outputs).sum(0) for outputs in outputs_by_seed]
    mean: list[list[float]] = np.mean(totals, axis=0).tolist()
    return mean
