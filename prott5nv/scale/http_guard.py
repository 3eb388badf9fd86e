"""The layer around the HTTP interface: checks the token, counts requests and refuses bodies that are too large."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prott5nv.scale.http_api import Api

#: Paths that need no token. The pages are the same for everyone, and ask for it.
OPEN_PATHS = ("/", "/docs", "/health", "/openapi.json")


class Guard:
    """ASGI middleware.

    Parameters
    ----------
    app : callable
        The application.
    api : Api
        State of the server.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], api: Api) -> None:
        self._app, self._api = app, api

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499  # no answer, because the client hung up

        async def send_counted(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if refusal := self._refusal(scope):
                await _refuse(send_counted, *refusal)
            else:
                await self._app(scope, receive, send_counted)
        except Exception:
            status = 500  # The layer around this one answers.
            raise
        finally:
            self._api.metrics.count(scope["path"], status, time.perf_counter() - start)

    def _refusal(self, scope: dict[str, Any]) -> tuple[int, str] | None:
        """Return why a request is refused before its body is read."""
        headers = dict(scope["headers"])
        if scope["path"] not in OPEN_PATHS and not self._may(headers.get(b"authorization", b"")):
            return 401, "this server needs a token: send it in the header Authorization: Bearer TOKEN"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._api.limits.body_bytes:
            return 413, f"the body has {int(length[:20]):,} bytes; this server accepts {self._api.limits.body_bytes:,}"
        return None

    def _may(self, authorization: bytes) -> bool:
        expected = self._api.token_digest
        if expected is None:
            return True
        kind, _, token = authorization.partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        return hmac.compare_digest(digest, expected) and kind.lower() == b"bearer"


async def _refuse(send: Any, status: int, message: str) -> None:
    error = {"error": {"message": message, "type": "invalid_request_error", "record": None}}
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error).encode()})
