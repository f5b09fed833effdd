"""Answers that come piece by piece (server-sent events), and clients that leave.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from langwright.serve.config import ServeConfig
from langwright.serve.errors import ApiError, inner_error, log_bug
from langwright.serve.generation import Generation

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
PING = b": still here\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the pieces
]


class ClientLeft(Exception):
    """The client has closed the connection; nobody reads the answer."""


async def unless_left(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is given up as soon as the client leaves (`ClientLeft`).

    The body must have been read.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


class Work(Protocol):
    """A request that is answered whole or in chunks."""

    generation: Generation

    async def whole(self) -> Response:
        """The whole answer."""
        ...

    async def start(self) -> None:
        """All that can fail before the first chunk."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The answer, piece by piece."""
        ...


async def respond(
    request: Request, work: Work, stream: bool | None, config: ServeConfig
) -> Response:
    """The answer of `work` in the form that was asked for; given up when the client leaves."""
    if not stream:
        return await unless_left(request, work.whole())
    await unless_left(request, work.start())
    return EventStream(
        work.chunks(),
        work.generation.close,
        ping_seconds=config.ping_seconds,
        send_seconds=config.send_seconds,
    )


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends chunks as they come; the status waits for the first one, so that an early failure is
    an ordinary error.

    Args:
        chunks: JSON as bytes, one for each event.
        close: called once at the end, with "done", "left" or "error".
        ping_seconds: silence after which a comment is sent.
        send_seconds: time in which the client must take a piece.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        close: Callable[[str], None],
        *,
        ping_seconds: float,
        send_seconds: float,
    ) -> None:
        self._chunks, self._close = chunks, close
        self._ping, self._patience = ping_seconds, send_seconds
        self.status_code = 200
        self.background = None
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = "left"
        pump = asyncio.ensure_future(self._pump(scope, receive, send))
        watch = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({pump, watch}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                outcome = pump.result()
        except (OSError, TimeoutError):  # the connection broke, or nobody took the pieces
            outcome = "left"
        finally:
            for one in (pump, watch):
                one.cancel()
            self._close(outcome)
            await asyncio.gather(pump, watch, return_exceptions=True)

    async def _pump(self, scope: Scope, receive: Receive, send: Send) -> str:
        coming = asyncio.ensure_future(anext(self._chunks))
        try:
            while True:
                done, _ = await asyncio.wait({coming}, timeout=self._ping)
                if not done:
                    await self._send(send, PING)
                    continue
                try:
                    chunk = coming.result()
                except StopAsyncIteration:
                    await self._send(send, DONE, last=True)
                    return "done"
                await self._send(send, b"data: " + chunk + b"\n\n")
                coming = asyncio.ensure_future(anext(self._chunks))
        except ApiError as error:
            await self._fail(error, scope, receive, send)
        except (OSError, TimeoutError):
            raise
        except Exception as error:
            log_bug("a stream failed", error)
            await self._fail(inner_error(), scope, receive, send)
        finally:
            coming.cancel()
            with contextlib.suppress(BaseException):
                await coming
        return "error"

    async def _fail(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._begun:
            await error.response()(scope, receive, send)
            return
        body = json.dumps(error.body(), separators=(",", ":")).encode()
        await self._send(send, b"data: " + body + b"\n\n", last=True)

    async def _send(self, send: Send, data: bytes, last: bool = False) -> None:
        async with asyncio.timeout(self._patience):
            if not self._begun:
                self._begun = True
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await send({"type": "http.response.body", "body": data, "more_body": not last})
