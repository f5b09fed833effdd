"""Who is let in: a queue bounded by answers and by tokens of prompts.

Everything here runs in the event loop's thread.
"""

from __future__ import annotations

import time
from collections import Counter

from langwright.serve.config import ServeConfig
from langwright.serve.errors import ApiError

MOST_WAIT = 120  # seconds: clients obey no longer Retry-After
FORGET = 0.9  # weight of the past in the mean time of an answer


class Place:
    """What one request holds in the queue until it is released."""

    def __init__(self, key: str, answers: int) -> None:
        self.key, self.answers = key, answers
        self.tokens = 0  # of prompts not read yet
        self.began = time.monotonic()


class Admission:
    """Counts the answers that are being written or wait, and the tokens that wait.

    Args:
        running: how many answers the engine writes at a time.
    """

    def __init__(self, config: ServeConfig, running: int) -> None:
        self._config, self._running = config, running
        self._answers = 0
        self._waiting_tokens = 0
        self._by_key: Counter[str] = Counter()
        self._seconds = 1.0  # mean time of an answer
        self.draining = False

    @property
    def answers(self) -> int:
        """Answers let in and not done."""
        return self._answers

    @property
    def waiting_tokens(self) -> int:
        """Tokens of prompts without a first token of answer."""
        return self._waiting_tokens

    def enter(self, key: str, answers: int) -> Place:
        """Take a place for so many answers, before any work is done for them.

        Raises:
            ApiError: 429 when it is full, 503 when the server is about to end.
        """
        if self.draining:
            raise ApiError(503, "the server is shutting down", code="draining", retry_after=5)
        limit = self._running + self._config.queue_requests
        if answers > limit:
            raise ApiError(
                400, f"{answers} answers in one request; the server takes at most {limit}"
            )
        if self._answers + answers > limit:
            raise self._full("too many requests are waiting", "queue_full")
        most = self._config.key_requests
        if most is not None and answers > most:
            raise ApiError(400, f"{answers} answers in one request; a key may have {most}")
        if most is not None and self._by_key[key] + answers > most:
            raise self._full("this key has too many requests at a time", "key_limit")
        self._answers += answers
        self._by_key[key] += answers
        return Place(key, answers)

    def add_tokens(self, place: Place, tokens: int) -> None:
        """Count a request's prompts, once their length is known; 429 where that is too much.

        A request that is alone is let in whatever its length: it would never be otherwise.
        """
        waiting = self._waiting_tokens
        if waiting and waiting + tokens > self._config.queue_tokens:
            raise self._full("too many tokens of prompts are waiting", "queue_full")
        place.tokens += tokens
        self._waiting_tokens += tokens

    def started(self, place: Place) -> None:
        """The request has its first token: its prompts wait no longer."""
        self._waiting_tokens -= place.tokens
        place.tokens = 0

    def leave(self, place: Place, *, timed: bool = True) -> None:
        """The request is done, whatever came of it. A second time does nothing.

        timed: whether it tells how long an answer takes.
        """
        if not place.answers:
            return
        self.started(place)
        self._answers -= place.answers
        self._by_key[place.key] -= place.answers
        if not self._by_key[place.key]:
            del self._by_key[place.key]
        place.answers = 0
        if not timed:
            return
        taken = time.monotonic() - place.began
        self._seconds = FORGET * self._seconds + (1 - FORGET) * taken

    def retry_after(self) -> float:
        """Seconds until there should be room: the time of those ahead, so many at a time."""
        waves = max(1.0, (self._answers - self._running) / self._running)
        return min(MOST_WAIT, max(1.0, self._seconds * waves))

    def _full(self, message: str, code: str) -> ApiError:
        return ApiError(429, message, code=code, retry_after=self.retry_after())
