"""``prott5nv embed`` as a user runs it. Runs that are killed, piped or limited get their own process."""

from __future__ import annotations

import gzip
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from helpers.embedding_files import contents, random_fasta
from helpers.waiting import wait_until

from prott5nv import EmbeddingStore, ProtT5nvInference
from prott5nv.cli.embed import command
from prott5nv.embedding.embedder import LONG_RULES
from prott5nv.embedding.run import run as run_request
from prott5nv.io.reader import read_records
from prott5nv.io.record import accession

PROTEINS = """\
>sp|P01308|INS_HUMAN Insulin
MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFFYTPKTRREAEDLQVGQVELGGGPGAGSLQPLALEGSLQKRGIVEQCCTSICSLYQLENYCN
>sp|P0CG47|UBB_HUMAN Ubiquitin
MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG
>other_protein
MSLKR
"""


def test_a_fasta_file_becomes_one_dataset_per_accession(run, label, tmp_path, tiny_checkpoint):
    (tmp_path / "p.fasta").write_text(PROTEINS)
    done = run("p.fasta", "-o", "out.h5", "--precision", "fp32")
    assert done.stdout == f"out.h5: 3 proteins, 191 residues, model {label}\n"
    assert "fp32 on" in done.stderr
    store = EmbeddingStore(tmp_path / "out.h5")
    assert list(store) == ["P01308", "P0CG47", "other_protein"]
    assert store.original_id("P01308") == "sp|P01308|INS_HUMAN"
    assert store.attributes.keys() >= {
        *("model_sha256", "layer", "pooling", "dtype", "precision", "prott5nv_version", "fingerprint")
    }
    model = ProtT5nvInference(tiny_checkpoint, precision="fp32")
    for record, rows in model.embed(read_records(tmp_path / "p.fasta")):
        stored = store[accession(record.id)]
        assert stored.dtype == np.float32
        np.testing.assert_allclose(stored, rows, atol=1e-5)
    assert not (tmp_path / "out.h5.partial").exists()


def test_input_after_ray_is_not_taken_for_an_address(run, tmp_path):
    (tmp_path / "p.fasta").write_text(PROTEINS)
    done = run("--ray", "p.fasta", "-o", "out", code=2)
    assert "--ray p.fasta: this is a file, not an address; write --ray behind INPUT" in done.stderr


@pytest.mark.parametrize(
    ("options", "seconds_writing", "hint"),
    [
        ([], 60.0, "; 60% of the time was spent writing, which --dtype float16 would halve"),
        ([], 40.0, ""),
        (["--dtype", "float16"], 60.0, ""),
        (["--pooling", "mean"], 60.0, ""),
    ],
)
def test_a_run_that_waited_for_the_disk_hints_at_float16(
    run, label, tmp_path, monkeypatch, options, seconds_writing, hint
):
    def timed(request, listener):
        return replace(run_request(request, listener), seconds=100.0, seconds_writing=seconds_writing)

    monkeypatch.setattr("prott5nv.cli.embed.run", timed)
    (tmp_path / "p.fasta").write_text(PROTEINS)
    done = run("p.fasta", "-o", "out.h5", *options)
    assert done.stdout == f"out.h5: 3 proteins, 191 residues, model {label}{hint}\n"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gz", "csv", "tsv", "parquet", "-"])
def test_every_input_format_gives_the_same_embeddings(run, start, tmp_path, form):
    (tmp_path / "p.fasta").write_text(PROTEINS)
    run("p.fasta", "-o", "expected.h5")
    records = list(read_records(tmp_path / "p.fasta"))
    options = [f"p.{form}"]
    if form == "gz":
        (tmp_path / "p.gz").write_bytes(gzip.compress(PROTEINS.encode()))
    elif form == "-":
        assert start("-", "-o", "out.h5", piped=PROTEINS).wait().returncode == 0
    elif form == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        table = pyarrow.table({"Entry": [record.id for record in records], "seq": [r.sequence for r in records]})
        pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "p.parquet")
    else:
        separator = "," if form == "csv" else "\t"
        rows = [("label", "aa"), *((record.id, record.sequence) for record in records)]
        (tmp_path / f"p.{form}").write_text("\n".join(separator.join(row) for row in rows))
        options += ["--id-column", "label", "--sequence-column", "aa"]
    if form != "-":
        run(*options, "-o", "out.h5")
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")


