"""FLIP's files in folders, archives, at web addresses and in the layout of BioNeMo v1, and their irregularities."""

from __future__ import annotations

import csv
import functools
import gzip
import http.server
import shutil
import threading
import zipfile

import pytest

from prott5nv import ProtT5nvError
from prott5nv.flip.prepare import FLIP, prepare
from prott5nv.flip.tasks import load_task


def rows_of(folder, task, split):
    with open(folder / task / f"{split}.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("task", FLIP)
def test_every_task(task, flip_data):
    split = next(iter(FLIP[task].splits))
    loaded = load_task(flip_data / task / f"{split}.csv", name=task)
    assert (loaded.level, loaded.label, loaded.split) == (FLIP[task].level, FLIP[task].label, split)
    assert len(loaded.indices("train")) >= 22 and len(loaded.indices("val")) >= 7 and len(loaded.indices("test")) == 8
    expected = [len(sequence) if loaded.level == "residue" else 1 for sequence in loaded.sequences]
    assert [len(target) for target in loaded.targets] == expected


def test_masked_residues_are_not_scored(flip_data):
    task = load_task(flip_data / "secondary_structure" / "sampled.csv", name="secondary_structure")
    assert task.classes == ("C", "E", "H")
    for index in range(len(task.ids)):
        assert not task.scored(index)[0] and task.scored(index)[1:].all()


def test_sequences_without_labels_are_counted(flip_source, tmp_path):
    (prepared,) = prepare("conservation", flip_source, tmp_path)
    assert any(line.startswith("2 sequences without labels: 0abc-") for line in prepared.differences)
    assert prepared.longer_than_512 == 5
    assert len(rows_of(tmp_path, "conservation", "sampled")) == 38


def test_counts_are_compared_with_the_model_card(flip_source, tmp_path):
    (prepared,) = prepare("scl", flip_source, tmp_path)
    assert "test: 8 proteins; the model card has 2,768" in prepared.differences
    assert prepared.note == "rebuilt train"
    assert load_task(tmp_path / "scl" / "mixed_soft.csv", name="scl").note == "rebuilt train"


def test_proteins_with_too_many_labels_are_left_out_and_named(flip_source, tmp_path):
    shutil.copytree(flip_source / "secondary_structure", tmp_path / "secondary_structure")
    labels = tmp_path / "secondary_structure" / "sampled.fasta"
    lines = labels.read_text().splitlines()
    lines[1] += "H"
    labels.write_text("\n".join(lines))
    (tmp_path / "secondary_structure" / "mask.fasta").unlink()
    (prepared,) = prepare("secondary_structure", tmp_path, tmp_path / "out")
    name = lines[0].split()[0][1:]
    assert f"1 left out, as they have more or fewer labels than residues: {name}" in prepared.differences
    assert "mask.fasta is missing: residues without coordinates are scored, too" in prepared.differences
    assert len(rows_of(tmp_path / "out", "secondary_structure", "sampled")) == 39


def test_archive_and_gzip_give_the_same_table(flip_source, flip_data, tmp_path):
    checkout = tmp_path / "FLIP" / "splits" / "secondary_structure"
    checkout.mkdir(parents=True)
    packed = tmp_path / "packed" / "secondary_structure"
    packed.mkdir(parents=True)
    with zipfile.ZipFile(checkout / "splits.zip", "w") as archive:
        for path in (flip_source / "secondary_structure").iterdir():
            archive.write(path, f"splits/{path.name}")
            (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    expected = rows_of(flip_data, "secondary_structure", "sampled")
    for source in (tmp_path / "FLIP", tmp_path / "packed"):
        prepare("secondary_structure", source, source / "out")
        assert rows_of(source / "out", "secondary_structure", "sampled") == expected
    (packed / "sampled.fasta").write_bytes((flip_source / "secondary_structure" / "sampled.fasta").read_bytes())
    with pytest.raises(ProtT5nvError, match=r"sampled\.fasta: sampled\.fasta\.gz is beside it; remove one of them"):
        prepare("secondary_structure", tmp_path / "packed", tmp_path / "out")


def test_tables_are_replaced_only_on_request_and_never_the_source(flip_source, tmp_path):
    shutil.copytree(flip_source / "gb1", tmp_path / "gb1")
    before = {path.name: path.read_text() for path in (tmp_path / "gb1").iterdir()}
    for overwrite in (False, True):  # the tables would have the names of FLIP's own files
        with pytest.raises(ProtT5nvError, match="this file is also an input"):
            prepare("gb1", tmp_path, tmp_path, overwrite=overwrite)
    assert {path.name: path.read_text() for path in (tmp_path / "gb1").iterdir()} == before
    prepare("gb1", tmp_path, tmp_path / "out")
    (tmp_path / "out" / "gb1" / "two_vs_rest.csv").unlink()
    with pytest.raises(ProtT5nvError, match=r"sampled\.csv: exists already"):
        prepare("gb1", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "gb1" / "two_vs_rest.csv").exists()
    assert len(prepare("gb1", tmp_path, tmp_path / "out", overwrite=True)) == 2


def test_an_archive_that_is_not_the_official_one_is_reported(flip_source, tmp_path):
    with zipfile.ZipFile(tmp_path / "splits.zip", "w") as archive:
        archive.writestr("splits/mixed_split.csv", "sequence,target,set,validation\nMKV,40,train,\nMS,41,test,\n")
    (prepared,) = prepare("meltome", tmp_path, tmp_path / "out")
    assert any("FLIP's own is 94b82305" in line for line in prepared.differences)


def test_web_address(flip_source, flip_data, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=flip_source)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        prepare("conservation", address, tmp_path)
        with pytest.raises(ProtT5nvError, match="nothing of scl is there"):
            prepare("scl", f"{address}/gb1", tmp_path)
        server.shutdown()
    assert rows_of(tmp_path, "conservation", "sampled") == rows_of(flip_data, "conservation", "sampled")


def test_tables_of_bionemo(flip_source, flip_data, tmp_path):
    """BioNeMo v1 has x000.csv in train, val and test, and other names for targets and masks."""
    rows = rows_of(flip_data, "secondary_structure", "sampled")
    for part in ("train", "val", "test"):
        (tmp_path / part).mkdir()
        with open(tmp_path / part / "x000.csv", "w") as file:
            file.write("id,sequence,3state,8state,resolved\n")
            for row in rows:
                if row["set"] == part:
                    file.write(f"{row['id']},{row['sequence']},{row['target']},{row['target']},{row['mask']}\n")
    prepare("secondary_structure", tmp_path, tmp_path / "out")
    prepared = rows_of(tmp_path / "out", "secondary_structure", "sampled")
    assert sorted(map(str, prepared)) == sorted(map(str, rows))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mixed_soft.fasta", ">P1 TARGET=Nucleus\nMKV\n", "line 1: P1 has no SET=train or SET=test"),
        ("mixed_soft.fasta", ">P1 TARGET=Nucleus SET=other\nMKV\n", "SET=other: expected one of train, val, test"),
        ("mixed_soft.csv", "sequence,class,set\nMKV,Nucleus,train\n", "expected columns sequence, target"),
        (
            "mixed_soft.csv",
            "sequence,target,set\nMKV,N,train\nMK,N,\nMK,N,nan\n",
            "line 3: the set is missing, as in 1",
        ),
        ("mixed_soft.csv", "sequence,target,set\nMKV,N,dev\n", "line 2: set 'dev': expected one of train, val, test"),
        ("mixed_soft.csv", "sequence,target,set\nMKV,,train\n", "line 2: Sequence0: the target is missing"),
        ("mixed_soft.csv", "sequence,target,set\nNA,N,train\n", r"line 2: Sequence0: the sequence is missing \('NA'"),
        ("mixed_soft.csv", "sequence,target,set\nM-V,N,train\n", "line 2: Sequence0: 1 gap"),
        ("mixed_soft.csv", 'sequence,target,set\nMKV,"N,train\n', "line 2: a quote opens here and is not closed"),
        ("mixed_soft.csv", "sequence,target,set\nMKV,N,train,\n", "line 2: the row has 4 of 3 columns"),
        ("mixed_split.fasta", ">P1 TARGET=nan SET=train\nMKV\n", r"line 1: P1: the target is missing \('nan'"),
        ("mixed_split.fasta", ">P1 TARGET=inf SET=train\nMKV\n", "P1: the target 'inf' is not a finite number"),
        ("mixed_split.fasta", ">P1 TARGET=1_0 SET=train\nMKV\n", "line 1: P1: the target '1_0' is not a finite number"),
        ("mixed_split.fasta", ">P1 TARGET=hot SET=train\nMKV\n", "P1: the target 'hot' is not a finite number"),
        ("mixed_soft.fasta", ">P1 TARGET=N SET=train VALIDATION=5\nMKV\n", "line 1: VALIDATION=5 is neither True nor"),
        (
            "mixed_soft.fasta",
            ">P1 TARGET=N SET=train\nMKV\n>P1 TARGET=M SET=train\nMKV\n",
            r"line 3: P1 is also in .*mixed_soft\.fasta: line 1",
        ),
        ("mixed_soft.csv", "id,sequence,target,set\na,MK,N,test\na,MK,N,test\n", "line 3: a is also in"),
        ("splits.zip", "no archive", "not a readable zip archive"),
        ("other.txt", "", "nothing of scl is there"),
    ],
)
def test_error_for_a_malformed_file_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ProtT5nvError, match=message) as caught:
        prepare("meltome" if name == "mixed_split.fasta" else "scl", tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"), [("True", "val"), ("1", "val"), ("0", "train"), ("", "train"), ("nan", "train")]
)
def test_validation_flags(text, part, tmp_path):
    (tmp_path / "mixed_split.csv").write_text(f"sequence,target,set,validation\nMKV,1,train,{text}\nMK,1,test,{text}\n")
    prepare("meltome", tmp_path, tmp_path / "out")
    assert [row["set"] for row in rows_of(tmp_path / "out", "meltome", "mixed_split")] == [part, "test"]


