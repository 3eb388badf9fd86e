"""Training data are checked before the first step, and what ``prepare`` writes is accepted."""

import logging

import pytest

pytest.importorskip("nemo", reason="needs the train extra")

from helpers.fitting import Losses, fit

from prott5nv import ProtT5nvError
from prott5nv.data.prepare import prepare
from prott5nv.pretraining.callbacks import Checkpoints

IDS = ["plain", "a,b", 'say"hi"', '"', ",", "=1+1", "\u00e4", "x" * 64_000]


@pytest.fixture
def folder(cfg, tmp_path):
    """Data without a validation set whose ids need quotes, as the dataset of `cfg`."""
    fasta = tmp_path / "source.fasta"
    fasta.write_text("".join(f">{name}\nMKTAYIAKQRLL\n" for name in IDS), encoding="utf-8")
    prepare(fasta, tmp_path / "data", validation=0, test=0)
    cfg.model.data.dataset_path = str(tmp_path / "data")
    return tmp_path / "data"


def test_ids_that_prepare_accepts_train_without_validation(cfg, folder, tmp_path, caplog):
    losses = Losses()
    with caplog.at_level(logging.INFO, "prott5nv"):
        _, model = fit(cfg, callbacks=[losses, Checkpoints(tmp_path / "checkpoints", interval=2)])
    assert len(losses.values) == 3
    assert sorted(model._dataset("train", shuffle=False).record_names(range(len(IDS)))) == sorted(IDS)
    assert "checked 8 records of train: " in caplog.text and "residues/s" in caplog.text
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step2.ckpt", "step3.ckpt"]


@pytest.mark.parametrize(("seq_length", "warnings"), [(12, 1), (11, 0)])
def test_random_windows_without_a_long_protein_give_a_warning(cfg, folder, caplog, seq_length, warnings):
    cfg.model.data.random_crop, cfg.model.data.seq_length = True, seq_length
    fit(cfg, max_steps=1)
    assert caplog.text.count("the longest protein of train has 12 residues, and the model takes 12") == warnings


def test_a_bad_record_stops_the_run_before_the_first_step(cfg, folder):
    with open(folder / "train" / "x000.csv", "a") as file:
        file.write("8,late,3,M7K\n")
    losses = Losses()
    with pytest.raises(ProtT5nvError, match=r"x000.csv, line 10: record 1 \(late\), position 2: '7' is not a residue"):
        fit(cfg, callbacks=[losses])
    assert not losses.values


def test_validation_data_are_checked_before_the_first_step(cfg, folder):
    losses = Losses()
    with pytest.raises(ProtT5nvError, match=r"val: 1 of 1 files missing"):
        fit(cfg, callbacks=[losses], limit_val_batches=1.0, val_check_interval=3, check_val_every_n_epoch=None)
    assert not losses.values
