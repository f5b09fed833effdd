"""The engine's own thread, and how its events reach the event loop.

event loop ── submit, cancel, call ──▶ engine thread: step, step, step ...
    ▲                                        │
    └──────── the events of a step ──────────┘
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from langwright.generate import Engine, Event, Request, SamplingParams
from langwright.serve.errors import log_bug

T = TypeVar("T")

IDLE_SECONDS = 1.0  # between looks at whether to stop
MOST_FAILURES = 5  # steps in a row that raise: then the engine is given up


class EngineEnded(Exception):
    """The engine was given up or stopped; nothing can be asked of it."""


class Stream:
    """The events of some requests, for one task of the event loop."""

    def __init__(self, thread: EngineThread) -> None:
        self._thread = thread
        self._events: deque[tuple[int, Event]] = deque()
        self._news = asyncio.Event()
        self.requests: list[Request] = []
        self.closed = False

    def submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        deadline: float | None = None,
        salt: str = "",
    ) -> None:
        """Ask for answers to one more prompt; from any thread. Its events carry its number."""
        number = len(self.requests)
        request = self._thread.submit(self, number, prompt, params, deadline, salt)
        self.requests.append(request)
        if self.closed:  # the client left meanwhile
            self._thread.cancel(request)

    async def take(self, seconds: float | None) -> list[tuple[int, Event]]:
        """What has come since the last call, as (number of the prompt, event); waits for
        something. Raises TimeoutError when nothing comes in time."""
        async with asyncio.timeout(seconds):
            while not self._events:
                self._news.clear()
                await self._news.wait()
        taken = list(self._events)
        self._events.clear()
        return taken

    def put(self, number: int, event: Event) -> None:
        """One more event; in the event loop's thread."""
        self._events.append((number, event))
        self._news.set()

    def close(self) -> None:
        """Nobody reads any more: the requests give their memory back within one step."""
        self.closed = True
        for request in self.requests:
            if not request.finished:
                self._thread.cancel(request)


class EngineThread:
    """Steps the engine as long as there is work; survives steps that raise."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dead: str | None = None  # why the engine was given up
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._jobs: deque[Callable[[], None]] = deque()
        self._outbox: list[tuple[Stream, int, Event]] = []
        self._open: dict[Request, tuple[Stream, int]] = {}
        self._lock = threading.Lock()  # of `_open`
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to step; events go to this loop."""
        self._loop = loop
        self._thread.start()

    def stop(self, seconds: float = 10.0) -> None:
        """End the thread; what still runs is cancelled."""
        self.cancel_all("the server is shutting down")
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def step_seconds(self) -> float:
        """How long the present step has taken so far."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def submit(
        self,
        stream: Stream,
        number: int,
        prompt: Sequence[int],
        params: SamplingParams,
        deadline: float | None,
        salt: str,
    ) -> Request:
        """Ask the engine; from any thread. Raises as `Engine.submit` does, and `EngineEnded`."""
        request = self.engine.submit(
            prompt,
            params,
            on_token=partial(self._collect, stream, number),
            deadline=deadline,
            salt=salt,
        )
        with self._lock:
            if self.dead is not None:
                raise EngineEnded(self.dead)
            if not request.finished:
                self._open[request] = (stream, number)
        self._wake.set()
        return request

    def cancel(self, request: Request, error: str | None = None) -> None:
        """End a request within one step; from any thread."""
        self.engine.cancel(request, error)
        self._wake.set()

    def cancel_all(self, error: str) -> None:
        """End all requests within one step."""
        with self._lock:
            requests = list(self._open)
        for request in requests:
            self.cancel(request, error)

    async def call(self, job: Callable[[], T]) -> T:
        """Run something that uses the model between two steps."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = job()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._jobs.append(run)
        self._wake.set()
        if self.dead is not None:
            self._fail_jobs()
        return await asyncio.wrap_future(future)

    # ---- in the engine's thread ----

    def _run(self) -> None:
        failures = 0
        while not self._stopping:
            self._wake.clear()
            try:
                self._step_began = time.monotonic()
                if self._jobs:  # one between two steps, so that neither holds up the other
                    self._jobs.popleft()()
                if self.engine.busy:
                    self.engine.step()
                failures = 0
            except Exception as error:
                failures += 1
                log_bug("a step of the engine failed", error)
                self.cancel_all("the engine failed")
                if failures >= MOST_FAILURES:
                    self.dead = type(error).__name__
            finally:
                self._step_began = None
                self._flush()
            if self.dead is not None:
                self._give_up()
                return
            if not self.engine.busy and not self._jobs:
                self._wake.wait(IDLE_SECONDS)
        self._drain()

    def _drain(self) -> None:
        """The last step: what was cancelled gets its end."""
        try:
            if self.engine.busy:
                self.engine.step()
        except Exception as error:
            log_bug("the engine's last step failed", error)
        self._give_up()

    def _give_up(self) -> None:
        """No request stays without an answer, and none is taken any more."""
        self.dead = self.dead or "stopped"
        self._flush()
        with self._lock:
            left = [item for item in self._open.items() if not item[0].finished]
            self._open.clear()
        for request, (stream, number) in left:
            for index in range(len(request.texts)):
                end = Event(
                    request.id, index, None, finish_reason="error", error="the engine has ended"
                )
                self._outbox.append((stream, number, end))
        self._flush()
        self._fail_jobs()

    def _fail_jobs(self) -> None:
        """Run what waits: it raises or answers, but nobody waits for ever."""
        while self._jobs:
            self._jobs.popleft()()

    def _collect(self, stream: Stream, number: int, event: Event) -> None:
        self._outbox.append((stream, number, event))

    def _flush(self) -> None:
        """Hand the step's events to the event loop in one go."""
        with self._lock:
            for request in [one for one in self._open if one.finished]:
                del self._open[request]
        if not self._outbox or self._loop is None:
            return
        events, self._outbox = self._outbox, []
        try:
            self._loop.call_soon_threadsafe(_deliver, events)
        except RuntimeError:  # the loop has ended: nobody is left to read them
            return


def _deliver(events: list[tuple[Stream, int, Event]]) -> None:
    for stream, number, event in events:
        stream.put(number, event)
