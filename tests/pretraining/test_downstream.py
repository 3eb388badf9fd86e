"""Downstream validation: it adds a score after each validation and does not change the run otherwise."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("nemo", reason="needs the train extra")

from helpers.fitting import Losses, fit

from prott5nv import ProtT5nvError
from prott5nv.pretraining.config import checked
from prott5nv.pretraining.downstream import DownstreamValidation, probe
from prott5nv.pretraining.model import ProtT5nvModel
from prott5nv.pretraining.parallel import MegatronStrategy


@pytest.fixture
def dataset(cfg, flip_data):
    dataset = cfg.model.dwnstr_task_validation.dataset
    dataset.dataset_path = str(flip_data)
    dataset.num_epochs, dataset.batch_size, dataset.optim.lr = 20, 4, 0.01
    return checked(cfg).model.dwnstr_task_validation.dataset


def losses_and_metrics(cfg, *callbacks):
    losses = Losses()
    trainer, _ = fit(
        cfg,
        devices=2,
        strategy=MegatronStrategy(),
        callbacks=[losses, *callbacks],
        limit_val_batches=1.0,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
    )
    return losses.values, {name: value.item() for name, value in trainer.callback_metrics.items()}


@pytest.mark.slow
def test_a_probe_scores_the_weights_and_does_not_change_the_run(cfg, dataset, on_ranks):
    cfg.model.hidden_dropout = cfg.model.attention_dropout = 0.1
    (plain, without), _ = on_ranks(2, losses_and_metrics, cfg)
    ranks = on_ranks(2, losses_and_metrics, cfg, DownstreamValidation(dataset))
    scores = [metrics.pop("secondary_structure/accuracy") for _, metrics in ranks]
    assert scores[0] == scores[1] and 0.5 < scores[0] < 1  # always answering helix would score 0.4
    assert ranks[0] == (plain, without)


@pytest.mark.slow
def test_the_score_is_that_of_the_validation_set(dataset, tiny_checkpoint, tmp_path):
    path = shutil.copy(tiny_checkpoint, tmp_path / "model.nemo")
    task = DownstreamValidation(replace(dataset, num_epochs=1)).task
    score = probe(path, task, dataset, torch.device("cpu"))
    for part, changes in (("test", False), ("val", True)):
        targets = list(task.targets)
        for index in task.indices(part):
            targets[index] = np.roll(targets[index], 1)
        changed = replace(task, targets=targets)
        assert (probe(path, changed, dataset, torch.device("cpu")) != score) == changes


def test_a_full_disk_costs_the_score_but_not_the_run(cfg, dataset, monkeypatch, caplog):
    def full(model, path):
        raise ProtT5nvError(f"{path}: the model cannot be written: No space left on device")

    monkeypatch.setattr(ProtT5nvModel, "save_to", full)
    trainer, _ = fit(cfg, callbacks=[DownstreamValidation(dataset)], limit_val_batches=1.0, num_sanity_val_steps=1)
    assert "secondary_structure/accuracy" not in trainer.callback_metrics
    assert "no score on secondary_structure: " in caplog.text and "No space left" in caplog.text


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dataset_path": None}, "dataset.dataset_path is missing"),
        (
            {"dataset_path": "nowhere"},
            "nowhere/secondary_structure/sampled.csv: no such file; make it with `prott5nv prepare",
        ),
        ({"task_name": "folding"}, "task_name=folding: choose one of secondary_structure, "),
    ],
)
def test_errors_are_reported_before_training(dataset, change, message):
    with pytest.raises(ProtT5nvError, match=message):
        DownstreamValidation(replace(dataset, **change))
