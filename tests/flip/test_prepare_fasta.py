"""Labelled FASTA files as biotrainer has them, prepared for fine-tuning."""

from __future__ import annotations

import csv
import json
import warnings

import numpy as np
import pytest
from click.testing import CliRunner

from prott5nv import ProtT5nvError
from prott5nv.cli import command
from prott5nv.flip.prepare import prepare
from prott5nv.flip.prepare_fasta import prepare_fasta
from prott5nv.flip.tasks import load_task
from prott5nv.io.cleaning import Cleaning

# Two proteins for each set. The values of the residues are -1 for L and 2 for K, and 999.0 for M.
NUMBERS = "".join(
    f">{part}{i} SET={part} TARGET=999.0;2.0;-1 MASK={mask}\nMKL\n"
    for part in ("train", "val", "test")
    for i, mask in enumerate(("111", "011"))
)
RESIDUE_NUMBERS = {"level": "residue", "label": "number"}
RESIDUE_CLASSES = {"level": "residue", "label": "class"}


def write(path, content):
    path.write_text(content)
    return path


def test_numbers_of_residues_without_a_value_are_not_scored(tmp_path):
    source = write(tmp_path / "disorder.fasta", NUMBERS)
    prepared = prepare_fasta(source, tmp_path / "disorder.csv", missing="999", **RESIDUE_NUMBERS)
    assert prepared.differences == [
        "2 in the test set, with the sequence of a training or validation protein: test0, test1",
        "6 of 18 targets are not scored",
        "scored targets: -1 to 2",
    ]
    task = load_task(tmp_path / "disorder.csv", name="disorder")
    assert (task.level, task.label, task.split, task.sets.tolist()) == (
        "residue",
        "number",
        "own",
        ["train", "train", "val", "val", "test", "test"],
    )
    for targets_R in task.targets:
        np.testing.assert_array_equal(targets_R, np.array([np.nan, 2, -1], dtype=np.float32))


def test_a_missing_value_may_be_a_word_or_a_class(tmp_path):
    source = write(tmp_path / "a.fasta", NUMBERS.replace("999.0", "nan"))
    prepare_fasta(source, tmp_path / "a.csv", missing="nan", **RESIDUE_NUMBERS)
    assert np.isnan(load_task(tmp_path / "a.csv", name="a").targets[0]).tolist() == [True, False, False]
    classes = "".join(f">{part}{i} SET={part} TARGET=?AB\nMKL\n" for part in ("train", "val", "test") for i in (1, 2))
    prepared = prepare_fasta(write(source, classes), tmp_path / "b.csv", missing="?", **RESIDUE_CLASSES)
    assert prepared.classes == ["A", "B"]
    assert load_task(tmp_path / "b.csv", name="b").targets[0].tolist() == [-1, 0, 1]


def test_proteins_without_a_value_are_left_out_and_counted(tmp_path):
    source = write(
        tmp_path / "a.fasta", ">P1 SET=train TARGET=1\nMKV\n>P2 SET=train TARGET=-1\nMK\n>P3 SET=test TARGET=2\nMKL\n"
    )
    prepared = prepare_fasta(source, tmp_path / "a.csv", level="protein", label="number", missing="-1.0")
    assert prepared.differences == ["left out 1 protein without a target", "scored targets: 1 to 2"]
    assert prepared.counts == {"train": 1, "test": 1}


def test_three_files_give_the_table_of_flip(flip_source, tmp_path):
    prepare("secondary_structure", flip_source, tmp_path)
    source = flip_source / "secondary_structure"
    files = {"labels": source / "sampled.fasta", "masks": source / "mask.fasta"}
    prepare_fasta(source / "sequences.fasta", tmp_path / "own.csv", **files, **RESIDUE_CLASSES)
    assert (tmp_path / "own.csv").read_bytes() == (tmp_path / "secondary_structure" / "sampled.csv").read_bytes()


def test_a_column_of_disorder_is_a_mask_only_beside_secondary_structure(tmp_path):
    source = write(tmp_path / "train.fasta", ">P1 SET=train TARGET=CH\nMK\n")
    other = write(tmp_path / "test.csv", "sequence,target,disorder\nMKL,CHE,100\n")
    prepared = prepare_fasta(source, tmp_path / "own.csv", test=other, **RESIDUE_CLASSES)
    assert prepared.differences == ["scored targets: C (2), E (1), H (2)"]


