"""One request on its way through queue and engine, whatever route it came by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from langwright.generate import Event, SamplingParams
from langwright.serve.engine_thread import Stream
from langwright.serve.errors import ApiError, log
from langwright.serve.replies import CompletionDetails, PromptDetails, Usage
from langwright.serve.server import Server

T = TypeVar("T")
LATE = 30.0  # seconds after the engine's own deadline: then the engine must be stuck

Prompts = Sequence[tuple[Sequence[int], SamplingParams | None]]
"""Ids, and how the answer is drawn; None: nothing is written, the prompt is only read."""


class Generation:
    """A place in the queue, the requests to the engine, their events, and the counts.

    `close` must be called in the end, however it ends.
    """

    def __init__(self, server: Server, route: str, key: str) -> None:
        self._server, self._route, self._key = server, route, key
        self._began = time.monotonic()
        self._stream = Stream(server.thread)
        self._closed = False
        self._left = 0  # answers that have not ended
        self._only_read = 0  # tokens of prompts that get no answer
        self._searches = False  # nothing comes before a search is at its end
        self._last: float | None = None  # when the last piece came
        self.reasoning_tokens = 0

    async def start(self, texts: int, prepare: Callable[[], Prompts]) -> None:
        """Enter the queue and hand the prompts to the engine.

        Args:
            texts: that go through the model at a time in all: answers, beams, candidates, and what
                answers are guided by. The queue counts them before `prepare` costs anything.
            prepare: gives the prompts; runs in a thread of its own.
        """
        server = self._server
        server.check_alive()
        try:
            self._place = server.admission.enter(self._key, texts)
        except ApiError as error:
            self._reject(error)
            raise
        with self.failing():
            prompts = await server.apart(prepare)
            read = sum(len(ids) + _negative_tokens(params) for ids, params in prompts)
            server.admission.add_tokens(self._place, read)
            for ids, params in prompts:
                if params is None:
                    self._only_read += len(ids)
                else:
                    self._left += params.best_of or params.n
                    self._searches = self._searches or params.beam is not None
            await server.apart(lambda: self._submit(prompts))
        server.metrics.queue.add(time.monotonic() - self._began)

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """(number of the prompt, event) until every answer has ended.

        An answer that was cut by the deadline ends with "length". Raises `ApiError` when the engine
        fails, or when there is no first token in time; of a beam search, all in time.
        """
        config = self._server.config
        while self._left:
            now = time.monotonic()
            if self._last is None and not self._searches:
                wait = self._began + config.first_token_seconds - now
            else:
                wait = self._began + config.total_seconds + LATE - now
            try:
                found = await self._stream.take(max(0.0, wait))
            except TimeoutError:
                raise self._late() from None
            self._note_time()
            for number, event in found:
                if event.finish_reason is not None:
                    self._left -= 1
                if event.finish_reason in ("error", "cancelled") and event.error != "deadline":
                    raise _failed(event.error or "")
                if event.error == "deadline" and self._searches:
                    raise self._late()
                yield number, event

    async def read(self, work: Callable[[], T]) -> T:
        """Work of the model that is no writing, between two steps of the engine."""
        left = self._began + self._server.config.total_seconds - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                return await self._server.between_steps(work)
        except TimeoutError:
            raise self._late() from None

    def usage(self) -> Usage:
        """Tokens so far."""
        results = [request.result() for request in self._stream.requests]
        read = self._only_read + sum(one.prompt_tokens for one in results)
        written = sum(one.drawn_tokens for one in results)
        return Usage(
            prompt_tokens=read,
            completion_tokens=written,
            total_tokens=read + written,
            prompt_tokens_details=PromptDetails(
                cached_tokens=sum(one.cached_tokens for one in results)
            ),
            completion_tokens_details=CompletionDetails(reasoning_tokens=self.reasoning_tokens),
        )

    @property
    def stream(self) -> Stream:
        """The engine's requests."""
        return self._stream

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Closes if what stands inside fails."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, ApiError):
                self._reject(error)
            self.close("left" if isinstance(error, asyncio.CancelledError) else "error")
            raise

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Closes at the end of what stands inside."""
        with self.failing():
            yield
        self.close("done")

    def close(self, outcome: str) -> None:
        """Give everything back. outcome: done, left (the client) or error. Once is enough."""
        if self._closed:
            return
        self._closed = True
        self._stream.close()
        metrics = self._server.metrics
        place = getattr(self, "_place", None)
        if place is not None:
            self._server.admission.leave(place)
        metrics.requests[self._route, outcome] += 1
        metrics.disconnects += outcome == "left"
        metrics.whole.add(time.monotonic() - self._began)

    def _submit(self, prompts: Prompts) -> None:
        deadline = self._began + self._server.config.total_seconds
        for ids, params in prompts:
            if params is not None and not self._stream.closed:
                self._stream.submit(ids, params, deadline=deadline, salt=self._key)

    def _note_time(self) -> None:
        now, metrics = time.monotonic(), self._server.metrics
        if self._last is None:
            self._server.admission.started(self._place)
            metrics.first_token.add(now - self._began)
        else:
            metrics.between_tokens.add(now - self._last)
        self._last = now

    def _reject(self, error: ApiError) -> None:
        if error.status in (429, 503) and error.code != "timeout":
            self._server.metrics.rejected[error.code or "other"] += 1

    def _late(self) -> ApiError:
        admission = self._server.admission
        self._server.metrics.rejected["too_late"] += 1
        late = "the search did not end" if self._searches else "no token"
        return ApiError(
            503,
            f"the server is too busy: {late} in time",
            code="timeout",
            retry_after=admission.retry_after(),
        )


def _negative_tokens(params: SamplingParams | None) -> int:
    """Tokens that are read beside the prompt. (Beams and candidates read the prompt once.)"""
    return 0 if params is None or params.guidance is None else len(params.guidance.negative)


def _failed(why: str) -> ApiError:
    """An answer that failed. What the constraint says is the client's business; anything else is
    told to the log only, as a failing step may have been that of other clients too."""
    told = why if why.startswith("constraint:") else "the answer failed inside the engine"
    log.error("an answer failed: %s", why.partition("\n")[0][:200])
    return ApiError(500, told, code="engine_error", retry=False)