def test_two_sequences_with_the_same_id_are_an_error(flip_source, tmp_path):
    shutil.copytree(flip_source / "conservation", tmp_path / "conservation")
    with open(tmp_path / "conservation" / "sequences.fasta", "a") as file:
        file.write(">x\nMKV\n>x\nMKL\n")
    with pytest.raises(ProtT5nvError, match=r"sequences\.fasta: line \d+: x is also on line \d+"):
        prepare("conservation", tmp_path, tmp_path / "out")


def zip_with(tmp_path, content, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(tmp_path / "splits.zip", "w", compression) as archive:
        archive.writestr("splits/mixed_split.csv", content)
    return tmp_path / "splits.zip"


def encrypt(data):
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1


def break_data(data):
    start = data.index(b"mixed_split.csv") + 20
    data[start : start + 4] = b"\xff" * 4


def use_unknown_method(data):
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(signature) + offset] = 77


@pytest.mark.parametrize(
    ("change", "message"),
    [(encrypt, "encrypted"), (break_data, "not a readable zip"), (use_unknown_method, "not a readable zip")],
)
def test_archives_that_cannot_be_read(change, message, tmp_path):
    path = zip_with(tmp_path, "sequence,target,set\n" + "MKV,40,train\n" * 100)
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    with pytest.raises(ProtT5nvError, match=message) as caught:
        prepare("meltome", tmp_path, tmp_path / "out")
    assert "splits.zip" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("other", ["a/mixed_split.csv", "b/mixed_split.csv"])