def test_pooling_and_dtype(run, tmp_path):
    (tmp_path / "p.fasta").write_text(PROTEINS)
    run("p.fasta", "-o", "rows.h5")
    run("p.fasta", "-o", "pooled.h5", "--pooling", "mean")
    run("p.fasta", "-o", "half.h5", "--dtype", "float16")
    rows, pooled, half = (EmbeddingStore(tmp_path / name) for name in ("rows.h5", "pooled.h5", "half.h5"))
    for key in rows:
        np.testing.assert_allclose(pooled[key], rows[key].mean(0), atol=1e-5)
        assert half[key].dtype == np.float16
        np.testing.assert_array_equal(half[key], rows[key].astype(np.float16))


def test_long_proteins_follow_the_chosen_rule(run, tmp_path):
    (tmp_path / "p.fasta").write_text(f">short\nMSLKR\n>long\n{'MSLKRACDEF' * 60}\n")
    done = run("p.fasta", "-o", "cut.h5")
    assert "longer than the model accepts: 1 of 2 proteins, truncated" in done.stderr
    assert "long (600)" in done.stderr
    cut = EmbeddingStore(tmp_path / "cut.h5")
    assert (len(cut["long"]), cut.truncated_from("long"), cut.truncated_from("short")) == (512, 600, None)
    run("p.fasta", "-o", "pooled.h5", "--pooling", "mean")
    assert EmbeddingStore(tmp_path / "pooled.h5").truncated_from("long") == 600
    done = run("p.fasta", "-o", "whole.h5", "--long", "window")
    assert "warning" not in done.stderr
    whole = EmbeddingStore(tmp_path / "whole.h5")
    assert (len(whole["long"]), whole.truncated_from("long")) == (600, None)
    done = run("p.fasta", "-o", "none.h5", "--long", "error", code=2)
    assert "p.fasta: line 3: long: 600 residues" in done.stderr
    assert not (tmp_path / "none.h5").exists()
    run("p.fasta", "-o", "left.h5", "--long", "skip", code=3)
    assert list(EmbeddingStore(tmp_path / "left.h5")) == ["short"]
    assert "3\tlong\t" in (tmp_path / "left.h5.skipped.tsv").read_text()


def test_bad_records_are_named_before_anything_is_computed(run, tmp_path):
    (tmp_path / "p.fasta").write_text(">a\nMS\n>b\nMK1L\n")
    done = run("p.fasta", "-o", "out.h5", code=2)
    assert "prott5nv: error: p.fasta: line 3: b: position 3: '1' is not a residue" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["p.fasta"]


@pytest.mark.slow
@pytest.mark.parametrize("from_standard_input", [False, True])
def test_bad_records_can_be_skipped_and_are_listed(run, start, tmp_path, from_standard_input):
    text = ">a\nMS\n>a\nMK\n>sp|P1|A\nMS\n>tr|P1|B\nMK\n>b/c\nMK\n>d\nMK1L\n>e\n>f\nMÄS\n>last\nMSLKR\n"
    if from_standard_input:
        assert start("-", "-o", "out.h5", "--on-error", "skip", piped=text).wait().returncode == 3
    else:
        (tmp_path / "p.fasta").write_text(text)
        run("p.fasta", "-o", "out.h5", "--on-error", "skip", code=3)
    assert list(EmbeddingStore(tmp_path / "out.h5")) == ["a", "P1", "last"]
    header, *rows = (tmp_path / "out.h5.skipped.tsv").read_text().splitlines()
    assert header == "line\tid\treason"
    assert [row.split("\t")[:2] for row in rows] == [
        ["3", "a"],
        ["7", "tr|P1|B"],
        ["9", "b/c"],
        ["11", "d"],
        ["13", "e"],
        ["14", "f"],
    ]


def test_unusual_but_valid_files_are_embedded(run, tmp_path):
    header = "x" * 300
    (tmp_path / "p.fasta").write_bytes(f"\ufeff>{header} description\r\nMS\r\nLKR\r\n\r\n>protéine\r\nms*-J".encode())
    done = run("p.fasta", "-o", "out.h5", "--gaps", "keep")
    assert done.stderr.count("lower-case residues") == 1
    assert {key: len(rows) for key, rows in EmbeddingStore(tmp_path / "out.h5").items()} == {header: 5, "protéine": 5}


