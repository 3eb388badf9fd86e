"""Tables of labelled proteins, and errors that name file, line and protein."""

from __future__ import annotations

import pytest

from prott5nv import ProtT5nvError
from prott5nv.flip.tasks import load_task


@pytest.mark.parametrize(
    ("level", "label", "rows", "message"),
    [
        ("residue", "class", "P1,MKV,HH", "own.csv: line 2: P1 has 3 residues and 2 labels"),
        ("residue", "number", "P1,MKV,1 2 3 4", "own.csv: line 2: P1 has 3 residues and 4 labels"),
        ("residue", "number", "P1,MKV,1 b 3", "own.csv: line 2: P1: '1 b 3' is not a number"),
        ("protein", "number", "P1,MKV,1\n,MK,x", "own.csv: line 3: row 2: 'x' is not a number"),
        ("protein", "number", "P1,MKV,inf", "own.csv: line 2: P1: the target 'inf' is not a finite number"),
        ("protein", "number", "P1,MKV,1e40", "own.csv: line 2: P1: the target '1e40' is not a finite number"),
        ("residue", "number", "P1,MKV,1 -inf 3", "own.csv: line 2: P1: the target '-inf' is not a finite number"),
        ("protein", "class", "P1,MKV,", "own.csv: line 2: sequence or target is empty"),
        ("atom", "class", "P1,MKV,H", "own.csv: task.level=atom: must be residue or protein"),
        ("protein", None, "P1,MKV,H", "own.csv: task.label=None: must be class or number"),
        ("protein", "class", "P1,MKV,H", "own.csv: 0 proteins in the train set; at least 2 are needed"),
    ],
)
def test_invalid_table(level, label, rows, message, tmp_path):
    (tmp_path / "own.csv").write_text(f"id,sequence,target\n{rows}\n")
    with pytest.raises(ProtT5nvError) as caught:
        load_task(tmp_path / "own.csv", name="own", level=level, label=label)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_invalid_mask_set_and_description(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("id,sequence,target,set,mask\nP1,MKV,HHH,train,11\n")
    with pytest.raises(ProtT5nvError, match="line 2: P1: the mask must be 3 characters, 0 or 1"):
        load_task(path, name="own", level="residue", label="class")
    path.write_text("id,sequence,target,set\nP1,MKV,H,training\n")
    with pytest.raises(ProtT5nvError, match="set 'training': expected one of train, val, test"):
        load_task(path, name="own", level="protein", label="class")
    (tmp_path / "own.json").write_text("{")
    with pytest.raises(ProtT5nvError, match=r"own\.json: not the description of a table"):
        load_task(path, name="own", level="protein", label="class")


def test_trial_keeps_some_proteins_of_each_set(flip_data):
    task = load_task(flip_data / "scl" / "mixed_soft.csv", name="scl")
    trial = task.subset(3)
    assert [len(trial.indices(part)) for part in ("train", "val", "test")] == [3, 3, 3]
    assert trial.note == "rebuilt train; 3 proteins of each set" and set(trial.ids) < set(task.ids)
