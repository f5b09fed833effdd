"""The server as a process: it listens, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from langwright.base import UserError
from langwright.generate import Engine
from langwright.serve.app import create_app
from langwright.serve.config import ServeConfig
from langwright.serve.server import Server

MOST_HEADER_BYTES = 65_536
LAST_SECONDS = 5  # for sending what was cut off


def run(engine: Engine, config: ServeConfig, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C: then take no more requests, let those that run end or cut them
    after `drain_seconds`, and return. A second signal cuts at once.

    Args:
        engine: nobody else may step it.
        config: where and for whom.
        ready: told the address once the server listens.

    Raises:
        UserError: the address is taken, the keys are no good, the model has no tokenizer.
    """
    Serving(engine, config).run(ready)


class _Protocol(H11Protocol):
    """Closes connections that bring no whole head of a request in time; uvicorn waits for ever."""

    seconds = 30.0  # set for the process by `run`

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.seconds, self._look, None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self, before: object) -> None:
        """Close where no head is whole since the last look. Quiet connections are uvicorn's: it
        has a timer for them, which the first byte of the next request ends."""
        done = self.cycle is not None and self.cycle.response_complete
        begun = self.cycle if done and self.timeout_keep_alive_task is None else None
        if self.cycle is None or (begun is not None and begun is before):
            self.transport.close()
            return
        self._timer = self.loop.call_later(self.seconds, self._look, begun)


class _Process(uvicorn.Server):
    """uvicorn, which leaves the signals to us: with its own way the exit code is not 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Serving:
    """One life of the server; arguments as in `run`."""

    def __init__(self, engine: Engine, config: ServeConfig) -> None:
        app = create_app(engine, config)
        self._server: Server = app.state.server
        self._config = config
        self._ending = False
        self._process = _Process(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=round(config.idle_seconds),
                timeout_graceful_shutdown=int(config.drain_seconds) + LAST_SECONDS,
                lifespan="on",
                http=type("Protocol", (_Protocol,), {"seconds": config.body_seconds}),
                ws="none",
                h11_max_incomplete_event_size=MOST_HEADER_BYTES,
                limit_concurrency=config.connections,
            )
        )

    def run(self, ready: Callable[[str], None] | None = None) -> None:
        """Listen, serve and end."""
        place = _listen(self._config)
        try:
            asyncio.run(self.serve(place, ready))
        finally:
            place.close()

    async def serve(self, place: socket.socket, ready: Callable[[str], None] | None) -> None:
        """Serve until the end."""
        self._loop = asyncio.get_running_loop()
        told = asyncio.ensure_future(self._tell(place, ready))
        with self._signals():
            await self._process.serve(sockets=[place])
        told.cancel()

    async def _tell(self, place: socket.socket, ready: Callable[[str], None] | None) -> None:
        while not self._process.started:
            await asyncio.sleep(0.02)
        host, port = place.getsockname()[:2]
        if ready is not None:
            ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        kinds = (signal.SIGTERM, signal.SIGINT)
        before = {kind: signal.signal(kind, self._on_signal) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _on_signal(self, kind: int, frame: FrameType | None) -> None:
        self.end()

    def end(self) -> None:
        """Begin to end; called again, at once. From any thread."""
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._server.drain()
        if self._ending:
            self._server.cut()
        else:
            self._loop.call_later(self._config.drain_seconds, self._server.cut)
        self._ending = True
        self._process.should_exit = True


def _listen(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    place = socket.socket(family, socket.SOCK_STREAM)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((config.host, config.port))
    except OSError as error:
        place.close()
        raise UserError(
            f"cannot listen there: {error.strerror or error}",
            where=f"{config.host}:{config.port}",
            fix="choose another --port, or end the program that has it",
        ) from None
    return place
