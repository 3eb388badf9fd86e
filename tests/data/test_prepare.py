"""Splits: every protein is in exactly one set, groups stay together, and the same seed gives the same files."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys

import pytest
from helpers.waiting import wait_until

from prott5nv.data import prepare as uniref50
from prott5nv.data.prepare import describe, prepare
from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import Cleaning, InputWarning
from prott5nv.io.fasta import read_fasta
from prott5nv.io.work_folders import reserved

PREPARE = [sys.executable, "-m", "prott5nv", "prepare", "uniref50"]


def protein(number: int) -> str:
    return "".join(random.Random(number).choices("LASGVERTDIPKNFQYHMCW", k=20 + number % 30))


@pytest.fixture
def source(tmp_path):
    """2,000 proteins in 500 groups of four."""
    path = tmp_path / "source.fasta"
    path.write_text("".join(f">p{number} of a c50=g{number % 500} x\n{protein(number)}\n" for number in range(2000)))
    return path


def rows(folder, split) -> list[dict]:
    result = []
    for path in sorted((folder / split).iterdir()):
        with open(path, newline="") as file:
            result += csv.DictReader(file)
    return result


def names(folder, split) -> list[str]:
    return [row["record_name"] for row in rows(folder, split)]


@pytest.mark.parametrize(
    "sizes",
    [
        {"validation": 30, "test": 170},
        {"validation": 0.05, "test": 0.1},
        {"validation": 30, "test": 0.1},
        {"validation": 0.05, "test": 0.1, "group_by": "c50"},
        {"validation": 1900, "test": 99},
    ],
)
def test_every_protein_is_in_one_split(source, tmp_path, sizes):
    provenance = prepare(source, tmp_path / "out", **sizes)
    everything = [row for split in ("train", "val", "test") for row in rows(tmp_path / "out", split)]
    assert sorted(int(row["record_id"]) for row in everything) == list(range(2000))
    for row in everything:
        number = int(row["record_id"])
        assert row["record_name"] == f"p{number}"
        assert row["sequence"] == protein(number)
        assert int(row["sequence_length"]) == len(protein(number))
    for split, summary in provenance["splits"].items():
        own = rows(tmp_path / "out", split)
        assert summary["proteins"] == len(own)
        assert summary["residues"] == sum(len(row["sequence"]) for row in own)


def test_counts_are_exact_and_fractions_are_close(source, tmp_path):
    splits = prepare(source, tmp_path / "counts", validation=30, test=170)["splits"]
    assert {name: split["proteins"] for name, split in splits.items()} == {"train": 1800, "val": 30, "test": 170}
    splits = prepare(source, tmp_path / "fractions", validation=0.1, test=0.2)["splits"]
    assert splits["val"]["proteins"] == pytest.approx(200, abs=60)
    assert splits["test"]["proteins"] == pytest.approx(400, abs=80)


@pytest.mark.parametrize("sizes", [{"validation": 200, "test": 200}, {"validation": 0.1, "test": 0.1}])
def test_every_position_in_the_file_has_the_same_chance(source, tmp_path, sizes):
    held_out = {"val": [0] * 4, "test": [0] * 4}
    for seed in range(20):
        prepare(source, tmp_path / "out", seed=seed, overwrite=True, **sizes)
        for split, quarters in held_out.items():
            for row in rows(tmp_path / "out", split):
                quarters[int(row["record_id"]) // 500] += 1
    for quarters in held_out.values():  # 1,000 expected in each, standard deviation about 30
        assert all(850 < count < 1150 for count in quarters), held_out


def test_the_seed_determines_the_files(source, tmp_path):
    def files(name, **options):
        prepare(source, tmp_path / name, validation=30, test=0.1, **options)
        return {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}

    assert files("one", seed=7) == files("two", seed=7)
    assert files("one again", seed=7) != files("three", seed=8)


def test_groups_stay_together(source, tmp_path):
    splits = prepare(source, tmp_path / "out", validation=0.1, test=0.1, group_by="c50")["splits"]
    groups = {}
    for split in splits:
        for name in names(tmp_path / "out", split):
            groups.setdefault(int(name[1:]) % 500, set()).add(split)
    assert len(groups) == 500
    assert all(len(where) == 1 for where in groups.values())


def test_protein_without_the_key_joins_the_group_named_after_it(tmp_path):
    path = tmp_path / "source.fasta"
    path.write_text("".join(f">r{n}\nMKV\n>m{n} c50=r{n}\nMKVL\n>k{n} xc50=r{n + 1}\nMKVLA\n" for n in range(300)))
    splits = prepare(path, tmp_path / "out", validation=0.2, test=0.2, group_by="c50")["splits"]
    where = {name: split for split in splits for name in names(tmp_path / "out", split)}
    assert all(where[f"r{n}"] == where[f"m{n}"] for n in range(300))
    assert any(where[f"r{n + 1}"] != where[f"k{n}"] for n in range(299))


@pytest.fixture
def clustered(tmp_path):
    """400 proteins with the headers of UniProt, NCBI and others, and a table of 100 clusters with shortened ids."""
    kinds = [("sp|Q{0}|N{0}", "Q{0}"), ("ref|NP_{0}.1|", "NP_{0}.1"), ("UniRef50_{0}", "UniRef50_{0}"), ("{0}", "{0}")]
    fasta, lines = [], []
    for number in range(400):
        header, short = (text.format(number) for text in kinds[number // 100])
        fasta.append(f">{header} protein\n{protein(number)}\n")
        lines.append(f"{kinds[0][1].format(number % 100)}\t{short}\n")
    (tmp_path / "clustered.fasta").write_text("".join(fasta))
    (tmp_path / "clusters.tsv").write_text("".join(lines) + lines[0])  # a line may occur twice
    return tmp_path / "clustered.fasta", tmp_path / "clusters.tsv"


def test_clusters_stay_together(clustered, tmp_path):
    fasta, table = clustered
    provenance = prepare(fasta, tmp_path / "out", groups=table, validation=0.2, test=0.2)
    sets = {}
    for split in ("train", "val", "test"):
        for row in rows(tmp_path / "out", split):
            assert sets.setdefault(int(row["record_id"]) % 100, split) == split
    assert len(sets) == 100 and set(sets.values()) == {"train", "val", "test"}
    assert provenance["options"]["groups"] == "clusters.tsv"
    assert provenance["groups_sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()


def test_proteins_without_a_cluster_are_an_error_with_their_number(clustered, tmp_path):
    fasta, table = clustered
    table.write_text("".join(table.read_text().splitlines(keepends=True)[3:-1]))
    with pytest.raises(ProtT5nvError, match=r"clusters.tsv: 3 of 400 proteins of .* in no cluster, sp\|Q0\|N0 first"):
        prepare(fasta, tmp_path / "out", groups=table)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Q0", "line 402: not two ids with a tab"),
        ("Q0\t", "line 402: not two ids with a tab"),
        ("Q0\tQ1\tQ2", "line 402: not two ids with a tab"),
        ("Q5\tNP_100.1", "line 402: NP_100.1 is also a member of the cluster of Q0"),
    ],
)
def test_a_malformed_table_of_clusters_is_an_error(clustered, tmp_path, line, message):
    fasta, table = clustered
    table.write_text(table.read_text() + line + "\n")
    with pytest.raises(ProtT5nvError, match=message):
        prepare(fasta, tmp_path / "out", groups=table)


def test_groups_need_fractions_and_one_source(clustered, tmp_path):
    fasta, table = clustered
    with pytest.raises(ProtT5nvError, match=r"kept together \(groups=clusters.tsv\)"):
        prepare(fasta, tmp_path / "out", groups=table, validation=5)
    with pytest.raises(ProtT5nvError, match="either group_by or groups"):
        prepare(fasta, tmp_path / "out", groups=table, group_by="c50")
    with pytest.raises(ProtT5nvError, match="both the input and the table"):
        prepare("-", tmp_path / "out", groups="-")


def test_dropped_proteins_are_counted(tmp_path):
    path = tmp_path / "source.fasta.gz"
    kept = [("a", "MKV"), ("x,y", "mkvx"), ("edge", "M" * 512), ("j", "MJBZUOX"), ("stop", "MLV*")]
    dropped = [("long", "M" * 513), ("gap", "MK-V"), ("inner", "M*V"), ("empty", ""), ("longer", "M" * 9000)]
    text = "".join(f">{name}\n{sequence}\n" for name, sequence in kept + dropped)
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.warns(InputWarning, match=r"removed '\*' from the end of 1 sequence$"):
        provenance = prepare(path, tmp_path / "out", validation=1, test=0, cleaning=Cleaning(gaps="keep"))
    assert provenance["records_read"] == 10
    assert provenance["records_kept"] == 5
    assert list(provenance["dropped"].values()) == [2, 2, 1]
    assert provenance["source"] == "source.fasta.gz"
    assert provenance["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads((tmp_path / "out" / "provenance.json").read_text()) == provenance
    assert not (tmp_path / "out" / "test").exists()
    written = {row["record_name"]: row["sequence"] for s in ("train", "val") for row in rows(tmp_path / "out", s)}
    assert written == {name: sequence.upper().removesuffix("*") for name, sequence in kept}
    summary = describe(provenance)
    assert "10 proteins read from source.fasta.gz, 5 kept, 5 dropped (2 longer than 512 residues" in summary


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("M-V", "line 3: b: 1 gap"),
        ("-.-", "line 3: b: the sequence consists of gaps only"),
        ("nan", "line 3: b: there is no sequence"),
        ("MKV\n--", "line 5: record b has the line '--'"),
    ],
)
def test_what_is_not_a_protein_is_an_error(tmp_path, sequence, message):
    path = tmp_path / "source.fasta"
    path.write_text(f">a\nMKV\n>b\n{sequence}\n>c\nMLV\n")
    with pytest.raises(ProtT5nvError, match=message):
        prepare(path, tmp_path / "out", validation=1, test=0)
    assert not (tmp_path / "out").exists()


def test_nucleotides_are_refused_unless_the_user_insists(tmp_path):
    path = tmp_path / "source.fasta"
    path.write_text("".join(f">r{i}\n{'ACGT' * 10}\n" for i in range(9)))
    with pytest.raises(ProtT5nvError, match="nucleotides"):
        prepare(path, tmp_path / "out", validation=1, test=0)
    provenance = prepare(path, tmp_path / "out", validation=1, test=0, cleaning=Cleaning(allow_nucleotides=True))
    assert provenance["records_kept"] == 9
    assert provenance["options"]["allow_nucleotides"]


def test_files_have_a_maximum_number_of_rows(source, tmp_path):
    provenance = prepare(source, tmp_path / "out", validation=30, test=0, records_per_file=800)
    assert provenance["splits"]["train"]["files"] == 3
    assert "train/x[000..002].csv" in describe(provenance)
    counts = [len((tmp_path / "out" / "train" / f"x00{n}.csv").read_text().splitlines()) - 1 for n in range(3)]
    assert counts == [800, 800, 370]


def test_a_named_split_sets_the_counts(source, tmp_path, monkeypatch):
    with pytest.raises(ProtT5nvError, match=r"2,000 usable proteins are too few .* 4,350 validation and 875,000 test"):
        prepare(source, tmp_path / "out", split="card")
    monkeypatch.setitem(uniref50.SPLITS, "card", (4, 875))
    splits = prepare(source, tmp_path / "out", split="card")["splits"]
    assert [splits[name]["proteins"] for name in ("val", "test", "train")] == [4, 875, 1121]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"validation": 1000, "test": 1000}, "too few for an exact split"),
        ({"validation": 0.6, "test": 0.6}, "add up to 1.2"),
        ({"validation": 1.0}, "a fraction below 1, not 1.0"),
        ({"validation": -1}, "not -1"),
        ({"validation": 1e-9}, "the val split is empty; give a count such as 10"),
        ({"validation": 1e-9, "group_by": "c50"}, "the val split is empty; give a larger fraction or another seed"),
        ({"max_length": 1}, r"no protein can be used: 2,000 longer than 1 residues"),
        ({"validation": 10, "group_by": "c50"}, "cannot be exact when whole groups"),
        ({"group_by": "c90"}, r"no header has c90="),
        ({"split": "paper"}, "no split named 'paper'; known: card"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"test": 5_000_000}, "more than 1 GB"),
    ],
)
def test_a_wrong_option_leaves_nothing_behind(source, tmp_path, options, message):
    with pytest.raises(ProtT5nvError, match=message):
        prepare(source, tmp_path / "out", **options)
    assert os.listdir(tmp_path) == ["source.fasta"]


def test_a_broken_source_leaves_nothing_behind(tmp_path):
    path = tmp_path / "source.fasta.gz"
    path.write_bytes(gzip.compress(b">a\nMKV\n" * 100_000)[:-20])
    with pytest.raises(ProtT5nvError, match="truncated"):
        prepare(path, tmp_path / "out")
    assert os.listdir(tmp_path) == ["source.fasta.gz"]


def test_an_existing_output_is_replaced_only_on_request(source, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    prepare(source, output)  # an empty folder may exist
    before = names(output, "val")
    with pytest.raises(ProtT5nvError, match=r"not empty; .*--overwrite"):
        prepare(source, output, seed=1)
    assert names(output, "val") == before
    prepare(source, output, seed=1, overwrite=True)
    assert names(output, "val") != before
    (output / "notes.txt").touch()
    with pytest.raises(ProtT5nvError, match=r"notes\.txt: not made by prepare; move it"):
        prepare(source, output, overwrite=True)
    (output / "notes.txt").unlink()
    with reserved(output), pytest.raises(ProtT5nvError, match="another process is writing"):
        prepare(source, output, overwrite=True)
    (output / "provenance.json").unlink()
    with pytest.raises(ProtT5nvError, match="not made by prepare"):
        prepare(source, output, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["out", "source.fasta"]


def test_a_folder_that_holds_the_source_is_not_replaced(source, tmp_path):
    prepare(source, tmp_path / "out")
    source.rename(tmp_path / "out" / "source.fasta")
    with pytest.raises(ProtT5nvError, match="this input is inside the folder to replace"):
        prepare(tmp_path / "out" / "source.fasta", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "source.fasta").exists()


def test_a_failed_replacement_keeps_the_old_folder(source, tmp_path):
    prepare(source, tmp_path / "out")
    before = names(tmp_path / "out", "train")
    with pytest.raises(ProtT5nvError):
        prepare(tmp_path / "absent.fasta", tmp_path / "out", overwrite=True)
    assert names(tmp_path / "out", "train") == before


def test_the_command_writes_the_splits_and_does_not_replace_them(source, tmp_path):
    output = tmp_path / "out"
    command = [*PREPARE, source, "-o", output, "--val", "0.1", "--test", "0.05", "--group-by", "c50"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "2,000 proteins read from source.fasta, 2,000 kept, 0 dropped" in done.stdout
    assert done.stderr == ""
    assert (
        len(names(output, "train"))
        == json.loads((output / "provenance.json").read_text())["splits"]["train"]["proteins"]
    )
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.startswith(f"prott5nv: error: {output}: the folder is not empty")


def test_the_command_reads_standard_input(source, tmp_path):
    command = [*PREPARE, "-", "-o", tmp_path / "out", "--val", "10", "--test", "0"]
    subprocess.run(command, input=gzip.compress(source.read_bytes()), capture_output=True, check=True)
    assert len(names(tmp_path / "out", "train")) == 1990


@pytest.mark.parametrize("options", [["--val", "many"], ["--split", "card", "--val", "3"], ["--split", "paper"]])
def test_the_command_reports_wrong_options(source, tmp_path, options):
    done = subprocess.run([*PREPARE, source, "-o", tmp_path / "out", *options], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Error" in done.stderr


def test_a_killed_run_leaves_no_folder_and_the_next_run_succeeds(source, tmp_path):
    output = tmp_path / "out"
    options = ["-o", output, "--val", "10", "--test", "10"]
    with subprocess.Popen([*PREPARE, "-", *options], stdin=subprocess.PIPE) as running:
        running.stdin.write(source.read_bytes())  # the input does not end, so the run waits with incomplete files
        running.stdin.flush()
        wait_until(lambda: list(tmp_path.glob(".prott5nv-*")))
        running.send_signal(signal.SIGKILL)
    assert not output.exists()
    subprocess.run([*PREPARE, source, *options], capture_output=True, check=True)
    assert sorted(os.listdir(tmp_path)) == ["out", "source.fasta"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "source.fasta.gz"
    path.write_bytes(gzip.compress(b"".join(b">p%d\n%b\n" % (n, b"MKVLAG" * 50) for n in range(1000)), 1) * 200)
    script = f"""
import resource
from prott5nv.data.prepare import prepare
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepare({str(path)!r}, {str(tmp_path / "out")!r}, validation=100, test=0.1)
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    before, after = map(int, done.stdout.split())
    assert (after - before) / 1024 < 30  # MiB, of 62 MB read and written


def test_genuine_uniref50(shared, tmp_path):
    path = shared / "data" / "sequences" / "uniref50_2021_04_qc" / "uniref50_train_filt.fasta.gz"
    provenance = prepare(path, tmp_path / "out", validation=50, test=100)
    source = [record for record in read_fasta(path) if len(record.sequence) <= 512]
    assert provenance["records_kept"] == len(source)
    assert len(rows(tmp_path / "out", "train")) == len(source) - 150
    written = {row["record_name"]: row["sequence"] for s in provenance["splits"] for row in rows(tmp_path / "out", s)}
    assert written == {record.id: record.sequence for record in source}