def test_a_complete_output_is_not_overwritten_with_other_settings_or_input(run, tmp_path):
    (tmp_path / "p.fasta").write_text(PROTEINS)
    run("p.fasta", "-o", "out.h5", "--precision", "fp32")
    before = (tmp_path / "out.h5").read_bytes()
    assert "already complete" in run("p.fasta", "-o", "out.h5", "--precision", "fp32").stdout
    assert "precision=fp32, not bf16" in run("p.fasta", "-o", "out.h5", "--precision", "bf16", code=2).stderr
    (tmp_path / "p.fasta").write_text(PROTEINS.replace("MSLKR", "MSLKK"))
    assert "another input" in run("p.fasta", "-o", "out.h5", "--precision", "fp32", code=2).stderr
    assert (tmp_path / "out.h5").read_bytes() == before


def wait_for_commit(process, journal, before=0):
    """Wait until the run has ended or committed again. The first line of the journal holds the settings."""
    wait_until(lambda: process.poll() is not None or (journal.exists() and journal.stat().st_size > before + 1000))


@pytest.mark.slow
def test_a_run_killed_three_times_gives_the_output_of_an_uninterrupted_run(run, start, tmp_path):
    rng = random.Random(0)
    random_fasta(tmp_path / "p.fasta", 900)
    run("p.fasta", "-o", "expected.h5")
    journal = tmp_path / "out.h5.partial" / "journal.jsonl"
    for kill in range(3):
        before = journal.stat().st_size if kill else 0
        process = start("p.fasta", "-o", "out.h5")
        wait_for_commit(process, journal, before)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        assert process.wait().returncode == -signal.SIGKILL
        assert not (tmp_path / "out.h5").exists()
    assert "an earlier run had finished" in run("p.fasta", "-o", "out.h5").stdout
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")
    assert not (tmp_path / "out.h5.partial").exists()


@pytest.mark.slow
def test_a_run_stopped_with_control_c_prints_how_to_continue(start, tmp_path):
    random_fasta(tmp_path / "p.fasta", 4000)
    process = start("p.fasta", "-o", "out.h5")
    wait_for_commit(process, tmp_path / "out.h5.partial" / "journal.jsonl")
    process.send_signal(signal.SIGINT)
    done = process.wait()
    assert done.returncode == 130
    assert "stopped; finished proteins are safe in out.h5.partial: give the same command again" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["rows", "HDF5 file"])
def test_a_full_disk_loses_nothing(run, start, tmp_path, victim):
    # A limit on the size of files stands for a full disk. The HDF5 file is a little larger than the file of rows.
    random_fasta(tmp_path / "p.fasta", 405)
    run("p.fasta", "-o", "expected.h5")
    size = (tmp_path / "expected.h5").stat().st_size
    limit = size // 2 if victim == "rows" else size - 4096
    if victim == "rows":  # Without this, a fast machine fills the disk before its first commit.
        process = start("p.fasta", "-o", "out.h5")
        wait_for_commit(process, tmp_path / "out.h5.partial" / "journal.jsonl")
        process.kill()
        process.wait()
    done = start("p.fasta", "-o", "out.h5", file_size_limit=limit).wait()
    assert done.returncode == 2
    assert "give the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.h5").exists()
    if victim == "rows":
        assert (
            "unfinished run with pooling=none, not mean"
            in run("p.fasta", "-o", "out.h5", "--pooling", "mean", code=2).stderr
        )
        random_fasta(tmp_path / "other.fasta", 405, seed=1)
        assert "another input" in run("other.fasta", "-o", "out.h5", code=2).stderr
    run("p.fasta", "-o", "out.h5")
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")


