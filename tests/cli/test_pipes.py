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

    def bash(line, code=0):
        command = f"{shlex.quote(sys.executable)} -m prott5nv"
        environment = {**os.environ, "PROTT5NV": command, "MODEL": str(tiny_checkpoint)}
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
        assert done.returncode == code, done.stderr
        return done

    return bash


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


@pytest.mark.parametrize(
    "source",
    ["<(cat p.fasta)", "<(cat p.csv)", "<(gzip -c p.fasta)", "/dev/stdin < <(cat p.fasta)", "/dev/stdin < p.csv"],
)
def test_embed(bash, tmp_path, source):
    (tmp_path / "p.fasta").write_text(FASTA)
    (tmp_path / "p.csv").write_text(TABLE)
    embed = "$PROTT5NV embed --model $MODEL --precision fp32 --device cpu"
    bash(f"{embed} p.fasta -o expected.h5 && {embed} -o out.h5 {source}")
    assert contents(tmp_path / "out.h5") == contents(tmp_path / "expected.h5")


def test_embed_refuses_to_divide_a_pipe(bash):
    refused = bash("$PROTT5NV embed <(echo '>a'; echo MKV) -o out.h5 --shard 1/2", code=2)
    assert "can be read only once: give a file" in refused.stderr
    refused = bash("$PROTT5NV embed <(echo '>a'; echo MKV) -o out.h5 --workers 2", code=2)
    assert "nor a pipe" in refused.stderr


def test_score(bash, tmp_path):
    (tmp_path / "p.fasta").write_text(">P1\nMSLKR\n")
    score = "$PROTT5NV score --model $MODEL --device cpu --precision fp32"
    bash(
        f"{score} p.fasta --mutations <(echo S2A; echo K4R) -o expected.csv && "
        f"{score} <(cat p.fasta) --mutations <(printf 'variant,note\\nS2A,x\\nK4R,y\\n') -o out.csv"
    )
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "expected.csv").read_text()
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


def test_fill(bash):
    done = bash("$PROTT5NV fill --model $MODEL --device cpu <(printf '>P1\\nMS?KR\\n>P2\\nM?LKR\\n')")
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["protein", "P1", "P2"]


def test_prepare(bash, tmp_path):
    (tmp_path / "p.fasta").write_text(FASTA)
    prepare = "$PROTT5NV prepare uniref50 --val 2 --test 2 --max-length 140"
    bash(f"{prepare} p.fasta -o expected && {prepare} <(cat p.fasta) -o out")
    for part in "train", "val", "test":
        names = [tmp_path / folder / part / "x000.csv" for folder in ("expected", "out")]
        assert names[0].read_text() == names[1].read_text()


def test_plot(bash, tmp_path):
    pytest.importorskip("plotly")
    (tmp_path / "p.fasta").write_text(FASTA)
    labels = "printf 'accession\\tfamily\\nP1\\t\"globin\\nP2\\tkinase\\n'"
    bash(
        "$PROTT5NV embed --model $MODEL --device cpu p.fasta -o p.h5 && "
        f"$PROTT5NV plot p.h5 -o plot.html --color-by <({labels})"
    )
    assert "kinase" in (tmp_path / "plot.html").read_text()
    assert "give the name of a file" in bash("$PROTT5NV plot <(cat p.h5) -o plot2.html", code=2).stderr


def test_predict(bash, tmp_path):
    rows = "".join(f"{'MSLKRAV'[i % 5 :] * 3},{i},{part}\n" for i, part in enumerate(["train", "val", "test"] * 6))
    (tmp_path / "own.csv").write_text(f"sequence,target,set\n{rows}")
    (tmp_path / "p.fasta").write_text(FASTA)
    bash(
        "$PROTT5NV finetune own.csv --level protein --label number --model $MODEL -o run task.training.epochs=1 "
        "seeds=[1] && $PROTT5NV predict run p.fasta -o expected.csv && $PROTT5NV predict run <(cat p.fasta) -o out.csv"
    )
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
