"""Tests of embedding a file on Ray: most with its actors in this process, which is fast, and the rest on real Ray."""

import json
import random
from dataclasses import replace

import h5py
import numpy as np
import pytest

from prott5nv import EmbeddingStore, ProtT5nvError
from prott5nv.embedding.merge_folder import merge_folder
from prott5nv.embedding.run import Listener, Request, run
from prott5nv.scale import job
from prott5nv.scale.embed_shards import EmbedShards, describe

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def write_proteins(path, count=40, seed=0):
    rng = random.Random(seed)
    with open(path, "w") as file:
        for number in range(count):
            length = rng.randint(1, 400)
            file.write(f">sp|Q{number:05d}|X{number}_HUMAN\n{''.join(rng.choices(LETTERS, k=length))}\n")
        file.write(f">long\n{''.join(rng.choices(LETTERS, k=900))}\n")
    return path


def add_bad_proteins(path):
    with open(path, "a") as file:
        file.write(">bad\nMK1\n>empty\n\n>sp|Q00003|TWICE\nMKV\n>last\nMKVL\n")


@pytest.fixture
def request_of(tiny_checkpoint, tmp_path):
    """Returns requests for the same input, in fp32."""

    def make(output="out", **options):
        source = tmp_path / "proteins.fasta"
        if not source.exists():
            write_proteins(source)
        return Request(str(source), tmp_path / output, str(tiny_checkpoint), precision="fp32", device="cpu", **options)

    return make


def embed(request, **options):
    return job.embed_on_ray(request, Listener(), **options)


def assert_same_files(path, expected):
    """Two HDF5 files have the same attributes and, in order, the same datasets."""
    with h5py.File(path) as file, h5py.File(expected) as other:
        assert dict(file.attrs) == dict(other.attrs)
        assert list(file) == list(other)
        for name in file:
            assert dict(file[name].attrs) == dict(other[name].attrs)
            assert file[name].dtype == other[name].dtype
            np.testing.assert_allclose(file[name][()], other[name][()], atol=1e-5)


def check_against_plain_run(request, tmp_path):
    """A folder of shards, read and merged, is the file that a run without Ray writes."""
    plain = replace(request, output=tmp_path / "plain.h5")
    run(plain, Listener())
    merge_folder(request.output, tmp_path / "merged.h5")
    assert_same_files(tmp_path / "merged.h5", plain.output)
    with EmbeddingStore(request.output) as store, EmbeddingStore(plain.output) as expected:
        assert list(store) == list(expected) and store.attributes == expected.attributes
        for key, rows in store.items():
            np.testing.assert_allclose(rows, expected[key], atol=1e-5)
            assert store.original_id(key) == expected.original_id(key)
            assert store.truncated_from(key) == expected.truncated_from(key)
    listing = tmp_path / "plain.h5.skipped.tsv"
    merged_listing = tmp_path / "merged.h5.skipped.tsv"
    assert listing.exists() == merged_listing.exists() == (request.output / "skipped.tsv").exists()
    if listing.exists():
        assert merged_listing.read_text() == listing.read_text()


@pytest.mark.parametrize(
    "options", [{"pooling": "mean"}, {"dtype": "float16"}, {"long": "window"}, {"long": "skip", "skip_errors": True}]
)
def test_the_shards_are_the_rows_of_a_plain_run(in_this_process, request_of, tmp_path, options):
    request = request_of(**options)
    summary = embed(request)
    assert in_this_process == [0, 1, 2]
    manifest = json.loads((request.output / "manifest.json").read_text())
    assert manifest["proteins"] == summary.proteins == len(EmbeddingStore(request.output))
    assert [file["first"] for file in manifest["files"]] == list(
        np.cumsum([0, *(file["records"] for file in manifest["files"][:-1])])
    )
    assert not (tmp_path / "out.partial").exists()
    check_against_plain_run(request, tmp_path)


def test_bad_proteins_are_skipped_and_listed(in_this_process, request_of, tmp_path):
    request = request_of(skip_errors=True)
    add_bad_proteins(tmp_path / "proteins.fasta")
    summary = embed(request)
    assert (summary.proteins, summary.skipped) == (42, 3)
    assert json.loads((request.output / "manifest.json").read_text())["skipped"] == {"count": 3, "file": "skipped.tsv"}
    check_against_plain_run(request, tmp_path)


def test_a_bad_protein_ends_the_run_before_any_is_embedded(in_this_process, request_of, tmp_path):
    request = request_of()
    add_bad_proteins(tmp_path / "proteins.fasta")
    with pytest.raises(ProtT5nvError, match="bad: position 3: '1' is not a residue"):
        embed(request)
    assert in_this_process == []
    assert not request.output.exists() and not (tmp_path / "out.partial").exists()


def test_an_interrupted_run_continues(in_this_process, request_of, monkeypatch, tmp_path):
    """Finished shards are kept; the one that was being written and all others are embedded."""
    request = request_of(pooling="mean")
    finish = EmbedShards._finish

    def interrupted(self, number):
        if number == 1:
            raise KeyboardInterrupt
        return finish(self, number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EmbedShards, "_finish", interrupted)
        embed(request)
    assert not request.output.exists()
    in_this_process.clear()
    summary = embed(request)
    assert in_this_process == [1, 2] and summary.resumed > 0
    check_against_plain_run(request, tmp_path)


def test_a_full_disk_is_one_line_and_loses_nothing(in_this_process, request_of, monkeypatch, tmp_path):
    request = request_of(pooling="mean")
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch, pytest.raises(ProtT5nvError, match="No space left on device"):
        patch.setattr(EmbedShards, "_write", lambda *_: (_ for _ in ()).throw(full))
        embed(request)
    embed(request)
    check_against_plain_run(request, tmp_path)


