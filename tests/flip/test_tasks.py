"""Tables of labelled proteins, and errors that name file, line and protein."""

from __future__ import annotations

import re
import warnings

import pytest

from prott5nv import ProtT5nvError
from prott5nv.flip.tasks import SETS, load_task
from prott5nv.io.cleaning import Cleaning, InputWarning


@pytest.mark.parametrize(
    ("level", "label", "rows", "message"),
    [
        ("residue", "class", "P1,MKV,HH", "own.csv: line 2: P1 has 3 residues and 2 labels"),
        ("residue", "number", "P1,MKV,1 2 3 4", "own.csv: line 2: P1 has 3 residues and 4 labels"),
        ("residue", "number", "P1,MKV,1 b 3", "own.csv: line 2: P1: '1 b 3' is not a number"),
        ("residue", "number", f"P1,{40 * 'M'},{39 * '1 '}1_0", "own.csv: line 2: P1: '1_0' is not a number"),
        ("protein", "number", "P1,MKV,1\n,MK,x", "own.csv: line 3: row 2: 'x' is not a number"),
        ("protein", "number", "P1,MKV,1_0", "own.csv: line 2: P1: '1_0' is not a number; write numbers such as 12"),
        ("protein", "number", "P1,MKV,١٢", "own.csv: line 2: P1: '١٢' is not a number"),
        ("residue", "number", "P1,MKV,1 2_0 3", "own.csv: line 2: P1: '1 2_0 3' is not a number"),
        ("protein", "number", "P1,MKV,inf", "own.csv: line 2: P1: the target 'inf' is not a finite number"),
        ("protein", "number", "P1,MKV,1e40", "own.csv: line 2: P1: the target '1e40' is not a finite number"),
        ("residue", "number", "P1,MKV,1 -inf 3", "own.csv: line 2: P1: the target '-inf' is not a finite number"),
        ("protein", "class", "P1,MKV,", "own.csv: line 2: P1: the target is missing"),
        ("protein", "class", "P1,MKV,NA\nP2,MK,C\nP3,MK,", "line 2: P1: the target is missing ('NA' means"),
        ("protein", "class", "P1,MKV,NA\nP2,MK,C\nP3,MK,", "a missing value), as in 1 more row"),
        ("protein", "number", "P1,MKV,nan", "line 2: P1: the target is missing ('nan' means a missing value)"),
        ("residue", "number", "P1,MKV,1 nan 3", "own.csv: line 2: P1: the target 'nan' is not a finite number"),
        ("protein", "class", "P1,null,H", "own.csv: line 2: P1: the sequence is missing ('null' means"),
        ("protein", "class", "P1,M-KV,H", "own.csv: line 2: P1: 1 gap ('-' or '.')"),
        ("protein", "class", "P1,--,H", "own.csv: line 2: P1: the sequence consists of gaps only"),
        ("protein", "class", "P1," + "ACGT" * 30 + ",H", "own.csv: the first 120 letters are all A, C, G, T, U or N"),
        ("protein", "class", 'P1,"MKV,H', "own.csv: line 2: a quote opens here and is not closed"),
        ("protein", "class", "P1,MKV,H,", "own.csv: line 2: the row has 4 of 3 columns"),
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
    with pytest.raises(ProtT5nvError, match="line 2: P1: set 'training': expected one of train, val, test"):
        load_task(path, name="own", level="protein", label="class")
    path.write_text("id,sequence,target,set\nP1,MKV,H,train\nP2,MKV,H, test \nP3,MKV,H,Train\n")
    with pytest.raises(ProtT5nvError, match=r"own\.csv: line 4: P3: set 'Train': expected one of train, val, test"):
        load_task(path, name="own", level="protein", label="class")
    (tmp_path / "own.json").write_text("{")
    with pytest.raises(ProtT5nvError, match=r"own\.json: not the description of a table"):
        load_task(path, name="own", level="protein", label="class")


PLAIN_TABLE = "sequence,target,set\n" + "".join(f"MKV,H,{part}\nMKL,C,{part}\n" for part in ("train", "val", "test"))


@pytest.mark.parametrize("content", ["[1, 2]", '{"level": "residue", "label": "number"}', '"text"'])
def test_a_json_file_of_another_origin_is_ignored(content, tmp_path):
    (tmp_path / "own.csv").write_text(PLAIN_TABLE)
    (tmp_path / "own.json").write_text(content)
    task = load_task(tmp_path / "own.csv", name="own", level="protein", label="class")
    assert (task.level, task.classes, task.note) == ("protein", ("C", "H"), "")


def test_a_description_is_used_only_for_the_table_that_it_was_made_for(tmp_path, flip_data):
    for suffix in (".csv", ".json"):
        content = (flip_data / "scl" / f"mixed_soft{suffix}").read_bytes()
        (tmp_path / f"mixed_soft{suffix}").write_bytes(content)
    path = tmp_path / "mixed_soft.csv"
    assert load_task(path, name="scl").level == "protein"
    path.write_text(PLAIN_TABLE)
    with pytest.raises(ProtT5nvError, match=r"mixed_soft\.json: describes another table than mixed_soft\.csv"):
        load_task(path, name="scl")


TABLE = "id,sequence,target,set,mask\n" + "".join(
    f"{part}{i},{sequence},{target},{part},{mask}\n"
    for part in ("train", "val", "test")
    for i, (sequence, target, mask) in enumerate([("MK-V*", "HCCHC", "11101"), ("MKV*", "HCH", "110")])
)


def test_stops_and_gaps_are_removed_together_with_their_labels(tmp_path):
    (tmp_path / "own.csv").write_text(TABLE)
    with pytest.warns(InputWarning) as warned:
        task = load_task(
            tmp_path / "own.csv", name="own", level="residue", label="class", cleaning=Cleaning(gaps="remove")
        )
    assert task.sequences == ["MKV", "MKV"] * 3
    assert [targets_R.tolist() for targets_R in task.targets] == [[1, 0, -1], [1, 0, -1]] * 3
    assert [str(warning.message).partition(": ")[2] for warning in warned] == [
        "removed '*' from the end of 6 sequences",
        "removed the gaps of 3 sequences",
    ]


@pytest.mark.parametrize(
    ("header", "target_column", "ids"),
    [
        ("protein,sequence,target", "target", ["P1", "P2"]),
        ("Entry,sequence,target", "target", ["P1", "P2"]),
        ("name,sequence,target", "target", ["P1", "P2"]),
        ("gene,sequence,target", "target", ["row 1", "row 2"]),
        ("gene,sequence,id", "id", ["row 1", "row 2"]),
    ],
)
def test_ids_are_found_by_the_usual_names(header, target_column, ids, tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(f"{header},set\n" + "".join(f"P1,MKV,H,{part}\nP2,MKL,C,{part}\n" for part in SETS))
    task = load_task(path, name="own", level="protein", label="class", target_column=target_column)
    assert task.ids[:2] == ids
    assert load_task(path, name="own", level="protein", label="class", target_column=target_column,
                     id_column="sequence").ids[:2] == ["MKV", "MKL"]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("sequence_column", "own.csv: no column 'x'; choose one of sequence, target, set with --sequence-column"),
        ("target_column", "own.csv: no column 'x'; choose one of sequence, target, set with --target-column"),
        ("id_column", "own.csv: no column 'x'; choose one of sequence, target, set with task.id_column=NAME"),
    ],
)
def test_a_missing_column_is_an_error_with_the_option(column, message, tmp_path):
    (tmp_path / "own.csv").write_text(PLAIN_TABLE)
    with pytest.raises(ProtT5nvError, match=re.escape(message)):
        load_task(tmp_path / "own.csv", name="own", level="protein", label="class", **{column: "x"})


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (12 * ["50.5", "61.25"], "2 classes among 24 targets, all of them numbers; did you mean --label number?"),
        ([str(i) for i in range(13)], "13 classes among 13 targets, all of them numbers; did you mean --label number?"),
        ([f"class {i}" for i in range(13)], "13 classes among 13 targets"),
        (12 * ["0.0", "1.0"], None),
        (12 * ["H", "C"], None),
    ],
)
def test_classes_that_seem_to_be_measurements_give_a_warning(targets, expected, tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("sequence,target\n" + "".join(f"MKV,{target}\n" for target in targets))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        load_task(path, name="own", level="protein", label="class")
    assert [str(warning.message) for warning in warned] == ([f"{path}: {expected}"] if expected else [])


def test_missing_sets_are_an_error_unless_all_are_missing(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("sequence,target,set\n" + "MKV,H,train\nMKL,H,test\n" * 3 + "MKL,C,\nMKL,C,NA\n")
    with pytest.raises(
        ProtT5nvError, match=r"own\.csv: line 8: row 7: the set is missing, as in 1 more row; --skip-missing"
    ):
        load_task(path, name="own", level="protein", label="class")
    path.write_text("sequence,target,set\n" + "MKV,H,NA\nMKL,H,\n" * 5)
    assert "test set drawn at random" in load_task(path, name="own", level="protein", label="class").note


def test_proteins_with_missing_values_are_left_out_on_request_and_counted(tmp_path):
    path = tmp_path / "own.csv"
    rows = "".join(f"{part},MKV,1\n{part},MKL,2\n" for part in ("train", "val", "test"))
    path.write_text(f"set,sequence,target\n{rows}train,MKV,NA\ntrain,,3\n,MKV,3\n")
    task = load_task(path, name="own", level="protein", label="number", skip_missing=True)
    assert len(task.ids) == 6
    assert task.note == "left out 3 proteins with missing values"


def test_trial_keeps_some_proteins_of_each_set(flip_data):
    task = load_task(flip_data / "scl" / "mixed_soft.csv", name="scl")
    trial = task.subset(3)
    assert [len(trial.indices(part)) for part in ("train", "val", "test")] == [3, 3, 3]
    assert trial.note == "rebuilt train; 3 proteins of each set" and set(trial.ids) < set(task.ids)
