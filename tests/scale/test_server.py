"""Tests of ``prott5nv serve`` with one real server, which all tests share."""

import asyncio
import base64
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import psutil
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from helpers.server import Server
from helpers.waiting import wait_until

from prott5nv import (
    Client,
    Embedder,
    EmbeddingStore,
    ProtT5nvError,
    score_substitutions,
    score_variants,
    seqs_to_embedding,
)
from prott5nv.cli import main
from prott5nv.embedding.job import output_settings

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
TOKEN = "a-token-for-tests-0123"

pytestmark = pytest.mark.slow


def random_proteins(count, longest, seed=0):
    rng = random.Random(seed)
    return ["".join(rng.choices(LETTERS, k=rng.randint(1, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def server(tiny_checkpoint, tmp_path_factory):
    """A server with a token, and small limits."""
    server = Server(
        tmp_path_factory.mktemp("server"), "--model", str(tiny_checkpoint), "--precision", "fp32",
        "--max-requests", "8", "--max-residues", "20000", PROTT5NV_TOKEN=TOKEN,
    )  # fmt: skip
    yield server
    if server.process.poll() is None:
        server.stop()


@pytest.fixture(scope="module")
def client(server):
    return Client(server.url, TOKEN)


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint):
    return Embedder(tiny_checkpoint, device="cpu", precision="fp32")


def post(server, path, body, token=TOKEN):
    """Return status and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    connection.request("POST", path, data, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_embeddings_are_those_of_the_package(client, embedder):
    """Whatever other requests are computed in the same batch."""
    proteins = random_proteins(60, 700)
    expected = seqs_to_embedding(proteins, embedder, long="window")
    means = seqs_to_embedding(proteins, embedder, pooling="mean", long="window")
    results = {}

    def ask(start):
        own = proteins[start : start + 10]
        results[start] = client.embed(own, long="window"), client.embed(own, "mean", long="window")

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(0, 60, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for start, (rows, pooled) in results.items():
        np.testing.assert_allclose(pooled, means[start : start + 10], atol=1e-5)
        for row, other in zip(rows, expected[start:], strict=False):
            np.testing.assert_allclose(row, other, atol=1e-5)
    assert len(results) == 6


def test_all_formats_hold_the_same_numbers(server, embedder, tmp_path):
    records = [{"id": "sp|P1|A_HUMAN", "sequence": "MSLKR"}, {"id": "P/2", "sequence": "M" * 600}]
    expected = seqs_to_embedding([record["sequence"] for record in records], embedder)
    answer = json.loads(post(server, "/embed", {"records": records})[1])
    assert answer["model_sha256"] == embedder.model_sha256
    assert [protein["truncated_from"] for protein in answer["proteins"]] == [None, 600]
    for protein, rows in zip(answer["proteins"], expected, strict=True):
        np.testing.assert_allclose(protein["embedding"], rows, atol=1e-5)
    (tmp_path / "x.npz").write_bytes(post(server, "/embed", {"records": records, "format": "npz"})[1])
    with EmbeddingStore(tmp_path / "x.npz") as store:
        assert list(store) == [record["id"] for record in records]
        assert store.attributes["model_sha256"] == embedder.model_sha256
        assert store.truncated_from("P/2") == 600
        recorded = output_settings(embedder, None, "float32", "truncate", "accession")
        assert store.attributes == recorded | {"model_name": embedder.name}
        np.testing.assert_allclose(store["sp|P1|A_HUMAN"], expected[0], atol=1e-5)
    line, _, data = post(server, "/embed", {"records": records, "format": "float16"})[1].partition(b"\n")
    header = json.loads(line)
    assert (header["rows"], header["truncated_from"]) == ([5, len(expected[1])], [None, 600])
    rows = np.frombuffer(data, "<f2").reshape(-1, header["hidden_size"])
    np.testing.assert_allclose(rows, np.concatenate(expected), atol=1e-2)


def test_the_shape_of_openai(server, embedder):
    expected = seqs_to_embedding(["MSLKR", "MK"], embedder, pooling="mean")
    answer = json.loads(post(server, "/v1/embeddings", {"input": ["MSLKR", "MK"], "user": "x", "model": "tiny"})[1])
    assert answer["object"] == "list" and answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert [item["index"] for item in answer["data"]] == [0, 1]
    np.testing.assert_allclose([item["embedding"] for item in answer["data"]], expected, atol=1e-5)
    answer = json.loads(post(server, "/v1/embeddings", {"input": "MSLKR", "encoding_format": "base64"})[1])
    row = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(row, expected[0], atol=1e-5)
    status, content = post(server, "/v1/embeddings", {"input": "MK", "model": "other"})
    assert status == 404 and "this server has 'tiny'" in json.loads(content)["error"]["message"]


def test_scores_are_those_of_the_package(client, server, embedder):
    scores = client.score("MSLKRX")
    assert scores.sequence == "MSLKRX"
    np.testing.assert_allclose(scores.scores, score_substitutions("MSLKRX", embedder), atol=1e-4)
    variants = ["S2A", "S2A:K4R"]
    for answer, score in zip(client.score("MSLKR", variants), score_variants("MSLKR", variants, embedder), strict=True):
        assert answer["variant"] == str(score.variant)
        assert answer["score_joint"] == pytest.approx(score.joint, abs=1e-4)
        assert answer["score_additive"] == pytest.approx(score.additive, abs=1e-4)
    with pytest.raises(ProtT5nvError, match="A1G: residue 1 of the protein is M"):
        client.score("MSLKR", ["A1G"])
    status, page = post(server, "/score", {"id": "<P1>", "sequence": "MSLKR", "format": "html"})
    assert status == 200 and b"&lt;P1&gt;: single substitutions" in page and b"Plotly" in page


def test_errors_name_the_record(client):
    with pytest.raises(ProtT5nvError, match=r"record 2 \(sequence 2\): position 3: '1' is not a residue"):
        client.embed(["MSLKR", "MK1"])
    with pytest.raises(ProtT5nvError, match="this server accepts 20,000"):
        client.embed(["M" * 20_000])


def test_state_of_the_server(client, server, embedder):
    info = client.info()
    assert info["model"]["sha256"] == embedder.model_sha256 and info["limits"]["requests"] == 8
    assert json.load(urllib.request.urlopen(f"{server.url}/health")) == {"status": "ok"}
    api = json.load(urllib.request.urlopen(f"{server.url}/openapi.json"))
    assert {"/embed", "/score", "/v1/embeddings", "/health", "/info", "/metrics"} == set(api["paths"])
    request = urllib.request.Request(f"{server.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    metrics = urllib.request.urlopen(request).read().decode()
    assert "prott5nv_residues_total" in metrics


def test_the_token_is_needed_and_never_shown(server):
    for token in "", "wrong", TOKEN[:-1]:
        with pytest.raises(ProtT5nvError, match="needs a token"):
            Client(server.url, token).info()
    assert TOKEN not in server.log.read_text()
    session = os.path.realpath("/tmp/ray/session_latest")
    for process in psutil.Process(server.process.pid).children(recursive=True):
        assert TOKEN not in " ".join([*process.cmdline(), *process.environ().values()])
    for folder, _, names in os.walk(os.path.join(session, "logs")):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                assert TOKEN.encode() not in file.read(), name


def test_hostile_requests_are_answered(server, client):
    bodies = [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null", b'{"sequences": [1]}', b"x" * 400_000, b"0" * 5_000_000]
    for body in bodies:
        status, content = post(server, "/embed", body)
        assert status in (400, 413, 422) and json.loads(content)["error"]["message"]
    lines = [
        b"GARBAGE\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    for line in lines:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(line)
            assert connection.recv(100).startswith(b"HTTP/1.1 4")
    # Slow clients keep nobody waiting, even if there are more of them than requests may be active.
    start = f"POST /embed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    for connection in slow:
        connection.sendall(start.encode() + b"Content-Length: 100\r\n\r\n{")
    assert len(client.embed(["MSLKR"])) == 1
    for connection in slow:
        connection.close()


def active(server):
    request = urllib.request.Request(f"{server.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    [line] = [line for line in urllib.request.urlopen(request).read().decode().splitlines()
              if line.startswith("prott5nv_active_requests ")]  # fmt: skip
    return float(line.split()[1])


def start_scan(server, residues):
    """Ask for all substitutions of a protein, and return the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    body = json.dumps({"sequence": "M" * residues})
    connection.request("POST", "/score", body, {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"})
    return connection


def start_large_answer(server, residues):
    """Ask for the rows of a protein, and return the socket, whose buffer is too small for the answer."""
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.settimeout(120)
    slow.connect(("127.0.0.1", server.port))
    body = json.dumps({"sequences": ["M" * residues], "long": "window"}).encode()
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    slow.sendall(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return slow


def test_clients_that_hang_up_cost_nothing(server, client):
    """Their requests are not computed further, so others are answered at once."""
    scans = [start_scan(server, 700) for _ in range(7)]
    wait_until(lambda: active(server) == 7, 60)
    for scan in scans:
        scan.close()
    wait_until(lambda: active(server) == 0, 60)
    begin = time.monotonic()
    client.score("MSLKR")  # would wait for all seven scans
    assert time.monotonic() - begin < 10


def test_too_many_requests_are_refused(server):
    scans = [start_scan(server, 700) for _ in range(8)]
    wait_until(lambda: active(server) == 8, 60)
    status, content = post(server, "/embed", {"sequences": ["MK"]})
    assert status == 429 and "busy" in json.loads(content)["error"]["message"]
    for scan in scans:
        scan.close()
    wait_until(lambda: active(server) == 0, 60)


def test_the_page_in_a_browser(server, embedder, tmp_path):
    browser = pytest.importorskip("helpers.browser")
    if not browser.CHROMIUM:
        pytest.skip("needs Chromium")

    async def use():
        async with browser.open_page(server.url, tmp_path) as page:
            text = "document.getElementById('model').textContent"
            await page.wait_for(f"{text}.includes('token')")
            await page.run(f"document.getElementById('token').value = {TOKEN!r}")
            await page.run("document.querySelector('#login-form button').click()")
            await page.wait_for(f"{text}.includes('model tiny')")
            await page.run("document.getElementById('example').click()")
            await page.run("document.getElementById('embed').click()")
            await page.wait_for("!document.getElementById('download').hidden")
            assert "186 of 186 residues" in await page.run("document.getElementById('progress-text').textContent")
            await page.run("document.getElementById('download').click()")
            await page.run("document.getElementById('scan').click()")
            await page.wait_for("!document.getElementById('map').hidden")
            await page.run("document.getElementById('map').scrollIntoView()")  # what is not seen is not drawn
            await page.wait_for("parseFloat(document.getElementById('map').style.height) > 500")
            fasta = await page.run("document.getElementById('fasta').value")
            write = "document.getElementById('fasta').value = {!r}; $('fasta').dispatchEvent(new Event('input'))"
            # The results of other proteins go, and a text that is not FASTA is not sent.
            await page.run(write.format("id,sequence\nP1,MK"))
            assert "looks like a table" in await page.run("document.getElementById('count').textContent")
            for name in ("download", "table", "map"):
                assert await page.run(f"document.getElementById({name!r}).hidden")
            assert await page.run("document.getElementById('embed').disabled")
            await page.run(write.format(">P1\nmkv*"))
            await page.run("document.getElementById('embed').click()")
            await page.wait_for("!document.getElementById('download').hidden")
            notes = await page.run("document.getElementById('embed-notes').textContent")
            assert "removed '*'" in notes and "lower-case" in notes
            await page.run(write.format(">P1\nMK-V*"))
            assert not await page.run("document.getElementById('embed-notes').textContent")
            assert "1 protein, 3 residues" in await page.run("document.getElementById('count').textContent")
            await page.run(write.format(f">{'long' * 50}\nMK\n>P1\nMK1"))
            await page.run("document.getElementById('embed').click()")
            await page.wait_for("document.getElementById('embed-error').textContent.includes('P1')")
            for width in 1200, 390:
                await page.resize(width, 844)
                assert await page.run("document.documentElement.scrollWidth") <= width
            return fasta.split("\n")[1::2]

    sequences = asyncio.run(use())
    wait_until((tmp_path / "embeddings.npz").exists, 30)
    with EmbeddingStore(tmp_path / "embeddings.npz") as store:
        assert list(store) == ["1UBQ", "P01308"]
        recorded = output_settings(embedder, "mean", "float32", "window", "accession")
        assert store.attributes == recorded | {"model_name": embedder.name}
        expected = seqs_to_embedding(sequences[:2], embedder, pooling="mean")
        np.testing.assert_allclose([store[key] for key in store], expected, atol=1e-5)


def test_a_replica_that_dies_is_replaced(server, client):
    [replica] = [
        process for process in psutil.Process(server.process.pid).children(recursive=True)
        if process.name().startswith("ray::ServeRep") and "model" in " ".join(process.cmdline())
    ]  # fmt: skip
    scan = start_scan(server, 100)
    wait_until(lambda: active(server) == 1, 60)
    replica.kill()
    assert scan.getresponse().status == 200
    assert len(client.embed(["MSLKR"])) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "{port}"], "cannot listen on 127.0.0.1 port {port}: Address already in use"),
        (["--model", __file__], "test_server.py"),
        (["--model", "missing.nemo"], "missing.nemo: this file does not exist"),
        (["--replicas", "2", "--autoscale", "1"], "at most 1 replicas, but at least 2"),
    ],
)
def test_errors_before_ray_starts(server, arguments, message, capsys):
    port = str(server.port)
    with pytest.raises(SystemExit) as stopped:
        main(["serve", *(argument.format(port=port) for argument in arguments)])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert message.format(port=port) in lines[-1] and len(lines) <= 2


def test_a_replica_reports_a_model_that_it_cannot_load(tmp_path):
    """Ray would start a replica again and again whose constructor raises an error."""
    from prott5nv.scale.model_replica import ModelReplica

    (tmp_path / "model").mkdir()
    replica = ModelReplica(str(tmp_path / "model"), {})
    with pytest.raises(ProtT5nvError, match=r"config\.json"):
        asyncio.run(replica.describe())


def test_a_token_must_be_long(tmp_path, capsys):
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(SystemExit):
        main(["serve", "--token-file", str(tmp_path / "token")])
    error = capsys.readouterr().err
    assert "at least 16 ASCII characters" in error and "short" not in error


def test_sigterm_answers_active_requests_and_leaves_no_process(server):
    """This is the last test of the shared server."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert children
    slow = start_large_answer(server, 19_999)
    assert slow.recv(1, socket.MSG_PEEK)  # The answer is on its way.
    scan = start_scan(server, 300)
    wait_until(lambda: active(server) == 1, 60)
    server.process.send_signal(signal.SIGTERM)
    assert len(json.loads(scan.getresponse().read())["scores"]) == 300
    if sys.platform == "linux":
        with pytest.raises(subprocess.TimeoutExpired):  # It waits for the client that has not read its answer yet.
            server.process.wait(5)
        with slow.makefile("rb") as answer:
            assert len(json.loads(answer.read().partition(b"\r\n\r\n")[2])["proteins"][0]["embedding"]) == 19_999
    slow.close()
    assert server.process.wait(120) == 0
    wait_until(lambda: not any(process.is_running() for process in children), 60)
    assert not (server.log.parent / ".ray").exists()  # Ray has written no token to the home folder.
    log = server.log.read_text()
    assert "stopping; answering accepted requests first" in log
    others = [line for line in log.splitlines() if not line.startswith(("prott5nv: ", "http://"))]
    assert all("A worker died" in line for line in others)  # Ray reports the process that a test has killed