def test_a_complete_output_is_not_computed_again(in_this_process, request_of):
    embed(request_of(pooling="mean"))
    in_this_process.clear()
    summary = embed(request_of(pooling="mean"))
    assert summary.complete_already and summary.proteins == 41 and in_this_process == []
    with pytest.raises(ProtT5nvError, match="holds the embeddings of another input, or with other settings"):
        embed(request_of(pooling="mean", dtype="float16"))
    embed(request_of(pooling="mean", dtype="float16", overwrite=True))
    assert EmbeddingStore(request_of().output).attributes["dtype"] == "float16"


def test_another_folder_is_not_replaced(in_this_process, request_of):
    request = request_of(overwrite=True)
    request.output.mkdir()
    (request.output / "thesis.txt").touch()
    with pytest.raises(ProtT5nvError, match="out exists, but prott5nv embed --ray has not written it"):
        embed(request)
    assert (request.output / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float16"}, "unfinished run with dtype=float32, not float16"),
        ({"source": "other.fasta"}, "unfinished run over another input"),
    ],
)
def test_an_unfinished_run_with_other_settings_is_not_continued(
    in_this_process, request_of, monkeypatch, tmp_path, change, message
):
    request = request_of(pooling="mean")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(job._Run, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        embed(request)
    if "source" in change:
        change = {"source": str(write_proteins(tmp_path / change["source"], seed=1))}
    with pytest.raises(ProtT5nvError, match=message):
        embed(replace(request, **change))
    embed(request)  # with the settings of the unfinished run


def test_an_unfinished_run_without_ray_is_not_touched(in_this_process, request_of, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "journal.jsonl").touch()
    with pytest.raises(ProtT5nvError, match="unfinished run without --ray"):
        embed(request_of())


def test_a_shard_that_kills_its_actors_ends_the_run(in_this_process, request_of, monkeypatch):
    """A process that dies leaves its attempt behind."""
    monkeypatch.setattr("prott5nv.scale.embed_shards._MOST_ATTEMPTS", 0)
    with pytest.raises(ProtT5nvError, match="processes died while they embedded records 1 to"):
        embed(request_of())


def test_an_actor_with_other_settings_is_an_error(request_of, in_this_process, monkeypatch):
    """As on a node whose hardware computes in another precision."""
    load = job._Run._load
    monkeypatch.setattr(
        job._Run,
        "_load",
        lambda run: load(run)._replace(settings=describe(run.request).settings | {"precision": "bf16"}),
    )
    with pytest.raises(ProtT5nvError, match="this node has precision=fp32, not bf16"):
        embed(request_of())


def test_damage_is_found(in_this_process, request_of, tmp_path):
    request = request_of(pooling="mean")
    embed(request)
    shard = request.output / "part-000001.parquet"
    sound = shard.read_bytes()
    shard.write_bytes(sound[:-1])
    with pytest.raises(ProtT5nvError, match=r"part-000001\.parquet: the file has .* bytes"):
        EmbeddingStore(request.output)
    changed = bytearray(sound)
    changed[200] ^= 1
    shard.write_bytes(changed)
    with pytest.raises(ProtT5nvError, match="checksum"):
        merge_folder(request.output, tmp_path / "merged.h5")
    shard.unlink()
    with pytest.raises(ProtT5nvError, match="No such file"):
        EmbeddingStore(request.output)
    assert not (tmp_path / "merged.h5").exists()


def test_a_hostile_manifest_is_refused(in_this_process, request_of):
    request = request_of(pooling="mean")
    embed(request)
    path = request.output / "manifest.json"
    sound = path.read_text()
    for change in (
        lambda manifest: manifest.update(format="other"),
        lambda manifest: manifest.pop("attributes"),
        lambda manifest: manifest["files"][0].update(name="../part-000000.parquet"),
        lambda manifest: manifest["files"][0].update(bytes=-1),
        lambda manifest: manifest["files"].append(5),
        lambda manifest: manifest["attributes"].update(pooling=[1]),
    ):
        manifest = json.loads(sound)
        change(manifest)
        path.write_text(json.dumps(manifest))
        with pytest.raises(ProtT5nvError, match=r"manifest\.json: "):
            EmbeddingStore(request.output)


def test_a_shard_is_a_file_of_embeddings(in_this_process, request_of):
    """It is read as a store of its own, and by pandas."""
    pandas = pytest.importorskip("pandas")
    request = request_of(dtype="float16")
    embed(request)
    shard = request.output / "part-000000.parquet"
    store = EmbeddingStore(shard)
    assert store["Q00000"].dtype == "f2" and store.attributes["pooling"] == "none"
    row = pandas.read_parquet(shard).iloc[0]
    assert (row["index"], row.accession) == (0, "Q00000")
    rows_LD = np.frombuffer(row.embedding, np.float16).reshape(row.residues, -1)
    np.testing.assert_array_equal(rows_LD, store["Q00000"])


@pytest.mark.slow
def test_a_run_on_ray(ray, small_shards, request_of, tmp_path):
    """The output of real actors is that of a plain run, also after an interruption."""
    request = request_of(skip_errors=True)
    add_bad_proteins(tmp_path / "proteins.fasta")

    class Interrupts(Listener):
        calls = 0

        def on_progress(self, residues):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.embed_on_ray(request, Interrupts(), actors=2)  # a shard is finished
    assert not request.output.exists()
    summary = embed(request, actors=2)
    assert summary.proteins == 42 and summary.skipped == 3 and summary.resumed > 0
    check_against_plain_run(request, tmp_path)
