"""``prott5nv embed`` as a user runs it: in a process of its own."""

from __future__ import annotations

import gzip
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from prott5nv import EmbeddingStore, ProtT5nvInference
from prott5nv.io.records import accession, read_records
from prott5nv.tokenizer import RESIDUES

PROTEINS = """\
>sp|P01308|INS_HUMAN Insulin
MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFFYTPKTRREAEDLQVGQVELGGGPGAGSLQPLALEGSLQKRGIVEQCCTSICSLYQLENYCN
>sp|P0CG47|UBB_HUMAN Ubiquitin
MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG
>other_protein
MSLKR
"""


@pytest.fixture
def run(tiny_checkpoint, tmp_path):
    """Run the command in `tmp_path` with the tiny model."""

    def run(*arguments, input=None, code=0, preexec_fn=None):
        done = subprocess.run(
            [sys.executable, "-m", "prott5nv", "embed", "--model", tiny_checkpoint, *arguments],
            cwd=tmp_path,
            input=input,
            capture_output=True,
            text=True,
            preexec_fn=preexec_fn,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def random_fasta(path: Path, count: int, seed: int = 0) -> Path:
    rng = random.Random(seed)
    with open(path, "w") as file:
        for number in range(count):
            sequence = "".join(rng.choices(RESIDUES, k=rng.randint(20, 600)))
            file.write(f">sp|Q{number:05}|R{number}_TEST\n{sequence}\n")
    return path


def contents(path: Path) -> dict:
    """Keys in order, values and attributes of everything in an HDF5 file."""
    with h5py.File(path) as file:
        return {
            "attributes": dict(file.attrs),
            "keys": list(file),
            "proteins": {key: (file[key][()].tobytes(), file[key].shape, dict(file[key].attrs)) for key in file},
        }


def test_a_fasta_file_becomes_one_dataset_per_accession(run, tmp_path, tiny_checkpoint):
    (tmp_path / "p.fasta").write_text(PROTEINS)
    done = run("p.fasta", "-o", "out.h5", "--precision", "fp32")
    assert done.stdout == "out.h5: 3 proteins, 191 residues\n"
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


@pytest.mark.parametrize("form", ["gz", "csv", "tsv", "-"])
def test_every_form_of_input_gives_the_same_embeddings(run, tmp_path, form):
    (tmp_path / "p.fasta").write_text(PROTEINS)
    run("p.fasta", "-o", "expected.h5")
    records = list(read_records(tmp_path / "p.fasta"))
    options, given = [f"p.{form}"], None
    if form == "gz":
        (tmp_path / "p.gz").write_bytes(gzip.compress(PROTEINS.encode()))
    elif form == "-":
        options, given = ["-"], PROTEINS
    else:
        separator = "," if form == "csv" else "\t"
        rows = [("label", "aa"), *((record.id, record.sequence) for record in records)]
        (tmp_path / f"p.{form}").write_text("\n".join(separator.join(row) for row in rows))
        options += ["--id-column", "label", "--sequence-column", "aa"]
    run(*options, "-o", "out.h5", input=given)
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


def test_long_proteins_follow_the_rule_asked_for(run, tmp_path):
    (tmp_path / "p.fasta").write_text(f">short\nMSLKR\n>long\n{'MSLKRACDEF' * 60}\n")
    done = run("p.fasta", "-o", "cut.h5")
    assert "1 of 2 proteins have more than 512 residues" in done.stderr
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
    assert "p.fasta, line 3: long: 600 residues" in done.stderr
    assert not (tmp_path / "none.h5").exists()
    run("p.fasta", "-o", "left.h5", "--long", "skip", code=3)
    assert list(EmbeddingStore(tmp_path / "left.h5")) == ["short"]
    assert "3\tlong\t" in (tmp_path / "left.skipped.tsv").read_text()


BAD_INPUT = {
    "duplicate id": (">a\nMS\n>b\nMS\n>a\nMK\n", "p.fasta, line 5: a: this id stands on line 1 already"),
    "colliding accessions": (
        ">sp|P1|A\nMS\n>tr|P1|B\nMK\n",
        "p.fasta, line 3: tr|P1|B: its accession P1 is also that of sp|P1|A on line 1",
    ),
    "slash": (">a\nMS\n>b/c\nMK\n", "p.fasta, line 3: b/c: HDF5 cannot take this id as a name"),
    "no residue": (">a\nMS\n>b\nMK1L\n", "p.fasta, line 3: b: position 3: '1' is not a residue"),
    "white space": (">a\nMS\n>b\nM L\n", "p.fasta, line 3: b: position 2: ' ' is not a residue"),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_records_are_named_before_anything_is_computed(run, tmp_path, kind):
    text, message = BAD_INPUT[kind]
    (tmp_path / "p.fasta").write_text(text)
    done = run("p.fasta", "-o", "out.h5", code=2)
    assert message in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.fasta"]


@pytest.mark.parametrize("kind", BAD_INPUT)
@pytest.mark.parametrize("from_standard_input", [False, True])
def test_bad_records_can_be_skipped_and_are_listed(run, tmp_path, kind, from_standard_input):
    text, message = BAD_INPUT[kind]
    text += ">last\nMSLKR\n"
    (tmp_path / "p.fasta").write_text(text)
    run(
        "-" if from_standard_input else "p.fasta", "-o", "out.h5", "--on-error", "skip",
        input=text if from_standard_input else None, code=3,
    )  # fmt: skip
    with EmbeddingStore(tmp_path / "out.h5") as store:
        assert list(store)[-1] == "last"
        assert len(store) == text.count(">") - 1
    header, *rows = (tmp_path / "out.skipped.tsv").read_text().splitlines()
    assert header == "line\tid\treason"
    assert len(rows) == 1
    assert message.partition(": ")[2].partition(": ")[2] in rows[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "p.fasta: the file is empty"),
        (b"\x89HDF\r\n\x1a\n\0\0\0", "binary"),
        (gzip.compress(PROTEINS.encode())[:-40], "gzip"),
        (b"id,length\na,5\n", "no sequence column"),
        (b">a\nM\xc3\x84S\n", "line 2"),
        (b">a\n>b\nMS\n", "record a has no sequence"),
    ],
)
def test_files_that_cannot_be_read_are_named(run, tmp_path, content, message):
    (tmp_path / "p.fasta").write_bytes(content)
    assert message in run("p.fasta", "-o", "out.h5", code=2).stderr


