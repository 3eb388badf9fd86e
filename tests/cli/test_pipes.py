"""Inputs that can be read only once: process substitution, ``/dev/stdin`` and named pipes. No command may hang."""

from __future__ import annotations

import gzip
import os
import shlex
import subprocess
import sys
import threading

import pytest
from helpers.embedding_files import contents

from prott5nv.cli import main
from prott5nv.errors import ProtT5nvError
from prott5nv.io.reader import read_records

LIMIT = 600  # seconds; only a command that hangs needs them
FASTA = "".join(f">P{i}\n{'MSLKRAV' * (i + 1)}\n" for i in range(20))
TABLE = "id,sequence\n" + "".join(f"P{i},{'MSLKRAV' * (i + 1)}\n" for i in range(20))

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="this system has no /dev/fd")


@pytest.fixture
def bash(tiny_checkpoint, tmp_path):
    """Run a line of bash in `tmp_path`; ``$PROTT5NV`` is the command and ``$MODEL`` the tiny model."""

    def bash(line):
        command = f"{shlex.quote(sys.executable)} -m prott5nv"
        environment = {**os.environ, "PROTT5NV": command, "MODEL": str(tiny_checkpoint)}
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
        assert done.returncode == 0, done.stderr

    return bash


@pytest.fixture
def substitute():
    """Give a text as bash's ``<(...)`` does: through a pipe that is named ``/dev/fd/N``."""
    descriptors, writers = [], []

    def substitute(text):
        reading, writing = os.pipe()

        def write():
            with open(writing, "w") as pipe:
                pipe.write(text)

        descriptors.append(reading)
        writers.append(threading.Thread(target=write, daemon=True))
        writers[-1].start()
        return f"/dev/fd/{reading}"

    yield substitute
    for descriptor, writer in zip(descriptors, writers, strict=True):
        writer.join(LIMIT)
        os.close(descriptor)


@pytest.fixture
def fifo(tmp_path):
    """Make a named pipe, and write to it in small parts in a thread."""
    writers = []

    def fifo(name, content: bytes, part=7):
        def write():
            with open(tmp_path / name, "wb", buffering=0) as pipe:
                for start in range(0, len(content), part):
                    pipe.write(content[start : start + part])

        os.mkfifo(tmp_path / name)
        writers.append(threading.Thread(target=write, daemon=True))
        writers[-1].start()
        return tmp_path / name

    yield fifo
    for writer in writers:
        writer.join(LIMIT)


