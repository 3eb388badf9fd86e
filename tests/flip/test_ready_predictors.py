"""The predictors inside the package, and files that hold a head alone."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from prott5nv import ProtT5nvError
from prott5nv.assets import BUILTIN_MODEL, READY_PREDICTORS
from prott5nv.checkpoint.models import checksum
from prott5nv.cli import main
from prott5nv.flip.heads import make_head
from prott5nv.flip.predictor import Predictor
from prott5nv.flip.predictor_file import save_predictor
from prott5nv.flip.tasks import OutputSpec
from prott5nv.io.record import Record

SEQUENCE = "MVLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHF"


@pytest.mark.parametrize("name", READY_PREDICTORS)
def test_a_ready_predictor_fits_the_built_in_model(name):
    path = READY_PREDICTORS[name]
    assert path.stat().st_size < 4e6
    predictor = Predictor(name, device="cpu", precision="fp32")
    assert predictor.encoder_sha256 == checksum(BUILTIN_MODEL)  # or run scripts/ship_predictors.py again
    assert checksum(BUILTIN_MODEL) in path.with_suffix(".md").read_text()
    [prediction] = predictor.predict([Record("P1", SEQUENCE, "P1", 1)])
    rows = {"residue": len(SEQUENCE), "protein": 1}[predictor.output_spec.level]
    assert prediction.rows.shape == (rows, len(predictor.output_spec.classes))
    np.testing.assert_allclose(prediction.rows.sum(1), 1, rtol=1e-5)
    assert predictor.label.startswith(f"{name} ")


def test_structure_is_drawn_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.fasta").write_text(f">sp|P69905|HBA_HUMAN Hemoglobin subunit alpha\n{SEQUENCE}*\n")
    for name in ("out.html", "out.csv"):
        with pytest.raises(SystemExit) as stopped:
            main(["predict", "secondary_structure", "p.fasta", "-o", name])
        assert not stopped.value.code
        printed = capsys.readouterr()
        assert printed.out.startswith(f"{name}: 1 protein, predictor secondary_structure ")
        assert printed.err.count("removed '*' from the end of 1 sequence") == 1
    assert '"description": "sp|P69905|HBA_HUMAN Hemoglobin subunit alpha"' in (tmp_path / "out.html").read_text()
    header, row = (tmp_path / "out.csv").read_text().splitlines()
    assert ", built-in demonstration model " in (tmp_path / "out.html").read_text()
    assert header == "protein,original_id,length,prediction,confidence,model"
    assert row.startswith(f"P69905,sp|P69905|HBA_HUMAN,{len(SEQUENCE)},")
    assert f'"prediction": "{row.split(",")[3]}"' in (tmp_path / "out.html").read_text()
    with pytest.raises(SystemExit):
        main(["predict", "secondary_structure", "p.fasta", "-o", "out.txt"])
    assert "choose a name that ends in .csv or .html or .png" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["predict", "p.fasta", "-o", "out.html"])
    assert "the files of proteins are missing; they follow RUN, which is secondary_structure" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["predict", "signal", "p.fasta", "-o", "signal.csv"])
    assert "signal: there is no such file or folder, and the ready predictors are" in capsys.readouterr().err


@pytest.fixture
def head_file(tmp_path):
    """Return a function that writes a head alone, for the encoder with a checksum."""

    def write(sha256, path=tmp_path / "head.safetensors"):
        spec = OutputSpec("secondary_structure", "sampled", "residue", "class", ("C", "E", "H"))
        settings = {"name": "linear"}
        torch.manual_seed(0)
        head = make_head("residue", 448, 3, **settings)
        save_predictor(path, None, head, settings, spec, sha256)
        return path

    return write


def test_a_head_for_another_model_is_refused(head_file):
    with pytest.raises(ProtT5nvError, match=r"trained with another built-in model \(00000000, not "):
        Predictor(head_file("0" * 64))


def test_a_name_that_is_also_a_run_is_ambiguous(head_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.move(head_file("0" * 64), tmp_path / "localization")
    with pytest.raises(ProtT5nvError, match=r"write \./localization for the one in the folder"):
        Predictor("localization")
    with pytest.raises(ProtT5nvError, match="trained with another built-in model"):
        Predictor("./localization")