def test_pooled_vectors_in_other_formats(run, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    (tmp_path / "p.fasta").write_text(PROTEINS)
    for suffix in "h5", "npz", "parquet":
        run("p.fasta", "-o", f"out.{suffix}", "--pooling", "mean")
        assert "already complete" in run("p.fasta", "-o", f"out.{suffix}", "--pooling", "mean").stdout
        assert (
            "dtype=float32, not float16"
            in run("p.fasta", "-o", f"out.{suffix}", "--pooling", "mean", "--dtype", "float16", code=2).stderr
        )
    store = EmbeddingStore(tmp_path / "out.h5")
    archive = np.load(tmp_path / "out.npz")
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert table["accession"] == list(archive) == list(store)
    assert table["original_id"][0] == "sp|P01308|INS_HUMAN"
    for key, row in zip(store, table["embedding"], strict=True):
        np.testing.assert_array_equal(archive[key], store[key])
        np.testing.assert_array_equal(np.float32(row), store[key])
    assert "for pooled vectors" in run("p.fasta", "-o", "rows.npz", code=2).stderr


def test_the_help_text_has_examples_and_imports_no_large_package():
    done = subprocess.run(
        [sys.executable, "-m", "prott5nv", "embed", "--help"], capture_output=True, text=True, check=True
    )
    assert "prott5nv embed proteins.fasta -o proteins.h5" in done.stdout
    code = "import sys\nimport prott5nv.cli.embed\nprint({'torch', 'numpy', 'h5py'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_the_command_line_offers_the_rules_for_long_proteins_of_the_embedder():
    [option] = [parameter for parameter in command.params if parameter.name == "long"]
    assert list(option.type.choices) == list(LONG_RULES)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_merged_shards_are_what_one_process_writes(run, tmp_path, count):
    random_fasta(tmp_path / "p.fasta", 50)
    with open(tmp_path / "p.fasta", "a") as file:
        file.write(">last\nMSLKR\n>empty\n")
    run("p.fasta", "-o", "expected.h5", "--on-error", "skip", code=3)
    for number in range(1, count + 1):
        code = 3 if number == count else 0  # The record without a sequence is in the last shard.
        run("p.fasta", "-o", f"{number}.h5", "--shard", f"{number}/{count}", "--on-error", "skip", code=code)
    shards = [f"{number}.h5" for number in range(count, 0, -1)]
    run("out.h5", *shards, command=["merge"], code=3)
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")


def test_shards_that_do_not_belong_together_are_refused(run, tmp_path):
    random_fasta(tmp_path / "p.fasta", 6)
    run("p.fasta", "-o", "1.h5", "--shard", "1/2")
    run("p.fasta", "-o", "2.h5", "--shard", "2/2", "--pooling", "mean")
    run("p.fasta", "-o", "whole.h5")
    assert "shards are missing: 2/2" in run("out.h5", "1.h5", command=["merge"], code=2).stderr
    assert "both shard 1" in run("out.h5", "1.h5", "1.h5", command=["merge"], code=2).stderr
    assert "differ in" in run("out.h5", "1.h5", "2.h5", command=["merge"], code=2).stderr
    assert "whole.h5 is not a shard" in run("out.h5", "1.h5", "whole.h5", command=["merge"], code=2).stderr
    assert "I from 1 to N" in run("p.fasta", "-o", "3.h5", "--shard", "3/2", code=2).stderr
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.slow
def test_outputs_follow_one_rule(run, tmp_path):
    (tmp_path / "p.fasta").write_text(">A\nMKV\n")
    (tmp_path / "q.fasta").write_text(">A\nMKV\n>B\nMS\n")
    messages = {
        "out.csv": ".csv means CSV",
        "out.npy": ".npy means NumPy",
        "out.pt": ".pt means PyTorch",
        "out.NPZ": "in lower case: .npz",
        ".": "this is a folder",
        "/dev/null": "this is a device",
        "-": "cannot be written to a pipe",
        "no/out.h5": "the folder no does not exist",
    }
    for name, message in messages.items():
        assert message in run("p.fasta", "-o", name, code=2).stderr
    (tmp_path / "input.h5").write_text(">A\nMKV\n")
    for option in [], ["--overwrite"]:
        assert "input.h5: this file is also an input" in run("input.h5", "-o", "input.h5", *option, code=2).stderr
    run("p.fasta", "-o", "out.h5")
    before = (tmp_path / "out.h5").stat()
    for workers in "1", "2":
        assert "already complete" in run("p.fasta", "-o", "out.h5", "--workers", workers).stdout
        assert (tmp_path / "out.h5").stat().st_mtime_ns == before.st_mtime_ns
    for workers in "1", "2":
        before = (tmp_path / "out.h5").stat()
        done = run("p.fasta", "-o", "out.h5", "--overwrite", "--workers", workers)
        assert done.stdout.startswith("out.h5: 1 protein, 3 residues")
        assert (tmp_path / "out.h5").stat().st_mtime_ns > before.st_mtime_ns
    assert "replace it with --overwrite" in run("q.fasta", "-o", "out.h5", code=2).stderr
    assert list(EmbeddingStore(tmp_path / "out.h5")) == ["A"]
    (tmp_path / "link.h5").symlink_to(tmp_path / "out.h5")
    run("q.fasta", "-o", "link.h5", "--overwrite")
    assert (tmp_path / "link.h5").is_symlink() and list(EmbeddingStore(tmp_path / "out.h5")) == ["A", "B"]
    run("p.fasta", "-o", "out.h5", "--overwrite", "--workers", "2")
    assert list(EmbeddingStore(tmp_path / "out.h5")) == ["A"]
    (tmp_path / "notes.h5").write_text("mine")
    assert run("p.fasta", "-o", "notes.h5", code=2) and (tmp_path / "notes.h5").read_text() == "mine"
    run("p.fasta", "-o", "notes.h5", "--overwrite")
    assert list(EmbeddingStore(tmp_path / "notes.h5")) == ["A"]


def test_merge_follows_the_same_rule(run, tmp_path):
    (tmp_path / "p.fasta").write_text(">A\nMKV\n>B\nMS\n")
    shards = ["1.h5", "2.h5"]
    for number, shard in enumerate(shards, 1):
        run("p.fasta", "-o", shard, "--shard", f"{number}/2")
    (tmp_path / "out.h5").write_text("mine")
    merge = {"command": ["merge"]}
    assert "out.h5: exists already" in run("out.h5", *shards, code=2, **merge).stderr
    assert "1.h5: this file is also an input" in run("1.h5", *shards, "--overwrite", code=2, **merge).stderr
    assert ".npy means NumPy" in run("out.npy", *shards, code=2, **merge).stderr
    assert (tmp_path / "out.h5").read_text() == "mine"
    run("out.h5", *shards, "--overwrite", **merge)
    assert list(EmbeddingStore(tmp_path / "out.h5")) == ["A", "B"]


def test_merge_reports_the_skipped_proteins_of_its_shards(run, tmp_path):
    (tmp_path / "p.fasta").write_text(">A\nMKV\n>B\nM1\n>C\nMS\n>D\n5\n")
    shards = [f"{number}.h5" for number in (1, 2, 3)]
    for number, shard in enumerate(shards, 1):
        skips = number > 1
        run("p.fasta", "-o", shard, "--shard", f"{number}/3", "--on-error", "skip", code=3 if skips else 0)
    done = run("out.h5", *shards, command=["merge"], code=3)
    assert done.stdout == "out.h5: 2 proteins from 3 shards\n"
    assert "skipped 2 proteins, listed in out.h5.skipped.tsv" in done.stderr
    whole = run("p.fasta", "-o", "whole.h5", "--on-error", "skip", code=3)
    assert "skipped 2 proteins, listed in whole.h5.skipped.tsv" in whole.stderr
    (tmp_path / "whole.h5.skipped.tsv").unlink()
    again = run("p.fasta", "-o", "whole.h5", "--on-error", "skip", code=3)
    assert "skipped 2 proteins, and whole.h5.skipped.tsv is missing; --overwrite writes it again" in again.stderr


def test_a_shard_of_very_many_is_one_line(run, label, tmp_path):
    (tmp_path / "p.fasta").write_text(">A\nMKV\n")
    done = run("p.fasta", "-o", "1.h5", "--shard", "1/10000000")
    assert done.stdout == f"1.h5: 0 proteins, 0 residues, model {label}\n"
    done = run("out.h5", "1.h5", command=["merge"], code=2)
    assert "and 9,999,989 more" in done.stderr and done.stderr.count("\n") == 1 and len(done.stderr) < 300
    for shard in "0/2", "3/2", "1/0", "2", "1/2/3", "-1/2", "1/99999999999":
        assert "shard" in run("p.fasta", "-o", "2.h5", "--shard", shard, code=2).stderr
