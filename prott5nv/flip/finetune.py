"""From a composed configuration to a scored, saved predictor: the whole of `scripts/finetune.py`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from prott5nv.bulk import file_sha256
from prott5nv.errors import ProtT5nvError
from prott5nv.flip.adapters import adapted_encoder, merged
from prott5nv.flip.baselines import baselines
from prott5nv.flip.features import LiveEncoder, stored_embeddings
from prott5nv.flip.heads import POOLED, make_head
from prott5nv.flip.metrics import confusions, evaluate
from prott5nv.flip.model_file import MODEL_FILE, Meaning, Prediction, save_predictor
from prott5nv.flip.predict import write_predictions
from prott5nv.flip.tasks import Task, load_task
from prott5nv.flip.train import Settings, fit, predict
from prott5nv.hardware import choose_hardware
from prott5nv.inference import model_file

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
    print(_summary(task), flush=True)

    runs = _Runs(task, model, mode, head, settings, values)
    outputs = [runs.train(seed) for seed in seeds]
    test = task.indices("test")
    results = {"encoder": _scored(task, test, outputs)}
    if values["baselines"]:
        for name, found in baselines(task, head, settings, seeds).items():
            results[name] = _scored(task, test, found)

    folder = Path(values["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    meaning = Meaning(task.name, task.split, task.level, task.label, task.classes, head)
    save_predictor(folder / MODEL_FILE, runs.best_model, runs.best_head, meaning)
    of_best = zip(test, outputs[runs.best_seed_number], strict=True)
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
        "proteins": {part: len(task.indices(part)) for part in ("train", "val", "test")},
        "longer_than_512": {
            part: int((task.lengths[task.indices(part)] > 512).sum()) for part in ("train", "val", "test")
        },
        "seconds": {name: round(seconds, 1) for name, seconds in runs.seconds.items()},
        "results": results,
        "history": runs.histories,
        "confusion": _confusion(task, test, outputs),
        "configuration": values,
    }
    (folder / RESULT_FILE).write_text(json.dumps(result, indent=1) + "\n")
    for name, scores in results.items():
        print(f"{name:>16}: {_line(scores['all'])}")
    print(f"written to {folder}")
    return folder


class _Runs:
    """Trains one seed after another and remembers the best."""

    def __init__(self, task: Task, model: Path, mode: str, head: dict, settings: Settings, values: dict):
        self.task, self.model, self.mode, self.head, self.settings, self.values = (
            task,
            model,
            mode,
            head,
            settings,
            values,
        )
        self.hardware = choose_hardware(values["model"]["device"], values["model"]["precision"])
        self.seconds = {"embedding": 0.0, "training": 0.0}
        self.histories: dict[str, list[dict]] = {}
        self.best_model = self.best_head = None
        self.best_seed_number = 0
        self._best = None
        self._features = None

    def train(self, seed: int) -> list[np.ndarray]:
        """Outputs for the test proteins."""
        task = self.task
        encoder = adapted_encoder(self.model, self.mode, self.values["lora"], seed).to(self.hardware.device)
        torch.manual_seed(seed)
        network = make_head(task.level, encoder.config.hidden_size, task.num_outputs, **self.head)
        network.to(self.hardware.device)
        features = (
            self._stored(pooled=isinstance(network, POOLED))
            if self.mode == "frozen"
            else LiveEncoder(encoder, task.sequences)
        )
        start = time.perf_counter()
        history = fit(
            network,
            features,
            task,
            self.settings,
            seed,
            lambda epoch: print(f"seed {seed}, {_epoch(epoch)}", flush=True),
        )
        self.seconds["training"] += time.perf_counter() - start
        self.histories[str(seed)] = history
        outputs = predict(network, features, task, task.indices("test"))
        scores = [epoch[task.metric] for epoch in history]
        score = max(scores) if task.label == "class" else -min(scores)
        if self._best is None or score > self._best:
            self._best, self.best_head, self.best_model = score, network, merged(encoder)
            self.best_seed_number = len(self.histories) - 1
        return outputs

    def _stored(self, *, pooled: bool):
        if self._features is None:
            from tqdm import tqdm

            start = time.perf_counter()
            with tqdm(total=int(self.task.lengths.sum()), unit=" residues", unit_scale=True, mininterval=1) as bar:
                self._features = stored_embeddings(
                    self.task.sequences,
                    self.model,
                    Path(self.values["cache_dir"]),
                    pooled=pooled,
                    precision=self.values["model"]["precision"],
                    device=self.values["model"]["device"],
                    on_progress=bar.update,
                )
            self.seconds["embedding"] = time.perf_counter() - start
        return self._features


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


def _scored(task: Task, test: np.ndarray, outputs_by_seed: Sequence[Sequence[np.ndarray]]) -> dict:
    """Scores of the whole test set, and of the proteins that fit into one window and those that do not."""
    short = task.lengths[test] <= 512
    parts = {"all": np.ones(len(test), dtype=bool), "up_to_512": short, "longer": ~short}
    scores = {}
    for name, chosen in parts.items():
        places = np.flatnonzero(chosen)
        if sum(task.scored(test[place]).any() for place in places) > 1:  # one protein gives no interval
            scores[name] = evaluate(task, test[places], [[outputs[p] for p in places] for outputs in outputs_by_seed])
    return scores


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
