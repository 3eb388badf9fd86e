"""Merging shards and their lists of skipped proteins."""

from __future__ import annotations

import os
import resource

import h5py
import numpy as np
import pytest

from prott5nv import EmbeddingStore, ProtT5nvError
from prott5nv.embedding.formats import write_output
from prott5nv.embedding.merge import merge, merge_skipped
from prott5nv.embedding.store import StoredProtein, write_embeddings


def write_shard(folder, shard: str | None, keys: str, **attributes: str):
    """Write a shard with one protein for each letter of `keys`."""
    path = folder / f"{keys}.h5"
    proteins = [StoredProtein(key, f"sp|{key}", 9, np.full(4, ord(key), dtype=np.float32)) for key in keys]
    shard_attribute = {"shard": shard} if shard else {}
    defaults = {"pooling": "mean", "fingerprint": "f", "skipped": "0", **shard_attribute}
    write_embeddings(path, proteins, {**defaults, **attributes})
    return path


def test_shards_are_joined_in_the_order_of_their_numbers(tmp_path):
    shards = [write_shard(tmp_path, f"{n}/3", keys) for n, keys in [(3, "a"), (1, "zy"), (2, "m")]]
    assert merge(shards, tmp_path / "out.h5") == (4, 0)
    with EmbeddingStore(tmp_path / "out.h5") as store:
        assert list(store) == ["z", "y", "m", "a"]
        assert store.attributes == {"pooling": "mean", "fingerprint": "f", "skipped": "0"}
        assert (store.original_id("m"), store.truncated_from("m")) == ("sp|m", 9)
        np.testing.assert_array_equal(store["y"], np.full(4, ord("y")))
    assert all(shard.exists() for shard in shards)


