"""The HTTP interface of the server, as a FastAPI application that does not depend on Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from prott5nv import __version__
from prott5nv.embedding.batching import batches_of
from prott5nv.embedding.pooling import POOLINGS
from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record
from prott5nv.io.text import shortened
from prott5nv.scale import http_responses as responses
from prott5nv.scale.http_guard import Guard
from prott5nv.scale.http_metrics import Metrics
from prott5nv.scale.http_requests import (
    OPENAI_POOLING,
    EmbedRequest,
    Limits,
    OpenAIRequest,
    RequestError,
    ScoreRequest,
    as_records,
    check_lengths,
    check_score,
    check_unique,
    clean,
    embed_records,
    parse,
)
from prott5nv.scale.http_responses import Embedded
from prott5nv.scale.model_info import Group, ModelInfo, Models, Refused, ScoreQuery, Scores

_HEALTH_SECONDS = 2.0
_PAGES = Path(__file__).parent / "pages"
# The pages load nothing from elsewhere, and no other site can show them in a frame.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_DESCRIPTION = (
    'Embeddings and scores of proteins. All errors are JSON: {"error": {"message", "type", "record"}}, where '
    "record is the id of the protein at fault."
)
_Query = TypeVar("_Query")
_Result = TypeVar("_Result")


class ReplicaLostError(Exception):
    """The process with the model died while it computed, or there is none."""


@dataclass
class Api:  # numpydoc ignore=PR02
    """State of the server.

    Parameters
    ----------
    models : Models
        The replicas of the model. Their methods raise `ReplicaLostError` if a replica dies.
    info : ModelInfo
        What is known of the model.
    limits : Limits
    token_digest : bytes, optional
        SHA-256 of the token that requests must have. By default, all requests are answered.
    """

    models: Models
    info: ModelInfo
    limits: Limits
    token_digest: bytes | None = None
    metrics: Metrics = field(default_factory=Metrics)
    active: int = 0

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Count a request as active until the block ends.

        Raises
        ------
        RequestError
            If too many requests are active.
        """
        if self.active >= self.limits.requests:
            raise RequestError(
                429, f"the server is busy with {self.active} requests; try again in a moment", retry_after=1
            )
        self.active += 1
        self.metrics.active.set(self.active)
        try:
            yield
        except asyncio.CancelledError:
            self.metrics.hung_up.inc()
            raise
        finally:
            self.active -= 1
            self.metrics.active.set(self.active)

    async def embed(
        self, records: Sequence[Record], notes: list[str], pooling: str | None, long: str, dtype: str = "float32"
    ) -> Embedded:
        """Embed clean proteins, in groups that fit into a batch."""
        info = self.info
        self.metrics.residues.inc(sum(len(record.sequence) for record in records))

        def length_of(record: Record) -> int:
            length = len(record.sequence)
            return length if long == "window" or info.limit is None else min(length, info.limit)

        groups = [Group(batch, pooling, long, dtype) for batch in batches_of(records, length_of, info.batch_residues)]
        results = await asyncio.gather(*(self._retried(self.models.embed, group) for group in groups))
        rows = []
        for record, result in zip(records, (result for group in results for result in group), strict=True):
            if isinstance(result, Refused):
                raise RequestError(422, f"record {record.line}: {result.message}", record=record.id)
            rows.append(result)
        truncated = [
            len(record.sequence) if long == "truncate" and info.limit and len(record.sequence) > info.limit else None
            for record in records
        ]
        return Embedded(list(records), rows, truncated, notes, pooling, long, info)

    async def score(self, query: ScoreQuery) -> Scores:
        """Score a clean protein."""
        return await self._retried(self.models.score, query)

    async def _retried(self, compute: Callable[[_Query], Awaitable[_Result]], query: _Query) -> _Result:
        """Compute once more if the replica died, because another one may be there."""
        try:
            return await compute(query)
        except ReplicaLostError:
            return await compute(query)


