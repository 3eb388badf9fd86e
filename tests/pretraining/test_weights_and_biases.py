"""Runs in Weights & Biases: each has its own id, which stays when it continues."""

import pytest

pytest.importorskip("nemo", reason="needs the train extra")

from prott5nv.pretraining.weights_and_biases import ID_FILE, _run_id, wandb_logger


def test_a_run_keeps_its_id_when_it_continues(tmp_path):
    path = tmp_path / ID_FILE
    first = _run_id(path, is_continued=False)
    assert _run_id(path, is_continued=True) == first == path.read_text().strip()
    assert _run_id(path, is_continued=False) != first


def test_a_run_that_was_not_logged_before_gets_an_id(tmp_path):
    assert len(_run_id(tmp_path / ID_FILE, is_continued=True)) == 8


def test_a_given_id_is_used(tmp_path):
    pytest.importorskip("wandb", reason="needs wandb")
    logger = wandb_logger({"project": "p", "name": "n", "id": "mine", "offline": True}, tmp_path / "run", False)
    assert logger.version == "mine" and not (tmp_path / "run").exists()