@pytest.mark.parametrize("mask", ["1.0 1.0 0.0", '"[1.0, 1.0, 0.0]"', "110"])
def test_another_test_set(mask, tmp_path):
    """The tables of CASP have no ids and no sets, and masks in two styles."""
    source = write(tmp_path / "train.fasta", "".join(f">P{i} SET={s} TARGET=CH\nMK\n" for i, s in enumerate(
        ["train", "train", "val", "val", "test", "test"]
    )))  # fmt: skip
    other = write(tmp_path / "CASP.csv", f"input,dssp3,dssp8,disorder\nMKL,CHE,CHE,{mask}\nMK,CC,CC,1 1\n")
    prepared = prepare_fasta(source, tmp_path / "casp.csv", test=other, **RESIDUE_CLASSES)
    assert prepared.differences == [
        "1 in the test set, with the sequence of a training or validation protein: Sequence1",
        "1 of 13 targets is not scored",
        "scored targets: C (7), H (5)",
    ]
    task = load_task(tmp_path / "casp.csv", name="casp")
    assert task.note == "test set CASP"
    test = task.indices("test")
    assert [task.sequences[i] for i in test] == ["MKL", "MK"]
    assert [task.scored(i).tolist() for i in test] == [[True, True, False], [True, True]]


def test_gaps_are_removed_with_their_numbers_and_masks(tmp_path):
    source = write(tmp_path / "a.fasta", NUMBERS.replace("TARGET=999.0;2.0;-1", "TARGET=7;0.5;2;-1").replace(
        "MASK=111", "MASK=1011").replace("MASK=011", "MASK=1011").replace("MKL", "M-KL"))  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare_fasta(source, tmp_path / "a.csv", cleaning=Cleaning(gaps="remove"), **RESIDUE_NUMBERS)
    assert load_task(tmp_path / "a.csv", name="a").targets[0].tolist() == [7, 2, -1]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (">P1 SET=train TARGET=01\nMKV\n", RESIDUE_CLASSES, "line 1: P1 has 3 residues and 2 labels"),
        (">P1 SET=train TARGET=011 MASK=11\nMKV\n", RESIDUE_CLASSES, "P1: the mask must be 3 characters, 0 or 1"),
        (">P1 SET=train TARGET=1;2\nMKV\n", RESIDUE_NUMBERS, "line 1: P1 has 3 residues and 2 labels"),
        (">P1 SET=train TARGET=1;b;2\nMKV\n", RESIDUE_NUMBERS, "line 1: P1: the target 'b' is not a finite number"),
        (">P1 SET=train TARGET=1;nan;2\nMKV\n", RESIDUE_NUMBERS, "P1: the target 'nan' is not a finite number"),
        (
            ">P1 SET=train TARGET=A MASK=1\nMKV\n",
            {"level": "protein", "label": "class"},
            "P1 has a mask, and masks are",
        ),
        (">P1 SET=pred TARGET=011\nMKV\n", RESIDUE_CLASSES, "SET=pred: expected one of train, val, test"),
        (">P1 TARGET=011\nMKV\n", RESIDUE_CLASSES, "P1 has no SET=train or SET=test"),
        (">P1 SET=train\nMKV\n", RESIDUE_CLASSES, "P1 has no TARGET="),
        (">P1 SET=train TARGET=5;5\nMK\n", {**RESIDUE_NUMBERS, "missing": "5"}, "no target is scored"),
        (">P1 SET=train TARGET=01\nMK\n", {**RESIDUE_CLASSES, "test": "a.fasta"}, "no protein has SET=test"),
        (">P1 SET=train TARGET=01\nMK\n", {**RESIDUE_CLASSES, "masks": "a.fasta"}, "is used with a file of labels"),
        (">P1 SET=train TARGET=01\nMK\n", {**RESIDUE_CLASSES, "labels": "a.fasta"}, "P1 has a sequence"),
        (">P1 SET=train TARGET=01\nMK\n", {**RESIDUE_CLASSES, "test": "none.fasta"}, "none.fasta: No such file"),
        (">P1\nMK\n", {**RESIDUE_NUMBERS, "labels": "b.fasta"}, "a file of labels has classes of residues"),
        (">P2\nMK\n", {**RESIDUE_CLASSES, "labels": "b.fasta"}, "a.fasta lacks sequences: 1 labels without a sequence"),
    ],
)
def test_a_malformed_file_is_an_error(content, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.fasta", content)
    write(tmp_path / "b.fasta", ">P1 SET=train\n01\n")
    with pytest.raises(ProtT5nvError) as caught:
        prepare_fasta("a.fasta", "a.csv", **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fasta", "b.fasta"]


def test_the_table_is_named_csv_and_replaced_only_on_request(tmp_path):
    source = write(tmp_path / "a.fasta", NUMBERS)
    with pytest.raises(ProtT5nvError, match=r"a\.tsv: the name of the table must end in \.csv"):
        prepare_fasta(source, tmp_path / "a.tsv", **RESIDUE_NUMBERS)
    prepare_fasta(source, tmp_path / "a.csv", **RESIDUE_NUMBERS)
    with pytest.raises(ProtT5nvError, match=r"a\.csv: exists already"):
        prepare_fasta(source, tmp_path / "a.csv", **RESIDUE_NUMBERS)
    prepare_fasta(source, tmp_path / "a.csv", overwrite=True, **RESIDUE_NUMBERS)


def run(*arguments):
    done = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def finetune(folder, name, *settings):
    """Fine-tune on a prepared table, and return the result."""
    pytest.importorskip("hydra", reason="needs the finetune extra")
    pytest.importorskip("torchmetrics", reason="needs the finetune extra")
    run("finetune", folder / f"{name}.csv", "-o", folder / name, "seeds=[1]", "task.training.epochs=1", *settings)
    return json.loads((folder / name / "result.json").read_text())


@pytest.mark.slow
def test_the_example_from_its_file_to_scores(examples, tiny_checkpoint, tmp_path):
    options = ["--level", "residue", "--label", "class"]
    output = run("prepare", "fasta", examples / "signal_peptides.fasta", "-o", tmp_path / "signal.csv", *options)
    assert "signal, own: 6 / 2 / 3 train / val / test" in output and "4 of 1,938 targets are not scored" in output
    result = finetune(tmp_path, "signal", "--model", tiny_checkpoint)
    assert list(result["results"]) == ["encoder", "constant", "one-hot", "one-hot window"]
    assert result["task"] == "signal" and np.sum(result["confusion"]) == 110 + 238 + 165


@pytest.mark.slow
def test_missing_values_do_not_change_training_or_scores(tiny_checkpoint, tmp_path):
    """The second file has another value for the same residues."""
    results = []
    for name, value in (("a", "999.0"), ("b", "-5")):
        source = write(tmp_path / f"{name}.fasta", NUMBERS.replace("999.0", value))
        prepare_fasta(source, tmp_path / f"{name}.csv", missing=value, **RESIDUE_NUMBERS)
        results.append(finetune(tmp_path, name, "--model", tiny_checkpoint, "baselines=false")["results"])
    assert results[0] == results[1] and results[0]["encoder"]["all"]["mse"]["mean"] < 10
    with open(tmp_path / "a" / "predictions.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2


@pytest.mark.slow
def test_sets_of_the_protein_benchmark_collection(shared, tiny_checkpoint, tmp_path):
    pbc, structure = shared / "data" / "pbc", shared / "data" / "flip" / "secondary_structure"
    binding = prepare_fasta(pbc / "binding__binding_combined.fasta.gz", tmp_path / "binding.csv", **RESIDUE_CLASSES)
    assert binding.counts == {"train": 1179, "val": 131, "test": 46} and binding.classes == ["0", "1"]
    disorder = prepare_fasta(
        pbc / "disorder__disorder.fasta.gz", tmp_path / "disorder.csv", missing="999", **RESIDUE_NUMBERS
    )
    assert disorder.counts == {"train": 1050, "val": 118, "test": 117}
    assert disorder.differences == ["6,862 of 151,644 targets are not scored", "scored targets: -5.583 to 16.15"]
    files = {"labels": structure / "sampled.fasta.gz", "masks": structure / "mask.fasta.gz"}
    test = pbc / "secondary_structure__CASP14.csv.gz"
    casp = prepare_fasta(
        structure / "sequences.fasta.gz", tmp_path / "casp14.csv", test=test, **files, **RESIDUE_CLASSES
    )
    assert casp.counts == {"train": 9712, "val": 1080, "test": 18}
    assert casp.note == "test set secondary_structure__CASP14"
    result = finetune(tmp_path, "binding", "--model", tiny_checkpoint, "proteins_per_set=8", "baselines=false")
    assert result["proteins"] == {"train": 8, "val": 8, "test": 8}