def test_shards_can_be_merged_into_another_format(tmp_path):
    merge([write_shard(tmp_path, "1/1", "ab")], tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as archive:
        assert list(archive) == ["a", "b"]


def test_an_output_that_appears_during_the_merge_is_not_replaced(tmp_path, monkeypatch):
    def write_and_interfere(path, *arguments):
        write_output(path, *arguments)
        for name in "out.h5", "out.h5.skipped.tsv":
            (tmp_path / name).write_text("of another merge")

    monkeypatch.setattr("prott5nv.embedding.merge.write_output", write_and_interfere)
    with pytest.raises(ProtT5nvError, match=r"out\.h5: exists already"):
        merge([write_shard(tmp_path, "1/1", "a")], tmp_path / "out.h5")
    assert (tmp_path / "out.h5").read_text() == (tmp_path / "out.h5.skipped.tsv").read_text() == "of another merge"


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([("1/3", "a"), ("3/3", "c")], "shards are missing: 2/3"),
        ([("2/10000000", "b")], r"^shards are missing: 1/10000000, 3/.*, 11/10000000 and 9,999,989 more$"),
        ([("1/2", "a"), ("1/2", "b")], "are both shard 1"),
        ([("1/2", "a"), ("2/3", "b")], "different numbers of shards"),
        ([("1/2", "a"), (None, "b")], r"b\.h5 is not a shard"),
        ([("1/2", "a"), ("2/2", "ba")], r"ba\.h5: a is in an earlier shard as well"),
        ([("one/2", "a")], r"a\.h5 is not a shard that prott5nv embed wrote"),
        ([("3/2", "a")], r"a\.h5 is not a shard that prott5nv embed wrote"),
        ([("0/0", "a")], r"a\.h5 is not a shard that prott5nv embed wrote"),
    ],
)
def test_shards_that_do_not_belong_together_are_an_error(tmp_path, shards, message):
    paths = [write_shard(tmp_path, shard, keys) for shard, keys in shards]
    with pytest.raises(ProtT5nvError, match=message):
        merge(paths, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.float32([1, np.nan, 1, 1]), r"b\.h5: P1 contains NaN or infinity$"),
        (np.float32([1, 1, 1, np.inf]), r"b\.h5: P1 contains NaN or infinity$"),
        (np.zeros(5, np.float32), r"b\.h5: P1 has the shape \(5,\)"),
        (np.zeros((1, 4), np.float32), r"b\.h5: P1 has the shape \(1, 4\)"),
        (np.zeros((0, 4), np.float32), r"b\.h5: P1 has the shape \(0, 4\)"),
    ],
)
def test_what_is_not_an_embedding_is_an_error(tmp_path, rows, message):
    shards = [write_shard(tmp_path, "1/2", "a"), write_shard(tmp_path, "2/2", "b")]
    with h5py.File(shards[1], "r+") as file:
        file["P1"] = rows
    with pytest.raises(ProtT5nvError, match=message):
        merge(shards, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_large_values_are_merged(tmp_path):
    shard = write_shard(tmp_path, "1/1", "a")
    with h5py.File(shard, "r+") as file:
        file["P1"] = np.full(4, 3e38, np.float32)  # their sum is infinite
    assert merge([shard], tmp_path / "out.h5") == (2, 0)


def test_shards_of_other_settings_are_an_error(tmp_path):
    shards = [write_shard(tmp_path, "1/2", "a"), write_shard(tmp_path, "2/2", "b", fingerprint="g")]
    with pytest.raises(ProtT5nvError, match="differ in fingerprint"):
        merge(shards, tmp_path / "out.h5")


def test_an_existing_output_is_not_replaced(tmp_path):
    (tmp_path / "out.h5").write_text("precious")
    with pytest.raises(ProtT5nvError, match="exists"):
        merge([write_shard(tmp_path, "1/1", "a")], tmp_path / "out.h5")
    assert (tmp_path / "out.h5").read_text() == "precious"


def test_lists_of_skipped_proteins_are_joined_under_one_header(tmp_path):
    parts = [tmp_path / f"{n}.tsv" for n in range(4)]
    parts[1].write_text("line\tid\treason\n1\ta\tempty\n")
    parts[3].write_text("line\tid\treason\n5\tb\ttwo lines\n9\tc\tempty\n")
    assert merge_skipped(parts, tmp_path / "out.tsv") == 3
    assert (tmp_path / "out.tsv").read_text() == "line\tid\treason\n1\ta\tempty\n5\tb\ttwo lines\n9\tc\tempty\n"


def test_without_skipped_proteins_an_old_list_is_removed(tmp_path):
    (tmp_path / "out.tsv").write_text("old")
    merge_skipped([tmp_path / "absent.tsv"], tmp_path / "out.tsv")
    assert not (tmp_path / "out.tsv").exists()


def test_merging_shards_joins_their_lists_in_the_order_of_the_shards(tmp_path):
    counts = [(3, "c", "1"), (1, "a", "1"), (2, "b", "0")]
    shards = [write_shard(tmp_path, f"{n}/3", keys, skipped=count) for n, keys, count in counts]
    (tmp_path / "c.h5.skipped.tsv").write_text("line\tid\treason\n9\tz\tempty\n")
    (tmp_path / "a.h5.skipped.tsv").write_text("line\tid\treason\n1\tx\tempty\n")
    assert merge(shards, tmp_path / "out.h5") == (3, 2)
    listing = tmp_path / "out.h5.skipped.tsv"
    assert listing.read_text() == "line\tid\treason\n1\tx\tempty\n9\tz\tempty\n"
    with EmbeddingStore(tmp_path / "out.h5") as store:
        assert store.attributes["skipped"] == "2"


@pytest.mark.parametrize(
    ("skipped", "listing", "state"),
    [
        ("2", None, "is missing"),
        ("2", "line\tid\treason\n1\tx\tempty\n", "has 1 protein"),
        ("0", "line\tid\treason\n1\tx\tempty\n", "has 1 protein"),
    ],
)
def test_a_shard_without_the_list_of_its_skipped_proteins_is_an_error(tmp_path, skipped, listing, state):
    shard = write_shard(tmp_path, "1/1", "a", skipped=skipped)
    if listing:
        (tmp_path / "a.h5.skipped.tsv").write_text(listing)
    with pytest.raises(
        ProtT5nvError,
        match=rf"a\.h5 lacks {skipped} skipped proteins, and the list of these, .*a\.h5\.skipped\.tsv, {state}; put",
    ):
        merge([shard], tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_merging_shards_without_lists_removes_only_the_list_of_the_output(tmp_path):
    for name in "out.h5.skipped.tsv", "out.skipped.tsv", "out.npz.skipped.tsv":
        (tmp_path / name).write_text("old")
    shard = write_shard(tmp_path, "1/1", "a")
    with pytest.raises(ProtT5nvError, match=r"out\.h5\.skipped\.tsv: exists already"):
        merge([shard], tmp_path / "out.h5")
    merge([shard], tmp_path / "out.h5", overwrite=True)
    assert sorted(path.name for path in tmp_path.glob("*.tsv")) == ["out.npz.skipped.tsv", "out.skipped.tsv"]


@pytest.mark.parametrize("attributes", [{"shard": "1/1"}, {"shard": 1.5}, {"shard": "1/1", "pooling": [1, 2]}])
def test_files_of_other_programs_are_an_error(tmp_path, attributes):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs.update(attributes)
        file["a"] = np.zeros(4)
    with pytest.raises(ProtT5nvError, match=r"a\.h5 is not a shard that prott5nv embed wrote"):
        merge([tmp_path / "a.h5"], tmp_path / "out.h5")


def test_few_shards_are_open_at_once(tmp_path):
    shards = [write_shard(tmp_path, f"{number + 1}/40", chr(ord("0") + number)) for number in range(40)]
    open_files = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + 20, hard))
    try:
        assert merge(shards, tmp_path / "out.h5") == (40, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_older_list_stays_until_the_output_is_there(tmp_path, monkeypatch):
    """The list of an output belongs to it, so both are replaced together."""
    shard = write_shard(tmp_path, "1/1", "a")
    (tmp_path / "out.h5").write_text("old")
    (tmp_path / "out.h5.skipped.tsv").write_text("old")
    publish, moments = os.replace, []

    def move(source, target):
        if str(target).endswith("out.h5"):
            moments.append((tmp_path / "out.h5.skipped.tsv").exists())
        publish(source, target)

    monkeypatch.setattr("prott5nv.io.atomic.os.replace", move)
    merge([shard], tmp_path / "out.h5", overwrite=True)
    assert moments and all(moments) and not (tmp_path / "out.h5.skipped.tsv").exists()


@pytest.mark.parametrize("kind", ["pipe", "not a text", "link to the outside"])
def test_a_list_of_a_stranger_is_one_error(tmp_path, kind):
    shard = write_shard(tmp_path, "1/1", "a", skipped="1")
    listing = tmp_path / "a.h5.skipped.tsv"
    if kind == "pipe":
        os.mkfifo(listing)
    elif kind == "not a text":
        listing.write_bytes(b"line\tid\treason\n\xff\n")
    else:
        listing.write_text("line\tid\treason\n1\tP\tno\n")
        (tmp_path / "out.h5.skipped.tsv").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ProtT5nvError, match=r"no plain file|not a text file in UTF-8|this is a link"):
        merge([shard], tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists() and not (tmp_path / "elsewhere").exists()
