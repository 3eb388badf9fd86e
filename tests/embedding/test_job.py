"""Embedding of files without the command line: valid files, faulty files, and files that change during the run."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from collections import deque

import numpy as np
import pytest
import torch

from prott5nv import Embedder, EmbeddingStore, ModelConfig, ProtT5, ProtT5nvError
from prott5nv.assets import BUILTIN_MODEL
from prott5nv.embedding import job as job_module
from prott5nv.embedding import journal as journal_module
from prott5nv.embedding.job import Summary, embed_file
from prott5nv.embedding.rows import RowsFile
from prott5nv.io.cleaning import Cleaning
from prott5nv.io.reader import read_records
from prott5nv.io.record import accession
from prott5nv.io.work_folders import reserved


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint):
    return Embedder(tiny_checkpoint, precision="fp32")


BAD_FILES = {
    "duplicate id": (b">a\nMS\n>b\nMS\n>a\nMK\n", "line 5: a: this id is already used on line 1"),
    "same first word": (b">a x\nMS\n>a y\nMK\n", "its own id; the id is only the first word of the header"),
    "colliding accessions": (
        b">sp|P1|A\nMS\n>tr|P1|B\nMK\n",
        r"line 3: tr\|P1\|B: its accession P1 is also that of sp\|P1\|A on line 1",
    ),
    "slash": (b">a\nMS\n>b/c\nMK\n", "line 3: b/c: HDF5 cannot use this id as a name; write '_' in place"),
    "dot": (b">.\nMS\n", "line 1: .: HDF5 cannot use this id as a name; rename the protein"),
    "no residue": (b">a\nMS\n>b\nMK1L\n", "line 3: b: position 3: '1' is not a residue"),
    "white space": (b">a\nMS\n>b\nM L\n", "line 3: b: position 2: ' ' is not a residue"),
    "no sequence": (b">a\nMS\n>b\n>c\nMS\n", "line 3: b: there is no sequence"),
    "no sequence in a table": (b"id,sequence\na,MS\nb,\n", "line 3: b: there is no sequence"),
    "empty": (b"", "p.fasta: the file is empty"),
    "binary": (b"\x89HDF\r\n\x1a\n\0\0\0", "binary"),
    "gz cut short": (gzip.compress(b">a\nMSLKR\n" * 99)[:-20], "gzip"),
    "table without the column": (b"id,length\na,5\n", "no sequence column"),
    "non-ASCII residue": (b">a\nMS\n>b\nM\xc3\x84S\n", "line 3: b: position 2: 'Ä' is not a residue"),
    "non-ASCII residue in a table": (b"id,sequence\na,M\xffS\n", "line 2: a: position 2: '\ufffd' is not a residue"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_errors_name_file_line_and_id(embedder, tmp_path, kind):
    content, message = BAD_FILES[kind]
    (tmp_path / "p.fasta").write_bytes(content)
    with pytest.raises(ProtT5nvError, match=message) as error:
        embed_file(tmp_path / "p.fasta", tmp_path / "out.h5", embedder)
    assert str(tmp_path / "p.fasta") in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["p.fasta"]


@pytest.mark.slow
def test_quirks_of_real_files(embedder, tmp_path, shared):
    for file in sorted((shared / "data" / "sequences" / "quirks").iterdir()):
        output = tmp_path / f"{file.name}.h5"
        summary = embed_file(
            file,
            output,
            embedder,
            long="window",
            skip_errors=True,
            cleaning=Cleaning(gaps="keep"),
        )
        read = list(read_records(file, cleaning=Cleaning(gaps="keep")))
        records = {accession(record.id): record for record in reversed(read)}
        with EmbeddingStore(output) as store:
            assert {key: len(rows) for key, rows in store.items()} == {
                key: len(record.sequence) for key, record in records.items()
            }
            assert len(store) + summary.skipped == len(read)
            order = list(dict.fromkeys(accession(record.id) for record in read))
            assert list(store) == order


def test_an_input_that_changes_during_the_run_is_an_error(embedder, tmp_path):
    fasta = tmp_path / "p.fasta"
    fasta.write_text(">a\nMS\n")
    with pytest.raises(ProtT5nvError, match=r"p\.fasta was changed while it was read"):
        embed_file(
            fasta,
            tmp_path / "out.h5",
            embedder,
            on_survey=lambda survey: fasta.write_text(">a\nMK\n"),
        )
    assert not (tmp_path / "out.h5").exists()


def recorded_sha256(output) -> str:
    with EmbeddingStore(output) as store:
        return store.attributes["model_sha256"]


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "p.fasta"
    path.write_text(">a\nMSLKR\n")
    return path


def test_the_output_records_the_checksum_of_the_model_that_was_used(embedder, tiny_checkpoint, tmp_path, fasta):
    for name, model, file in [
        ("file", tiny_checkpoint, tiny_checkpoint),
        ("loaded", embedder, tiny_checkpoint),
        ("built-in", None, BUILTIN_MODEL),
    ]:
        embed_file(fasta, tmp_path / f"{name}.h5", model)
        assert recorded_sha256(tmp_path / f"{name}.h5") == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_output_of_another_model_is_not_taken_for_complete(embedder, tmp_path, fasta):
    embed_file(fasta, tmp_path / "out.h5", embedder)
    assert embed_file(fasta, tmp_path / "out.h5", embedder).complete_already
    with pytest.raises(ProtT5nvError, match=r"holds other embeddings.*model_sha256"):
        embed_file(fasta, tmp_path / "out.h5", Embedder(precision="fp32"))


def test_a_model_in_memory_is_identified_by_its_configuration_and_weights(tmp_path, fasta):
    torch.manual_seed(0)
    model = ProtT5(ModelConfig.preset("tiny"))
    embed_file(fasta, tmp_path / "out.h5", model)
    assert recorded_sha256(tmp_path / "out.h5") == model.sha256()
    assert embed_file(fasta, tmp_path / "out.h5", model).complete_already
    with torch.no_grad():
        model.encoder.final_layernorm.bias[0] += 1
    with pytest.raises(ProtT5nvError, match=r"holds other embeddings.*model_sha256"):
        embed_file(fasta, tmp_path / "out.h5", model)


def test_outputs_with_similar_names_have_their_own_lists_of_skipped_proteins(embedder, tmp_path, fasta):
    faulty = tmp_path / "faulty.fasta"
    faulty.write_text(">a\nMSLKR\n>b\nM1\n")
    for name in "run.v1", "run.v2", "run.h5":
        embed_file(faulty, tmp_path / name, embedder, skip_errors=True)
    embed_file(fasta, tmp_path / "run.v3", embedder)
    embed_file(fasta, tmp_path / "run.npz", embedder, pooling="mean")
    lists = sorted(path.name for path in tmp_path.glob("*.tsv"))
    assert lists == ["run.h5.skipped.tsv", "run.v1.skipped.tsv", "run.v2.skipped.tsv"]
    assert all("\tb\t" in (tmp_path / name).read_text() for name in lists)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype='int8': choose float32 or float16"),
        ({"dtype": np.float16}, "dtype=<class 'numpy.float16'>: choose"),
        ({"pooling": "median"}, "pooling='median': choose"),
        ({"long": "cut"}, "long='cut': choose truncate"),
        ({"key": "name"}, "key='name': choose accession, safe, biotrainer"),
        ({"shard": (0, 2)}, "shard=0/2: choose I/N with I from 1 to N"),
        ({"shard": (3, 2)}, "shard=3/2"),
        ({"shard": "1/2"}, "shard='1/2': give two integers"),
        ({"shard": 1}, "shard=1: give two integers"),
    ],
)
def test_arguments_are_checked_before_the_model_is_loaded(tmp_path, fasta, options, message):
    with pytest.raises(ProtT5nvError, match=re.escape(message)):
        embed_file(fasta, tmp_path / "out.h5", "no such file", **options)
    assert os.listdir(tmp_path) == ["p.fasta"]


def test_a_merge_and_a_run_do_not_write_the_same_output(embedder, tmp_path, fasta):
    output = tmp_path / "out.h5"
    with reserved(output), pytest.raises(ProtT5nvError, match="another process is writing"):
        embed_file(fasta, output, embedder)
    assert not output.exists()


def test_overwrite_computes_the_output_again(embedder, tmp_path, fasta):
    embed_file(fasta, tmp_path / "out.h5", embedder)
    before = (tmp_path / "out.h5").stat().st_mtime_ns
    summary = embed_file(fasta, tmp_path / "out.h5", embedder, overwrite=True)
    assert (summary.proteins, summary.complete_already) == (1, False)
    assert (tmp_path / "out.h5").stat().st_mtime_ns > before


def test_the_output_names_the_model_for_people(embedder, tiny_checkpoint, tmp_path, fasta):
    embed_file(fasta, tmp_path / "file.h5", embedder)
    embed_file(fasta, tmp_path / "memory.h5", ProtT5(ModelConfig.preset("tiny")))
    names = [EmbeddingStore(tmp_path / f"{name}.h5").attributes["model_name"] for name in ("file", "memory")]
    assert names == [tiny_checkpoint.stem, "ProtT5"]


def test_keys_can_be_chosen(embedder, tmp_path):
    pytest.importorskip("pyarrow")
    fasta = tmp_path / "p.fasta"
    fasta.write_text(">sp|P1|X\nMSLKR\n>a/b\nMKV\n>.\nMS\n")
    embed_file(fasta, tmp_path / "out.parquet", embedder, pooling="mean")
    store = EmbeddingStore(tmp_path / "out.parquet")
    assert list(store) == ["P1", "a/b", "."] and store["a/b"].shape == (64,)

    fasta.write_text(">sp|P1|X\nMSLKR\n>a/b\nMKV\n")
    embed_file(fasta, tmp_path / "safe.h5", embedder, key="safe")
    with EmbeddingStore(tmp_path / "safe.h5") as store:
        assert list(store) == ["P1", "a_b"] and store.original_id("a_b") == "a/b"
    embed_file(fasta, tmp_path / "biotrainer.h5", embedder, key="biotrainer")
    with EmbeddingStore(tmp_path / "biotrainer.h5") as store:
        expected = [hashlib.sha256(text).hexdigest() for text in (b"MSLKR_5", b"MKV_3")]
        assert list(store) == expected and store.original_id(expected[0]) == "sp|P1|X"
    for key in "safe", "accession":
        fasta.write_text(">sp|P1|X\nMSLKR\n")
        with pytest.raises(ProtT5nvError, match=f"holds other embeddings .*key=biotrainer, not {key}"):
            embed_file(fasta, tmp_path / "biotrainer.h5", embedder, key=key)

    fasta.write_text(">a/b\nMK\n>a_b\nMKV\n")
    with pytest.raises(ProtT5nvError, match="line 3: a_b: its accession a_b is also that of a/b on line 1"):
        embed_file(fasta, tmp_path / "out.h5", embedder, key="safe")
    fasta.write_text(">a\nMK\n>b\nMK\n")
    with pytest.raises(ProtT5nvError, match="line 3: b: its sequence, and so its key, is also that of a on line 1"):
        embed_file(fasta, tmp_path / "out.h5", embedder, key="biotrainer")


@pytest.mark.parametrize("suffix", ["h5", "npz", "parquet"])
def test_very_long_ids_are_an_error_in_every_format(embedder, tmp_path, suffix):
    fasta = tmp_path / "p.fasta"
    fasta.write_text(f">{'i' * 64_000}\nMSLKR\n")
    embed_file(fasta, tmp_path / f"out.{suffix}", embedder, pooling="mean")
    assert list(EmbeddingStore(tmp_path / f"out.{suffix}")) == ["i" * 64_000]
    fasta.write_text(f">{'i' * 64_001}\nMSLKR\n")
    with pytest.raises(ProtT5nvError, match=r"line 1: i{100}\.\.\.: its id has 64,001 bytes, and at most 64,000"):
        embed_file(fasta, tmp_path / f"other.{suffix}", embedder, pooling="mean")


def test_many_faulty_records_do_not_wait_in_memory(embedder, tmp_path, monkeypatch):
    fasta = tmp_path / "p.fasta"
    records = [f">{number}\n{'MKV' if number % 50 == 0 else 'M1'}\n" for number in range(500)]
    fasta.write_text("".join(records))
    expected = embed_file(fasta, tmp_path / "expected.h5", embedder, skip_errors=True)
    monkeypatch.setattr("prott5nv.embedding.job._MOST_FAULTY_WAITING", 20)
    lengths = []

    class Recorded(deque):
        def append(self, item):
            super().append(item)
            lengths.append(len(self))

    monkeypatch.setattr("prott5nv.embedding.job.deque", Recorded)
    assert embed_file(fasta, tmp_path / "out.h5", embedder, skip_errors=True) == expected
    assert max(lengths) < 25 and (expected.proteins, expected.skipped) == (10, 490)
    with EmbeddingStore(tmp_path / "out.h5") as store, EmbeddingStore(tmp_path / "expected.h5") as other:
        assert list(store) == list(other)
        assert all(np.abs(store[key] - other[key]).max() < 1e-5 for key in store)
    lists = [(tmp_path / f"{name}.h5.skipped.tsv").read_text() for name in ("out", "expected")]
    assert lists[0] == lists[1] and lists[0].count("\n") == 491


def test_a_pipe_is_surveyed_when_it_has_been_read(embedder, tmp_path, monkeypatch):
    fasta = tmp_path / "p.fasta"
    limit = embedder.limit
    fasta.write_text(f">a\nMKV\n>long\n{'M' * (limit + 7)}\n>b\nM1\n")
    surveys = []
    embed_file(fasta, tmp_path / "file.h5", embedder, skip_errors=True, on_survey=surveys.append)
    monkeypatch.setattr("prott5nv.embedding.job.reads_once", lambda path: True)
    for name in ("pipe.h5", "pipe.npz"):
        pooling = "mean" if name == "pipe.npz" else None
        embed_file(fasta, tmp_path / name, embedder, pooling=pooling, skip_errors=True, on_survey=surveys.append)
        assert EmbeddingStore(tmp_path / name).truncated_from("long") == limit + 7
    counts = [(each.proteins, each.residues, each.skipped, str(each.long)) for each in surveys]
    assert counts == [(2, limit + 3, 1, f"long ({limit + 7})")] * 3


def test_the_time_of_writing_is_measured(embedder, tmp_path, fasta, monkeypatch):
    now = 0.0

    def advance(seconds):
        nonlocal now
        now += seconds

    wait, embed = RowsFile.wait, Embedder.embed
    monkeypatch.setattr(journal_module, "monotonic", lambda: now)
    monkeypatch.setattr(job_module, "monotonic", lambda: now)
    monkeypatch.setattr(RowsFile, "wait", lambda self: (advance(30.0), wait(self)))
    monkeypatch.setattr(Embedder, "embed", lambda *given, **options: (advance(20.0), embed(*given, **options))[1])
    summary = embed_file(fasta, tmp_path / "out.h5", embedder)
    waits = round(summary.seconds_writing / 30)
    assert waits >= 1 and summary.seconds == 30 * waits + 20
    assert summary.limited_by_writing
    assert not Summary(1, 5, seconds=100.0, seconds_writing=49.0).limited_by_writing
    assert not Summary(1, 5, seconds=9.0, seconds_writing=8.0).limited_by_writing
