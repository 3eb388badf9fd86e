"""The layer around the HTTP interface.

It checks the token, counts requests, refuses bodies that are too large, and stops the work for clients that hang up.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from prott5nv.scale.http_responses import RETRY_SECONDS, error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from fastapi import Response

    from prott5nv.scale.http_api import Api

#: Status of a request whose client hung up, in the counters. It is never sent.
NO_ANSWER = 499

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
        start, status = time.perf_counter(), NO_ANSWER

        async def send_counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if refusal := self._refusal(scope):
                # The connection stays open, so uvicorn reads and drops the body. Otherwise, clients that still send it
                # would see no answer.
                await refusal(scope, receive, send_counted)
            else:
                await _while_connected(self._app, scope, receive, send_counted)
        except asyncio.CancelledError:  # The server stops, and waits no longer.
            if status == NO_ANSWER:
                answer = error(503, "the server is stopping", retry_after=RETRY_SECONDS)
                await answer(scope, receive, send_counted)
        except Exception:
            status = 500  # The layer around this one answers.
            raise
        finally:
            self._api.metrics.count(scope["path"], status, time.perf_counter() - start)

    def _refusal(self, scope: dict[str, Any]) -> Response | None:
        """Return the answer to a request that is refused before its body is read."""
        headers = dict(scope["headers"])
        if scope["path"] not in OPEN_PATHS and not self._may(headers.get(b"authorization", b"")):
            return error(401, "this server needs a token: send it in the header Authorization: Bearer TOKEN")
        length, limit = headers.get(b"content-length", b"0"), self._api.limits.body_bytes
        if length.isdigit() and int(length[:20]) > limit:
            return error(413, f"the body has {int(length[:20]):,} bytes; this server accepts {limit:,}")
        return None

    def _may(self, authorization: bytes) -> bool:
        expected = self._api.token_digest
        if expected is None:
            return True
        kind, _, token = authorization.partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        return hmac.compare_digest(digest, expected) and kind.lower() == b"bearer"


async def _while_connected(app: Callable[..., Awaitable[None]], scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Run the application; cancel it if the client hangs up before it has the answer."""
    is_received, is_sent = asyncio.Event(), False

    async def receive_part() -> dict[str, Any]:
        message: dict[str, Any] = await receive()
        if not message.get("more_body"):
            is_received.set()
        if message["type"] == "http.disconnect":
            await asyncio.Future()  # until this is cancelled
        return message

    async def send_part(message: dict[str, Any]) -> None:
        nonlocal is_sent
        is_sent = message["type"] == "http.response.body" and not message.get("more_body")
        await send(message)

    async def hang_up() -> None:
        await is_received.wait()
        while (await receive())["type"] != "http.disconnect":
            pass

    work, end = asyncio.ensure_future(app(scope, receive_part, send_part)), asyncio.ensure_future(hang_up())
    try:
        await asyncio.wait({work, end}, return_when=asyncio.FIRST_COMPLETED)
        if not is_sent:
            work.cancel()  # has no effect if it has failed
        with suppress(asyncio.CancelledError):
            await work
    finally:
        work.cancel()
        end.cancel()