@pytest.mark.parametrize("content", [FASTA, TABLE, TABLE.replace(",", "\t")], ids=["fasta", "csv", "tsv"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("part", [1, 100_000])
def test_a_named_pipe_is_read_completely(fifo, content, compress, part):
    path = fifo("pipe", compress(content.encode()), part)
    records = [(record.id, record.sequence) for record in read_records(path)]
    assert records == [(f"P{i}", "MSLKRAV" * (i + 1)) for i in range(20)]


def test_gzip_of_many_members_is_read_completely(fifo):
    path = fifo("pipe", b"".join(gzip.compress(line.encode() + b"\n") for line in FASTA.split()))
    assert len(list(read_records(path))) == 20


def test_parquet_in_a_pipe_is_refused(fifo, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    file = tmp_path / "p.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"id": ["a"], "sequence": ["MKV"]}), file)
    with pytest.raises(ProtT5nvError, match="Parquet can be read only from an uncompressed file, not from a pipe"):
        list(read_records(fifo("pipe", file.read_bytes(), 100_000)))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["<(gzip -c p.fasta)", "/dev/stdin < <(cat p.fasta)"])
def test_bash_gives_pipes(bash, run, tmp_path, source):
    (tmp_path / "p.fasta").write_text(FASTA)
    run("p.fasta", "--device", "cpu", "-o", "expected.h5")
    bash(f"$PROTT5NV embed --model $MODEL --device cpu -o out.h5 {source}")
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")


@pytest.mark.parametrize("text", [FASTA, TABLE], ids=["fasta", "csv"])
def test_embed(run, substitute, tmp_path, text):
    (tmp_path / "p.txt").write_text(text)
    run("p.txt", "-o", "expected.h5")
    run(substitute(text), "-o", "out.h5")
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")


def test_embed_refuses_to_divide_a_pipe(run, substitute):
    refused = run(substitute(">a\nMKV\n"), "-o", "out.h5", "--shard", "1/2", code=2)
    assert "can be read only once: give a file" in refused.stderr
    refused = run(substitute(">a\nMKV\n"), "-o", "out.h5", "--workers", "2", code=2)
    assert "nor a pipe" in refused.stderr


def test_score(run, substitute, tmp_path, tiny_checkpoint):
    score = ("score", "--model", str(tiny_checkpoint))
    (tmp_path / "p.fasta").write_text(">P1\nMSLKR\n")
    run("p.fasta", "--mutations", substitute("S2A\nK4R\n"), "-o", "expected.csv", command=score)
    table = substitute("variant,note\nS2A,x\nK4R,y\n")
    run(substitute(">P1\nMSLKR\n"), "--mutations", table, "-o", "out.csv", command=score)
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "expected.csv").read_text()
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


def test_fill(run, substitute, tiny_checkpoint):
    done = run(substitute(">P1\nMS?KR\n>P2\nM?LKR\n"), command=("fill", "--model", str(tiny_checkpoint)))
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["protein", "P1", "P2"]


def test_prepare(run, substitute, tmp_path):
    prepare = ("prepare", "uniref50", "--val", "2", "--test", "2", "--max-length", "140")
    (tmp_path / "p.fasta").write_text(FASTA)
    run("p.fasta", "-o", "expected", command=prepare)
    run(substitute(FASTA), "-o", "out", command=prepare)
    for part in "train", "val", "test":
        names = [tmp_path / folder / part / "x000.csv" for folder in ("expected", "out")]
        assert names[0].read_text() == names[1].read_text()


def test_plot(run, substitute, tmp_path):
    pytest.importorskip("plotly")
    (tmp_path / "p.fasta").write_text(FASTA)
    run("p.fasta", "-o", "p.h5")
    labels = substitute('accession\tfamily\nP1\t"globin\nP2\tkinase\n')
    run("p.h5", "-o", "plot.html", "--color-by", labels, command=["plot"])
    assert "kinase" in (tmp_path / "plot.html").read_text()
    refused = run(substitute("not a store"), "-o", "plot2.html", command=["plot"], code=2)
    assert "give the name of a file" in refused.stderr


@pytest.mark.slow
def test_predict(run, substitute, tmp_path, tiny_checkpoint):
    rows = "".join(f"{'MSLKRAV'[i % 5 :] * 3},{i},{part}\n" for i, part in enumerate(["train", "val", "test"] * 6))
    (tmp_path / "own.csv").write_text(f"sequence,target,set\n{rows}")
    (tmp_path / "p.fasta").write_text(FASTA)
    own = ["own.csv", "--level", "protein", "--label", "number", "--model", str(tiny_checkpoint), "-o", "run"]
    run(*own, "task.training.epochs=1", "seeds=[1]", command=["finetune"])
    run("p.fasta", "-o", "expected.csv", command=["predict", "run"])
    run(substitute(FASTA), "-o", "out.csv", command=["predict", "run"])
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "expected.csv").read_text()
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 21


def test_warnings_are_one_line(tmp_path, monkeypatch, capsys, tiny_checkpoint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.fasta").write_text(">P1\nMSlKR*\n>P2\nMS-LKR*\n")
    with pytest.raises(SystemExit):
        main(["score", "p.fasta", "--gaps", "remove", "--perplexity", "-o", "out.csv", "--model", str(tiny_checkpoint)])
    printed = capsys.readouterr().err
    assert "prott5nv: warning: p.fasta: removed '*' from the end of 2 sequences\n" in printed
    assert "prott5nv: warning: p.fasta: removed the gaps of 1 sequence\n" in printed
    assert "UserWarning" not in printed
