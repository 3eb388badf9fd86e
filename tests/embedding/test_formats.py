"""The file formats of embeddings: the same proteins and attributes in each."""

from __future__ import annotations

import numpy as np
import pytest

from prott5nv import EmbeddingStore, ProtT5nvError
from prott5nv.embedding.formats import check_suffix, read_attributes, write_output
from prott5nv.embedding.job import embed_file
from prott5nv.embedding.store import StoredProtein

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
