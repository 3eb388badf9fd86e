"""Input files in an object store. A store in a local folder takes its place: its addresses begin with file://."""

import gzip
import os
from dataclasses import replace
from pathlib import Path

import pytest

from prott5nv import EmbeddingStore, ProtT5nvError
from prott5nv.cli import command
from prott5nv.embedding.run import Listener, Request
from prott5nv.io.inputs import InputFiles, input_files
from prott5nv.scale.remote_input import with_local_copies

pytest.importorskip("ray", reason="needs the extra ray")
pytest.importorskip("pyarrow", reason="needs the extra parquet")


@pytest.fixture
def bucket(tmp_path):
    folder = tmp_path / "bucket"
    folder.mkdir()
    (folder / "b.fasta").write_text(">b\nMSLKR\n")
    (folder / "a.fa.gz").write_bytes(gzip.compress(b">a\nMKV\n"))
    (folder / "a.fa.skipped.tsv").write_text("not an input\n")
    (folder / "notes.txt").write_text("not an input\n")
    return folder


def address(path):
    return f"file://{path}"


def test_files_and_folders_are_copied_as_they_are(bucket, tmp_path):
    (tmp_path / "local.fasta").write_text(">c\nMK\n")
    given = input_files([tmp_path / "local.fasta", address(bucket)])
    copies = with_local_copies(given, tmp_path / "copies")
    assert isinstance(copies, InputFiles)
    names = [os.path.basename(copy) for copy in copies]
    assert names == ["local.fasta", "a.fa.gz", "b.fasta"]
    assert gzip.decompress(Path(copies[1]).read_bytes()) == b">a\nMKV\n"


def test_a_copy_is_made_once_and_again_if_the_file_changes(bucket, tmp_path):
    source = address(bucket / "b.fasta")
    first = with_local_copies(source, tmp_path / "copies")
    before = os.stat(first)
    assert with_local_copies(source, tmp_path / "copies") == first
    assert os.stat(first).st_mtime_ns == before.st_mtime_ns
    (bucket / "b.fasta").write_text(">b\nMSLKK\n")
    os.utime(bucket / "b.fasta", ns=(0, 1_000_000_000))
    second = with_local_copies(source, tmp_path / "copies")
    assert second != first and Path(second).read_text() == ">b\nMSLKK\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing.fasta", "no such file"),
        ("empty", "no file of proteins in this folder"),
    ],
)
def test_what_is_missing_is_named(given, message, bucket, tmp_path):
    (bucket / "empty").mkdir()
    with pytest.raises(ProtT5nvError, match=f"{given}: .*{message}"):
        with_local_copies(address(bucket / given), tmp_path / "copies")
    with pytest.raises(ProtT5nvError, match=r"^foo://a/b: Unrecognized filesystem type in URI"):
        with_local_copies("foo://a/b", tmp_path / "copies")


def test_the_embeddings_are_those_of_the_local_files(bucket, in_this_process, tiny_checkpoint, tmp_path):
    from prott5nv.scale.job import embed_on_ray

    request = Request(
        input_files([address(bucket)]), tmp_path / "out", str(tiny_checkpoint), precision="fp32", device="cpu"
    )
    embed_on_ray(request, Listener())
    local = replace(request, source=input_files([bucket]), output=tmp_path / "local")
    embed_on_ray(local, Listener())
    with EmbeddingStore(tmp_path / "out") as ours, EmbeddingStore(tmp_path / "local") as expected:
        assert list(ours) == list(expected) == ["a", "b"]
        assert all((ours[name] == expected[name]).all() for name in expected)
        assert ours.attributes["fingerprint"] == expected.attributes["fingerprint"]
    assert not (tmp_path / "out.partial").exists()
    assert embed_on_ray(request, Listener()).complete_already


def test_without_ray_an_address_is_refused(bucket, tmp_path):
    from click.testing import CliRunner

    done = CliRunner().invoke(command, ["embed", address(bucket / "b.fasta"), "-o", str(tmp_path / "out.h5")])
    assert done.exit_code == 2 and "only --ray reads from an object store" in done.output
