"""Tests of the HTTP interface without Ray: the checks of requests, and the application with a model in this process."""

import asyncio
import hashlib
import json

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from prott5nv import Cleaning, Embedder, ModelConfig, ProtT5
from prott5nv.scale import http_requests
from prott5nv.scale.http_api import Api, ReplicaLostError, create_app
from prott5nv.scale.http_requests import EmbedRequest, Limits, OpenAIRequest, RequestError, ScoreRequest
from prott5nv.scale.model_info import ModelInfo, Refused

HIDDEN_SIZE = 3


@pytest.fixture(scope="module")
def tokenizer():
    return Embedder(ProtT5(ModelConfig.preset("tiny"))).tokenizer


class FakeModels:
    """Every row of a protein is its length. Calls are counted; the first ones fail if they should."""

    def __init__(self, tokenizer):
        self.info = ModelInfo(
            "tiny", "tiny 123", "123", "CPU", {"layer": "last"}, 10, HIDDEN_SIZE, 20, True, False, tokenizer
        )
        self.calls, self.failures, self.gate = [], [], None

    async def describe(self):
        return self.info

    async def embed(self, group):
        self.calls.append(group)
        if self.failures:
            raise self.failures.pop()
        if self.gate:
            await self.gate.wait()
        return [
            Refused("NaN") if sequence == "WWW"
            else np.full(HIDDEN_SIZE if group.pooling else (len(sequence), HIDDEN_SIZE), len(sequence), group.dtype)
            for _, sequence, *_ in group.records
        ]  # fmt: skip

    async def score(self, query):
        return np.zeros((len(query.record.sequence), 20), np.float32)


@pytest.fixture
def models(tokenizer):
    return FakeModels(tokenizer)


def make_api(models, token=None, **limits):
    digest = hashlib.sha256(token.encode()).digest() if token else None
    return Api(models, models.info, Limits(**limits), digest)


