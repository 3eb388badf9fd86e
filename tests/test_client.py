"""Tests of the client with a server of the standard library; tests/scale/test_server.py has those with the real one."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from prott5nv import Client, ProtT5nvError
from prott5nv.io.cleaning import InputWarning

HIDDEN_SIZE = 2


class Handler(BaseHTTPRequestHandler):
    """Answers with the entries of ``server.answers`` first; then each row of a protein is the length of the protein."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), json.loads(body)))
        self.answer(lambda: self.rows(json.loads(body)))

    def do_GET(self):
        self.answer(lambda: json.dumps({"limits": {"residues": 12}, "model": {"hidden_size": HIDDEN_SIZE}}).encode())

    def answer(self, default):
        status, headers, content = self.server.answers.pop(0) if self.server.answers else (200, {}, default())
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def rows(self, request):
        lengths = [len(record["sequence"]) for record in request["records"]]
        header = {
            "dtype": request["format"], "hidden_size": HIDDEN_SIZE, "notes": ["the request: changed"],
            "ids": [record["id"] for record in request["records"]],
            "rows": [1 if request["pooling"] else length for length in lengths],
            "truncated_from": [length if length > 8 else None for length in lengths],
        }  # fmt: skip
        rows = [np.full((count, HIDDEN_SIZE), length) for count, length in zip(header["rows"], lengths, strict=True)]
        return json.dumps(header).encode() + b"\n" + np.concatenate(rows).astype(request["format"]).tobytes()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.answers = [], []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore::prott5nv.io.cleaning.InputWarning")
def test_many_proteins_are_sent_in_requests_under_the_limit(server):
    sequences = ["MKV", "MKVLAV", "M" * 30, "MK", "MKVL"]
    rows = Client(server.url).embed(sequences)
    assert [row.shape for row in rows] == [(len(sequence), HIDDEN_SIZE) for sequence in sequences]
    assert [row[0, 0] for row in rows] == [len(sequence) for sequence in sequences]
    sent = [[record["id"] for record in body["records"]] for _, _, body in server.requests]
    assert sent == [["sequence 1", "sequence 2"], ["sequence 3"], ["sequence 4", "sequence 5"]]


@pytest.mark.filterwarnings("ignore::prott5nv.io.cleaning.InputWarning")
def test_results_have_the_shape_and_type_that_was_chosen(server):
    client = Client(server.url)
    means = client.embed(["MKV", "MK"], "mean", dtype="float16")
    assert means.dtype == np.float16 and means.tolist() == [[3, 3], [2, 2]]
    means[0] = 0  # The array can be changed.
    assert client.embed([], "mean").shape == (0, HIDDEN_SIZE) and client.embed([]) == []
    assert client.seqs_to_embedding(["MKV"]).tolist() == [[3, 3]]
    assert [rows.shape for rows in client.seqs_to_hidden(["MKV"])] == [(3, HIDDEN_SIZE)]


def test_changes_of_sequences_are_warnings(server):
    with pytest.warns(InputWarning) as caught:
        Client(server.url).embed(["M" * 9, "M" * 10, "MK"])
    assert [str(warning.message) for warning in caught] == [
        "the request: changed",
        "longer than the model accepts, truncated to their first residues: sequence 1 (9), sequence 2 (10)",
    ]


def test_the_token_is_sent_but_not_shown(server):
    client = Client(server.url, "the-token")
    server.answers += [(200, {}, b'{"variants": []}')]
    client.score("MKV", ["M1A"])
    path, headers, body = server.requests[0]
    assert (path, headers["Authorization"], body["variants"]) == ("/score", "Bearer the-token", ["M1A"])
    assert "the-token" not in repr(client)


def test_scores_of_all_substitutions_are_an_array(server):
    answer = {"sequence": "MX", "amino_acids": "AM", "scores": [[-1.5, 0.0], [None, None]]}
    server.answers += [(200, {}, json.dumps(answer).encode())]
    result = Client(server.url).score("MX")
    assert (result.sequence, result.amino_acids) == ("MX", "AM")
    np.testing.assert_array_equal(result.scores, np.array([[-1.5, 0], [np.nan, np.nan]], np.float32))


def test_a_busy_server_is_asked_again(server):
    busy = json.dumps({"error": {"message": "the server is busy"}}).encode()
    server.answers += [(429, {"Retry-After": "0"}, busy), (503, {"Retry-After": "0"}, busy)]
    assert Client(server.url).info()["limits"]
    server.answers += [(429, {"Retry-After": "5"}, busy)]
    with pytest.raises(ProtT5nvError, match="the server is busy"):
        Client(server.url, patience=1).info()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((422, {}, b'{"error": {"message": "record 1 (P1): no"}}'), r"http://[\d.:]+: record 1 \(P1\): no"),
        ((502, {}, b"<html>"), "status 502 Bad Gateway"),
        ((200, {"Content-Length": "1000"}, b"{"), "the connection broke off"),
        ((302, {"Location": "http://127.0.0.1:9/"}, b""), "status 302"),  # where the token must not go
    ],
)
def test_errors_have_the_message_of_the_server(server, answer, message):
    server.answers += [answer]
    with pytest.raises(ProtT5nvError, match=message):
        Client(server.url, timeout=5).info()


def test_an_incomplete_answer_is_an_error(server):
    client = Client(server.url)
    line = {"dtype": "float32", "hidden_size": 2, "notes": [], "ids": ["a"], "rows": [2], "truncated_from": [None]}
    server.answers += [
        (200, {}, b'{"limits": {"residues": 12}}'),
        (200, {}, json.dumps(line).encode() + b"\n" + b"\0" * 8),
    ]
    with pytest.raises(ProtT5nvError, match="incomplete"):
        client.embed(["MK"])


def test_errors_before_anything_is_sent():
    with pytest.raises(ProtT5nvError, match="is not an address"):
        Client("localhost:8000")
    client = Client("http://127.0.0.1:9")
    with pytest.raises(ProtT5nvError, match=r"127.0.0.1:9: Connection refused"):
        client.info()
    with pytest.raises(ProtT5nvError, match="pass a list"):
        client.score("MKV", "M1A")
    with pytest.raises(ProtT5nvError, match="dtype='float64'"):
        client.embed(["MK"], dtype="float64")


def test_the_client_needs_neither_pytorch_nor_ray():
    code = "import sys; from prott5nv import Client; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