def test_odd_but_sound_files_are_embedded(run, tmp_path):
    header = "x" * 300
    (tmp_path / "p.fasta").write_bytes(f"\ufeff>{header} description\r\nMS\r\nLKR\r\n\r\n>protéine\r\nms*-J".encode())
    done = run("p.fasta", "-o", "out.h5")
    assert "lower-case residues" in done.stderr
    assert {key: len(rows) for key, rows in EmbeddingStore(tmp_path / "out.h5").items()} == {header: 5, "protéine": 5}


def test_other_settings_or_input_are_not_mixed(run, tmp_path):
    (tmp_path / "p.fasta").write_text(PROTEINS)
    run("p.fasta", "-o", "out.h5", "--precision", "fp32")
    before = (tmp_path / "out.h5").read_bytes()
    assert "complete already" in run("p.fasta", "-o", "out.h5", "--precision", "fp32").stdout
    assert "precision=fp32, not bf16" in run("p.fasta", "-o", "out.h5", "--precision", "bf16", code=2).stderr
    (tmp_path / "p.fasta").write_text(PROTEINS.replace("MSLKR", "MSLKK"))
    assert "another input" in run("p.fasta", "-o", "out.h5", "--precision", "fp32", code=2).stderr
    assert (tmp_path / "out.h5").read_bytes() == before


def test_killed_three_times_at_random_moments_it_ends_as_if_undisturbed(run, tmp_path, tiny_checkpoint):
    random_fasta(tmp_path / "p.fasta", 1000)
    run("p.fasta", "-o", "expected.h5")
    rng = random.Random(time.time_ns())
    kills = 0
    while kills < 3:
        process = subprocess.Popen(
            [sys.executable, "-m", "prott5nv", "embed", "--model", tiny_checkpoint, "p.fasta", "-o", "out.h5"],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Counted from the moment it begins to write, since starting takes longer on some machines than on others.
        while not (tmp_path / "out.h5.partial").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (tmp_path / "out.h5").exists():  # too late; begin again
            (tmp_path / "out.h5").unlink()
        kills += 1
    run("p.fasta", "-o", "out.h5")
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")
    assert not (tmp_path / "out.h5.partial").exists()


@pytest.mark.parametrize("victim", ["rows", "HDF5 file"])
def test_a_full_disk_loses_nothing(run, tmp_path, victim):
    # Files may not grow beyond a limit; the HDF5 file is a little larger than the rows.
    import resource

    random_fasta(tmp_path / "p.fasta", 405)
    run("p.fasta", "-o", "expected.h5")
    size = (tmp_path / "expected.h5").stat().st_size
    limit = size // 2 if victim == "rows" else size - 4096
    done = run(
        "p.fasta", "-o", "out.h5", code=2,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert "give the same command again" in done.stderr
    assert not (tmp_path / "out.h5").exists()
    assert (tmp_path / "out.h5.partial").is_dir()
    run("p.fasta", "-o", "out.h5")
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")


def test_an_unfinished_run_takes_no_other_settings_and_no_other_input(run, tmp_path):
    import resource

    random_fasta(tmp_path / "p.fasta", 800)
    run(
        "p.fasta", "-o", "out.h5", code=2,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40 * 2**20,) * 2),
    )  # fmt: skip
    assert (
        "unfinished run with pooling=none, not mean"
        in run("p.fasta", "-o", "out.h5", "--pooling", "mean", code=2).stderr
    )
    random_fasta(tmp_path / "p.fasta", 800, seed=1)
    assert "another input" in run("p.fasta", "-o", "out.h5", code=2).stderr


def test_help_teaches_at_once():
    done = subprocess.run(
        [sys.executable, "-m", "prott5nv", "embed", "--help"], capture_output=True, text=True, check=True
    )
    assert "prott5nv embed proteins.fasta -o proteins.h5" in done.stdout
    code = "import sys\nimport prott5nv.cli.embed\nprint({'torch', 'numpy', 'h5py'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
