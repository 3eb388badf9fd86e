"""From a composed configuration to a scored, saved predictor: the whole of `scripts/finetune.py`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from prott5nv.embedding.embedder import model_file
from prott5nv.embedding.job import file_sha256
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.adapters import adapted_encoder, merged
from prott5nv.flip.baselines import scored_baselines
from prott5nv.flip.features import Features, LiveEncoder, stored_embeddings
from prott5nv.flip.heads import HEADS, POOLED, Head, make_head
from prott5nv.flip.metrics import confusions, scores_by_length
from prott5nv.flip.predict import write_predictions
from prott5nv.flip.predictor import MODEL_FILE, OutputSpec, Prediction, save_predictor
from prott5nv.flip.tasks import SETS, Task, load_task
from prott5nv.flip.train import Settings, fit, predict
from prott5nv.model.device import choose_hardware
from prott5nv.model.prott5 import ProtT5

MODES = ("frozen", "lora", "full")
RESULT_FILE = "result.json"
PREDICTIONS_FILE = "predictions.csv"


def finetune(cfg: DictConfig) -> Path:
    """Train a head, alone or with the encoder, once for each seed; score it beside baselines; save the best seed.

    Parameters
    ----------
    cfg : DictConfig
        ``conf/finetune.yaml``, composed.

    Returns
    -------
    Path
        Folder with ``result.json``, ``predictions.csv`` of the test set and ``model.h5``.

    Raises
    ------
    ProtT5nvError
        If data or model are missing, or a setting cannot be met.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    settings = _settings(values["task"]["training"])
    seeds, mode, heads = values["seeds"], values["mode"], values["task"]["head"]
    head = {"name": heads["name"], **heads.get(heads["name"], {})}
    if mode not in MODES:
        raise ProtT5nvError(f"mode={mode}: choose {', '.join(MODES)}")
    if not seeds:
        raise ProtT5nvError("seeds is empty: give at least one, such as seeds=[1]")
    model = model_file(values["model"]["restore_encoder_path"])
    if not model.is_file():
        raise ProtT5nvError(f"{model}: no such file; model.restore_encoder_path takes a .nemo file")
    task = _load(values["task"])
    if values["proteins_per_set"]:
        task = task.subset(values["proteins_per_set"])
    make_head(task.level, 1, 1, **head)  # a mistake in its name or settings shows before the work begins
    print(_summary(task), flush=True)

    start = time.perf_counter()
    embedded = _embed(task, model, head, values) if mode == "frozen" else None
    seconds = {"embedding": time.perf_counter() - start}
    start = time.perf_counter()
    trained = [_train(task, model, mode, head, settings, values, seed, embedded) for seed in seeds]
    seconds["training"] = time.perf_counter() - start
    best = max(trained, key=lambda one: one.validation)
    outputs = [one.outputs for one in trained]
    test = task.indices("test")
    results = {"encoder": scores_by_length(task, outputs)}
    if values["baselines"]:
        results |= scored_baselines(task, head, settings, seeds, Path(values["cache_dir"]))

    folder = Path(values["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    meaning = OutputSpec(task.name, task.split, task.level, task.label, task.classes, head)
    save_predictor(folder / MODEL_FILE, merged(best.encoder), best.head, meaning)
    of_best = zip(test, best.outputs, strict=True)
    predictions = [Prediction(task.ids[i], int(task.lengths[i]), rows) for i, rows in of_best]
    write_predictions(folder / PREDICTIONS_FILE, meaning, predictions, [task.targets[i] for i in test])
    result = {
        "task": task.name,
        "split": task.split,
        "note": task.note,
        "level": task.level,
        "label": task.label,
        "classes": list(task.classes),
        "metric": task.metric,
        "mode": mode,
        "model": {"path": str(model), "sha256": file_sha256(model)},
        "proteins": {part: len(task.indices(part)) for part in SETS},
        "longer_than_512": {part: int((task.lengths[task.indices(part)] > 512).sum()) for part in SETS},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "results": results,
        "history": {str(one.seed): one.history for one in trained},
        "confusion": _confusion(task, test, outputs),
        "configuration": values,
    }
    (folder / RESULT_FILE).write_text(json.dumps(result, indent=1) + "\n")
    for name, scores in results.items():
        print(f"{name:>16}: {_line(scores['all'])}")
    print(f"written to {folder}")
    return folder


class _Trained(NamedTuple):
    """What one seed gave; ``validation`` is its best score there, the larger the better."""

    seed: int
    encoder: ProtT5
    head: Head
    history: list[dict]
    validation: float
    outputs: list[np.ndarray]


def _train(
    task: Task,
    model: Path,
    mode: str,
    head: dict,
    settings: Settings,
    values: dict,
    seed: int,
    embedded: Features | None,
) -> _Trained:
    device = choose_hardware(values["model"]["device"]).device
    encoder = adapted_encoder(model, mode, values["lora"], seed).to(device)
    torch.manual_seed(seed)
    network = make_head(task.level, encoder.config.hidden_size, task.num_outputs, **head).to(device)
    features = embedded or LiveEncoder(encoder, task.sequences)
    history = fit(
        network, features, task, settings, seed, lambda epoch: print(f"seed {seed}, {_epoch(epoch)}", flush=True)
    )
    scores = [epoch[task.metric] for epoch in history]
    validation = max(scores) if task.label == "class" else -min(scores)
    return _Trained(seed, encoder, network, history, validation, predict(network, features, task, task.indices("test")))


def _embed(task: Task, model: Path, head: dict, values: dict) -> Features:
    """Embeddings of all proteins, with a bar of the residues that are not in the cache."""
    with tqdm(total=int(task.lengths.sum()), unit=" residues", unit_scale=True, mininterval=1) as bar:
        return stored_embeddings(
            task.sequences,
            model,
            Path(values["cache_dir"]),
            pooled=HEADS[task.level].get(head["name"]) in POOLED,
            precision=values["model"]["precision"],
            device=values["model"]["device"],
            on_progress=bar.update,
        )


def _load(task: dict) -> Task:
    path = Path(task["file"])
    if not path.is_file():
        raise ProtT5nvError(
            f"{path}: no such file; `prott5nv prepare flip {task['name']} --from DIR -o {path.parent.parent}` makes it"
        )
    columns = {name: value for name, value in task.items() if name.endswith("_column")}
    return load_task(path, name=task["name"], level=task["level"], label=task["label"], **columns)


def _settings(values: dict) -> Settings:
    unknown = values.keys() - {field.name for field in fields(Settings)}
    if unknown:
        raise ProtT5nvError(f"task.training.{min(unknown)}: no such setting")
    for name, value in values.items():
        if (
            not isinstance(value, int | float)
            or value < 0
            or (name in ("epochs", "patience", "batch_size", "max_tokens") and value < 1)
        ):
            raise ProtT5nvError(f"task.training.{name}={value} is not a positive number")
    return Settings(**values)


def _confusion(task: Task, test: np.ndarray, outputs_by_seed: Sequence[Sequence[np.ndarray]]) -> list | None:
    """True class by predicted class, mean over seeds."""
    if task.label == "number":
        return None
    totals = [confusions(task, test, outputs).sum(0) for outputs in outputs_by_seed]
    return np.mean(totals, axis=0).tolist()


def _summary(task: Task) -> str:
    counts = " / ".join(f"{len(task.indices(part)):,}" for part in ("train", "val", "test"))
    note = f" ({task.note})" if task.note else ""
    return f"{task.name}, {task.split}{note}: {counts} train / val / test"


def _epoch(epoch: dict) -> str:
    return ", ".join(f"{name} {value if name == 'epoch' else format(value, '.4f')}" for name, value in epoch.items())


def _line(scores: dict) -> str:
    shown = ("accuracy", "macro_f1", "mcc", "mse", "spearman", "r2")
    return "   ".join(
        f"{name} {scores[name]['mean']:.3f} [{scores[name]['low']:.3f}, {scores[name]['high']:.3f}]"
        for name in shown
        if name in scores
    )
