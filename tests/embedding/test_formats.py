"""The file formats of embeddings: the same proteins and attributes in each."""

from __future__ import annotations

import os
import pickle
import random
import sys

import numpy as np
import pytest

from prott5nv import EmbeddingStore, ProtT5nvError
from prott5nv.embedding.formats import check_suffix, read_attributes, write_output
from prott5nv.embedding.job import embed_file
from prott5nv.embedding.store import StoredProtein, is_store

ATTRIBUTES = {"pooling": "mean", "precision": "fp32", "note": "é"}


def proteins(count: int) -> list[StoredProtein]:
    rng = np.random.default_rng(0)
    return [
        StoredProtein(f"P{n}", f"sp|P{n}|X", 600 if n % 2 else None, rng.standard_normal(4).astype(np.float32))
        for n in range(count)
    ]


@pytest.mark.parametrize("suffix", ["h5", "hdf5", "npz", "parquet"])
def test_attributes_are_read_as_they_were_written(tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"out.{suffix}"
    write_output(path, proteins(3), ATTRIBUTES)
    assert read_attributes(path) == ATTRIBUTES


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("suffix", ["h5", "npz", "parquet"])
def test_the_store_opens_every_format(tmp_path, suffix, dtype):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    written = [protein._replace(rows=protein.rows.astype(dtype)) for protein in proteins(1003)]
    write_output(tmp_path / f"out.{suffix}", written, ATTRIBUTES)
    with EmbeddingStore(tmp_path / f"out.{suffix}") as store:
        assert list(store) == [protein.key for protein in written] and "P3" in store and "P1003" not in store
        copy = pickle.loads(pickle.dumps(store))
        for opened in store, copy:
            assert opened.attributes == ATTRIBUTES
            for protein, (key, rows) in zip(written, opened.items(), strict=True):
                assert key == protein.key and rows.dtype == dtype
                np.testing.assert_array_equal(rows, protein.rows)
        np.testing.assert_array_equal(store["P1"], written[1].rows)
        assert (store.original_id("P1"), store.truncated_from("P1")) == ("sp|P1|X", 600)
        assert store.truncated_from("P2") is None
        with pytest.raises(KeyError, match="has no protein 'P1003'"):
            store["P1003"]


def test_numpy_archives_of_other_programs_can_be_read(tmp_path):
    np.savez(tmp_path / "own.npz", P1=np.ones(3))
    assert EmbeddingStore(tmp_path / "own.npz")["P1"].tolist() == [1, 1, 1]
    np.savez_compressed(tmp_path / "compressed.npz", P1=np.zeros(1_000_000))
    np.savez(tmp_path / "objects.npz", P1=np.array([{}], dtype=object))
    for name, message in ("compressed", "P1 is compressed"), ("objects", "P1 is not an array of plain numbers"):
        with pytest.raises(ProtT5nvError, match=rf"{name}\.npz: {message}"):
            EmbeddingStore(tmp_path / f"{name}.npz")["P1"]


@pytest.mark.parametrize("shape", ["(4000000000,)", "(-1,)", "(True,)", "(3, 3)"])
def test_an_array_that_declares_another_size_is_refused(tmp_path, shape):
    np.savez(tmp_path / "own.npz", P1=np.ones(3))
    content = (tmp_path / "own.npz").read_bytes()
    old = b"'shape': (3,), }" + b" " * 30
    assert content.count(old) == 1
    new = f"'shape': {shape}, }}".encode().ljust(len(old))
    (tmp_path / "own.npz").write_bytes(content.replace(old, new))
    with pytest.raises(ProtT5nvError, match=r"own\.npz: "):
        EmbeddingStore(tmp_path / "own.npz")["P1"]


@pytest.mark.parametrize(("suffix", "files"), [("npz", 200), ("parquet", 30)])  # A process checks each Parquet file.
def test_damaged_files_end_in_one_line(tmp_path, suffix, files):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"out.{suffix}"
    write_output(path, proteins(5), ATTRIBUTES)
    content = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(files):
        damaged = bytearray(content)
        for _ in range(generator.randrange(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged[: generator.choice([len(damaged), generator.randrange(len(damaged))])])
        try:
            with EmbeddingStore(path) as store:
                dict(store.items())
        except ProtT5nvError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > files / 2


@pytest.mark.parametrize("column", ["accession", "original_id", "truncated_from", "embedding"])
def test_parquet_files_of_other_programs_are_an_error(tmp_path, column):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_output(tmp_path / "out.parquet", proteins(3), ATTRIBUTES)
    parquet.write_table(parquet.read_table(tmp_path / "out.parquet").drop_columns([column]), tmp_path / "out.parquet")
    with pytest.raises(ProtT5nvError, match=rf"no column {column} of the expected type"):
        EmbeddingStore(tmp_path / "out.parquet")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("suffix", ["h5", "npz", "parquet"])
def test_a_name_need_not_be_utf8(tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / os.fsdecode(b"out\xff." + suffix.encode())
    write_output(path, proteins(3), ATTRIBUTES)
    assert is_store(path)
    with EmbeddingStore(path) as store:
        assert list(store) == ["P0", "P1", "P2"]


def test_hdf5_is_the_format_of_any_other_suffix(tmp_path):
    write_output(tmp_path / "out.embeddings", proteins(3), ATTRIBUTES)
    assert list(EmbeddingStore(tmp_path / "out.embeddings")) == ["P0", "P1", "P2"]


def test_npz_holds_one_array_per_protein(tmp_path):
    write_output(tmp_path / "out.npz", proteins(3), ATTRIBUTES)
    with np.load(tmp_path / "out.npz") as archive:
        assert list(archive) == ["P0", "P1", "P2"]
        for protein in proteins(3):
            np.testing.assert_array_equal(archive[protein.key], protein.rows)


def test_parquet_holds_one_row_per_protein_in_any_number_of_row_groups(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    write_output(tmp_path / "out.parquet", proteins(2001), ATTRIBUTES)
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert table["accession"] == [f"P{n}" for n in range(2001)]
    assert table["original_id"][7] == "sp|P7|X"
    assert table["truncated_from"][:2] == [None, 600]
    np.testing.assert_array_equal(np.float32(table["embedding"]), [protein.rows for protein in proteins(2001)])


def test_a_parquet_file_needs_a_protein(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(ProtT5nvError, match=r"out\.parquet: a Parquet file needs at least one protein"):
        write_output(tmp_path / "out.parquet", [], ATTRIBUTES)


@pytest.mark.parametrize("pooling", [None, "none"])
@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_formats_of_pooled_vectors_cannot_hold_rows_of_residues(tmp_path, suffix, pooling):
    with pytest.raises(ProtT5nvError, match=r"is for pooled vectors; choose pooling mean, or a name that ends in \.h5"):
        check_suffix(tmp_path / f"out.{suffix}", pooling)
    check_suffix(tmp_path / "out.h5", pooling)


@pytest.mark.parametrize("name", ["out.npz", "out.h5", "out.parquet"])
def test_a_file_of_another_kind_is_an_error(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_text("text")
    with pytest.raises(ProtT5nvError, match=name):
        read_attributes(tmp_path / name)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_shards_are_hdf5(tmp_path, suffix):
    with pytest.raises(ProtT5nvError, match="shards are joined from HDF5 files"):
        check_suffix(tmp_path / f"out.{suffix}", "mean", shard=True)
    with pytest.raises(ProtT5nvError, match="shards are joined from HDF5 files"):
        embed_file("absent.fasta", tmp_path / f"out.{suffix}", None, pooling="mean", shard=(1, 2))
    check_suffix(tmp_path / "out.h5", "mean", shard=True)