def create_app(api: Api) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    api : Api

    Returns
    -------
    FastAPI
    """
    app = FastAPI(title="prott5nv", version=__version__, description=_DESCRIPTION, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, api=api)
    app.exception_handler(RequestError)(_on_request_error)
    app.exception_handler(ReplicaLostError)(_on_lost_replica)
    for status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        app.exception_handler(status)(_on_other_path(status))
    app.exception_handler(ProtT5nvError)(_on_fault)
    app.exception_handler(Exception)(_on_unexpected)
    app.add_route("/", _page("index.html"), include_in_schema=False)
    app.add_route("/docs", _page("api.html"), include_in_schema=False)
    _add_status(app, api)
    _add_embedding(app, api)
    _add_scoring(app, api)
    return app


def _page(name: str) -> Callable[[Request], Awaitable[Response]]:
    content = (_PAGES / name).read_bytes()

    async def show(request: Request) -> Response:
        return Response(content, media_type=responses.HTML, headers=_PAGE_HEADERS)

    return show


def _add_status(app: FastAPI, api: Api) -> None:
    @app.get("/health", summary="Whether the server can compute", response_model=None)
    async def health() -> Response:
        try:
            await asyncio.wait_for(api.models.describe(), _HEALTH_SECONDS)
        except (asyncio.TimeoutError, ReplicaLostError):
            return responses.error(503, "no process with the model is ready", retry_after=responses.RETRY_SECONDS)
        return JSONResponse({"status": "ok"})

    @app.get("/info", summary="Model and limits", response_model=None)
    async def info() -> dict[str, Any]:
        model, limits = api.info, api.limits
        return {
            "version": __version__,
            "model": {
                "name": model.name,
                "label": model.label,
                "sha256": model.sha256,
                "hidden_size": model.hidden_size,
                "max_length": model.limit,
                "can_score": model.can_score,
                "hardware": model.hardware,
                "is_builtin": model.is_builtin,
            },
            "poolings": list(POOLINGS),
            "formats": ["json", "npz", "float16", "float32"],
            "limits": {
                "body_bytes": limits.body_bytes,
                "residues": limits.residues,
                "score_residues": limits.score_residues,
                "requests": limits.requests,
                "json_numbers": limits.json_numbers,
            },
        }

    @app.get("/metrics", summary="Counters for Prometheus", response_model=None)
    async def metrics() -> Response:
        return Response(api.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_embedding(app: FastAPI, api: Api) -> None:
    @app.post("/embed", summary="Embed proteins", response_model=None, openapi_extra=_body(EmbedRequest))
    async def embed(request: Request) -> Response:
        body = parse(await _read(request, api.limits), EmbedRequest)
        async with api.admitted():
            info = api.info
            records, notes = clean(embed_records(body), body.cleaning, info.tokenizer, api.limits)
            check_lengths(records, info.limit, body.long)
            if body.format == "npz":
                check_unique(records)
            dtype = "float16" if body.format == "float16" else "float32"
            embedded = await api.embed(records, notes, body.pooling, body.long, dtype)
            if body.format == "json":
                return await _in_thread(lambda: responses.as_json(embedded, api.limits), responses.JSON)
            if body.format == "npz":
                return await _in_thread(lambda: responses.as_npz(embedded), responses.NPZ, "embeddings.npz")
            return await _in_thread(lambda: responses.as_raw(embedded, dtype), responses.RAW)

    @app.post(
        "/v1/embeddings", summary="Embed proteins, in OpenAI's shape", response_model=None,
        openapi_extra=_body(OpenAIRequest),
    )  # fmt: skip
    async def openai_embeddings(request: Request) -> Response:
        body = parse(await _read(request, api.limits), OpenAIRequest)
        async with api.admitted():
            info = api.info
            if body.model not in (None, info.name, info.label):
                raise RequestError(404, f"no model {shortened(body.model)!r}: this server has {info.name!r}")
            if body.dimensions not in (None, info.hidden_size):
                raise RequestError(422, f"dimensions: this model has {info.hidden_size}")
            inputs = [body.input] if isinstance(body.input, str) else body.input
            records = as_records([(f"input {number}", sequence) for number, sequence in enumerate(inputs, 1)])
            records, notes = clean(records, EmbedRequest().cleaning, info.tokenizer, api.limits)
            embedded = await api.embed(records, notes, OPENAI_POOLING, "truncate")
            return await _in_thread(lambda: responses.as_openai(embedded, body.encoding_format), responses.JSON)


def _add_scoring(app: FastAPI, api: Api) -> None:
    @app.post("/score", summary="Score variants or all substitutions", response_model=None,
              openapi_extra=_body(ScoreRequest))  # fmt: skip
    async def score(request: Request) -> Response:
        body = parse(await _read(request, api.limits), ScoreRequest)
        if body.format == "html" and body.variants is not None:
            raise RequestError(422, "format: a page shows all substitutions; leave out variants")
        async with api.admitted():
            info = api.info
            if not info.can_score or info.limit is None:
                raise RequestError(422, f"the model {info.name} has no decoder, so it cannot score")
            pair = [Record(body.id, body.sequence, body.id, 1)]
            [record], notes = clean(pair, body.cleaning, info.tokenizer, api.limits)
            check_score(body, len(record.sequence), info.limit, api.limits)
            scores = await api.score(ScoreQuery(record, body.variants))
            if isinstance(scores, Refused):
                raise RequestError(422, scores.message, record=record.id)
            if isinstance(scores, np.ndarray):
                matrix_LA = scores
                if body.format == "html":
                    return await _in_thread(lambda: responses.heat_map_page(record, matrix_LA, info), responses.HTML)
                return await _in_thread(
                    lambda: responses.substitutions_as_json(record, matrix_LA, notes, info), responses.JSON
                )
            return Response(responses.variants_as_json(record, scores, notes, info), media_type=responses.JSON)


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    """Describe the body of a request in the OpenAPI schema. It is parsed after its size was checked."""
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def _read(request: Request, limits: Limits) -> bytes:
    """Return the body of a request, which must be small and arrive in time.

    Raises
    ------
    RequestError
        If it is too large or too slow, or not declared as JSON. Browsers let other sites send requests to this server
        without asking, but not with this type.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != responses.JSON:
        raise RequestError(415, "send JSON with the header Content-Type: application/json")
    body = bytearray()

    async def receive() -> None:
        async for part in request.stream():
            body.extend(part)
            if len(body) > limits.body_bytes:
                raise RequestError(413, f"the body has more than {limits.body_bytes:,} bytes")

    try:
        await asyncio.wait_for(receive(), limits.body_seconds)
    except asyncio.TimeoutError:
        raise RequestError(408, f"the body did not arrive within {limits.body_seconds:.0f} seconds") from None
    return bytes(body)


async def _in_thread(build: Callable[[], bytes], media_type: str, name: str = "") -> Response:
    """Build a response while other requests go on."""
    content = await asyncio.to_thread(build)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'} if name else None
    return Response(content, media_type=media_type, headers=headers)


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return responses.error(error.status, error.message, record=error.record, retry_after=error.retry_after)


async def _on_lost_replica(request: Request, error: Exception) -> Response:
    return responses.error(
        503, "the process with the model died; it is started again", retry_after=responses.RETRY_SECONDS
    )


async def _on_fault(request: Request, error: Exception) -> Response:
    """Report an error of the server itself, such as a model file that is missing after a restart."""
    return responses.error(503, str(error))


def _on_other_path(status: HTTPStatus) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        return responses.error(status, f"{request.method} {shortened(request.url.path)}: {status.phrase}; see /docs")

    return answer


async def _on_unexpected(request: Request, error: Exception) -> Response:
    return responses.error(500, "the server has an internal error, which its log describes")