def test_a_file_that_is_twice_in_an_archive_is_an_error(other, tmp_path):
    with zipfile.ZipFile(tmp_path / "splits.zip", "w") as archive:
        for name in ("a/mixed_split.csv", other):
            archive.writestr(name, "sequence,target,set\nMKV,40,train\n")
    with pytest.raises(ProtT5nvError, match=rf"splits\.zip: .* more than once: 'a/mixed_split.csv' and '{other}'"):
        prepare("meltome", tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["splits.zip", "mixed_split.csv.gz"])
def test_bombs_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr("prott5nv.flip.files.MAX_SIZE", 1 << 20)
    content = "sequence,target,set\n" + "MKV,40,train\n" * 100_000
    if name == "splits.zip":
        zip_with(tmp_path, content)
    else:
        (tmp_path / name).write_bytes(gzip.compress(content.encode()))
    with pytest.raises(ProtT5nvError, match="larger than 1,048,576 bytes"):
        prepare("meltome", tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.csv"))


def test_too_many_records_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("prott5nv.flip.files.MAX_RECORDS", 3)
    for name, content in (
        ("mixed_split.csv", "sequence,target,set\n" + "MKV,40,train\n" * 4),
        ("mixed_split.fasta", "".join(f">P{number} TARGET=1 SET=train\nMKV\n" for number in range(4))),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ProtT5nvError, match="more than 3 proteins"):
            prepare("meltome", tmp_path, tmp_path / "out")
        (tmp_path / name).unlink()


@pytest.mark.slow
def test_genuine_files_have_the_counts_of_the_model_card(shared, tmp_path):
    for task in ("secondary_structure", "conservation", "gb1"):
        for prepared in prepare(task, shared / "data" / "flip", tmp_path):
            assert (
                tuple(prepared.counts[part] for part in ("train", "val", "test"))
                == FLIP[task].splits[prepared.split].card
            )
            assert not prepared.note