async def call(api, path, body=None, headers=(), parts=None, hang_up=None):
    """Send one request to the application; return status, headers and body.

    The event `hang_up` ends the connection; the result is None if that is before the answer.
    """
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    pending = list(parts or [data])

    async def receive():
        if pending:
            part = pending.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(pending) or parts is not None}
        await (hang_up or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    sent = []

    async def send(message):
        sent.append(message)

    all_headers = [*headers, (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "GET" if body is None and parts is None else "POST", "path": path,
             "raw_path": path.encode(), "query_string": b"", "headers": all_headers, "http_version": "1.1",
             "scheme": "http", "server": ("test", 80), "client": ("test", 1), "root_path": ""}  # fmt: skip
    await create_app(api)(scope, receive, send)
    if not sent:
        return None
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), content


def post(api, path, body, **options):
    status, headers, content = asyncio.run(call(api, path, body, **options))
    return status, json.loads(content), headers


@pytest.mark.parametrize(
    ("kind", "body", "status", "message", "record"),
    [
        (EmbedRequest, b"{", 400, "not JSON", None),
        (EmbedRequest, b"\xff", 400, "not JSON", None),
        (EmbedRequest, b"[" * 100_000, 400, "recursion limit", None),
        (EmbedRequest, b'{"sequences": [NaN]}', 422, "sequences, item 1", None),
        (EmbedRequest, b'{"sequences": ["\\ud800"]}', 400, "not JSON", None),
        (EmbedRequest, b"null", 422, "must be a JSON object", None),
        (EmbedRequest, b'{"sequences": "MSLKR"}', 422, "sequences: Input should be a valid list", None),
        (EmbedRequest, b'{"sequences": ["MSLKR", 7]}', 422, "sequences, item 2: Input should be a valid string", None),
        (EmbedRequest, b'{"records": [{"id": "P1", "sequence": null}]}', 422, "item 1, id P1, sequence", "P1"),
        (EmbedRequest, b'{"records": [{"id": "", "sequence": "MK"}]}', 422, "records, item 1, id: String", None),
        (EmbedRequest, b'{"seqs": []}', 422, "seqs: Extra inputs", None),
        (EmbedRequest, b'{"sequences": ["MK"], "format": "xml"}', 422, "format: Input should be 'json'", None),
        (EmbedRequest, b'{"sequences": ["MK"], "long": "skip"}', 422, "long: Input should be 'truncate'", None),
        (ScoreRequest, b"{}", 422, "sequence: Field required", None),
        (ScoreRequest, b'{"sequence": "MK", "variants": "M1K"}', 422, "variants: Input should be a valid list", None),
        (OpenAIRequest, b'{"input": [[1, 2]]}', 422, "input", None),
    ],
)  # fmt: skip
def test_a_body_that_is_not_such_a_request(kind, body, status, message, record):
    with pytest.raises(RequestError) as refused:
        http_requests.parse(body, kind)
    assert (refused.value.status, refused.value.record) == (status, record)
    assert message in refused.value.message and "\n" not in refused.value.message


def test_a_million_wrong_items_are_one_error():
    with pytest.raises(RequestError, match="sequences, item 1"):
        http_requests.parse(json.dumps({"sequences": [1] * 1_000_000}).encode(), EmbedRequest)


@pytest.mark.parametrize(
    ("body", "status", "message", "record"),
    [
        ({}, 422, "either sequences or records", None),
        ({"sequences": ["MK"], "records": []}, 422, "either sequences or records", None),
        ({"sequences": []}, 422, "no proteins", None),
        ({"sequences": ["MK"], "pooling": "max"}, 422, "pooling: choose 'mean', or null", None),
        ({"sequences": ["MK", "MK1"]}, 422, "record 2 (sequence 2): position 3: '1' is not a residue", "sequence 2"),
        ({"records": [{"id": "P1", "sequence": " "}]}, 422, "record 1 (P1): there is no sequence", "P1"),
        ({"records": [{"id": "P1", "sequence": "M-K"}]}, 422, "record 1 (P1): 1 gap", "P1"),
        ({"sequences": ["ACGT" * 100]}, 422, "nucleotides", None),
        ({"sequences": ["M" * 1000]}, 413, "1,001 residues", None),
        ({"records": [{"id": "P1", "sequence": "M" * 11}], "long": "error"}, 422, "record 1 (P1): 11 residues", "P1"),
        ({"records": [{"id": "P1", "sequence": "MK"}] * 2, "format": "npz"}, 422, "has the id of record 1", "P1"),
        ({"records": [{"id": "P1", "sequence": "WWW"}]}, 422, "record 1: NaN", "P1"),
        ({"sequences": ["M" * 10] * 50}, 413, "1,500 numbers", None),
    ],
)
def test_proteins_that_cannot_be_embedded(models, body, status, message, record):
    actual, answer, _ = post(make_api(models, residues=1000, json_numbers=1000), "/embed", body)
    assert (actual, answer["error"]["record"]) == (status, record)
    assert message in answer["error"]["message"]


def test_cleaning_is_that_of_the_package(tokenizer):
    records = http_requests.as_records([("P1", "MK-V*"), ("P2", "MKV")])
    cleaned, notes = http_requests.clean(records, Cleaning(gaps="remove"), tokenizer, Limits())
    assert [record.sequence for record in cleaned] == ["MKV", "MKV"]
    assert notes == [
        "the request: removed '*' from the end of 1 sequence",
        "the request: removed the gaps of 1 sequence",
    ]
    for _ in range(2):  # each request is told
        _, notes = http_requests.clean(http_requests.as_records([("P1", "mkv")]), Cleaning(), tokenizer, Limits())
        assert notes == ["lower-case residues are read as upper case"]


def test_proteins_are_sent_in_groups_that_fit_into_a_batch(models):
    sequences = ["M" * length for length in (8, 8, 8, 5, 40, 1)]
    status, answer, _ = post(make_api(models), "/embed", {"sequences": sequences, "pooling": "mean"})
    assert status == 200
    assert [group.residues for group in models.calls] == [16, 13, 41]  # of the long protein, 10 residues are embedded
    assert [protein["embedding"] for protein in answer["proteins"]] == [[len(each)] * 3 for each in sequences]
    assert [protein["truncated_from"] for protein in answer["proteins"]] == [None] * 4 + [40, None]


def test_scores_that_would_take_too_long(models):
    api = make_api(models, score_residues=100)
    assert post(api, "/score", {"sequence": "M" * 10})[0] == 200
    status, answer, _ = post(api, "/score", {"id": "P1", "sequence": "M" * 11})
    assert status == 413 and "110 residues" in answer["error"]["message"] and answer["error"]["record"] == "P1"
    assert post(api, "/score", {"sequence": "M" * 11, "variants": ["M1A"] * 100})[0] == 413


def test_the_body_is_limited_before_and_while_it_is_read(models):
    api = make_api(models, residues=10)
    status, answer, _ = post(api, "/embed", b"{}", headers=[(b"content-length", b"9" * 30)])
    assert status == 413 and "accepts 100,160" in answer["error"]["message"]
    status, _, content = asyncio.run(call(api, "/embed", parts=[b"x" * 60_000] * 2))
    assert status == 413 and b"more than 100,160 bytes" in content


def test_a_slow_body_ends(models):
    status, _, content = asyncio.run(call(make_api(models, body_seconds=0.1), "/embed", parts=[b"{"]))
    assert status == 408 and b"did not arrive within" in content


def test_another_type_than_json_is_refused(models):
    """A page of another site can send such a request without asking."""
    assert post(make_api(models), "/embed", b"{}", headers=[(b"content-type", b"text/plain")])[0] == 415


@pytest.mark.parametrize("header", [b"", b"Bearer", b"Bearer wrong", b"Basic the-token", b"the-token"])
def test_a_wrong_token_is_refused(models, header):
    api = make_api(models, "the-token")
    status, answer, headers = post(api, "/embed", {"sequences": ["MK"]}, headers=[(b"authorization", header)])
    assert status == 401 and headers[b"www-authenticate"] == b"Bearer"
    assert "the-token" not in json.dumps(answer)
    assert not models.calls
    assert post(api, "/health", None)[0] == 200


def test_the_right_token_is_accepted(models):
    right = [(b"authorization", b"Bearer the-token")]
    assert post(make_api(models, "the-token"), "/embed", {"sequences": ["MK"]}, headers=right)[0] == 200


def test_too_many_requests_are_refused_and_counted(models):
    async def scenario():
        models.gate = asyncio.Event()
        api = make_api(models, requests=2)
        hang_up = asyncio.Event()
        first = asyncio.ensure_future(call(api, "/embed", {"sequences": ["MK"]}))
        gone = asyncio.ensure_future(call(api, "/embed", {"sequences": ["MK"]}, hang_up=hang_up))
        while len(models.calls) < 2:
            await asyncio.sleep(0)
        refused = await call(api, "/embed", {"sequences": ["MK"]})
        hang_up.set()  # There is room for another.
        assert await gone is None
        assert api.active == 1
        models.gate.set()
        answered = await first
        _, _, metrics = await call(api, "/metrics")
        return refused, answered, metrics.decode()

    refused, answered, metrics = asyncio.run(scenario())
    assert refused[0] == 429 and refused[1][b"retry-after"] == b"1"
    assert answered[0] == 200
    for line in (
        'prott5nv_requests_total{path="/embed",status="429"} 1.0',
        'prott5nv_requests_total{path="/embed",status="499"} 1.0',
        "prott5nv_hung_up_total 1.0",
        "prott5nv_active_requests 0.0",
    ):
        assert line in metrics


def test_a_client_that_hangs_up_within_the_body_is_counted(models):
    async def scenario():
        api, hang_up = make_api(models), asyncio.Event()
        hang_up.set()
        assert await call(api, "/embed", parts=[b'{"sequ'], hang_up=hang_up) is None
        return (await call(api, "/metrics"))[2].decode()

    assert 'prott5nv_requests_total{path="/embed",status="499"} 1.0' in asyncio.run(scenario())


def test_a_server_that_stops_answers_requests_that_take_too_long(models):
    async def scenario():
        models.gate = asyncio.Event()
        request = asyncio.ensure_future(call(make_api(models), "/embed", {"sequences": ["MK"]}))
        while not models.calls:
            await asyncio.sleep(0)
        request.cancel()  # as uvicorn does
        return await request

    status, headers, body = asyncio.run(scenario())
    assert status == 503 and headers[b"retry-after"] == b"5" and b"the server is stopping" in body


def test_a_lost_replica_is_tried_again_once(models):
    models.failures = [ReplicaLostError()]
    assert post(make_api(models), "/embed", {"sequences": ["MK"]})[0] == 200
    models.failures = [ReplicaLostError(), ReplicaLostError()]
    status, answer, headers = post(make_api(models), "/embed", {"sequences": ["MK"]})
    assert status == 503 and headers[b"retry-after"] == b"5" and "died" in answer["error"]["message"]


def test_unknown_paths_are_counted_together(models):
    api = make_api(models)
    for number in range(3):
        status, answer, _ = post(api, f"/nothing/{number}", None)
        assert status == 404 and "Not Found" in answer["error"]["message"]
    assert 'prott5nv_requests_total{path="other",status="404"} 3.0' in api.metrics.text().decode()


def test_the_pages_load_nothing_from_elsewhere(models):
    for path in "/", "/docs":
        _, headers, content = asyncio.run(call(make_api(models), path))
        assert b"default-src 'none'" in headers[b"content-security-policy"]
        page = content.decode()
        assert not any(word in page for word in ("http:", "https:", "src=", "<link", "@import", "url("))
