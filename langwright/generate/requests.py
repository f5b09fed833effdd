"""What is asked of the engine, and what it answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from langwright.generate.blocks import Digests
from langwright.generate.decoding.several import choose_best
from langwright.generate.output import Completion, Output, Piece
from langwright.generate.paged_cache import TextPages
from langwright.generate.params import SamplingParams

EndReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Event:
    """One token of one answer, or an answer's end.

    `text` is what became certain: whole characters, nothing of a stop string. The last event of an
    answer has a `finish_reason`; it has no token where the answer was cancelled or failed.
    """

    request: int  # `Request.id`
    index: int  # which of the request's answers
    token: int | None
    text: str = ""
    logprob: float | None = None  # nats
    top: list[tuple[int, float]] | None = None  # the likeliest tokens, where asked for
    finish_reason: EndReason | None = None
    error: str | None = None  # why, for cancelled and error


@dataclass(frozen=True)
class RequestOutput:
    """A finished request: the answers it asked for, the best first where there was a choice."""

    answers: list[Completion]
    finish_reasons: list[EndReason]
    prompt_tokens: int
    cached_tokens: int  # of the prompt, found in the cache
    drawn_tokens: int  # of all answers drawn, the end tokens included
    error: str | None = None


class Team:
    """Texts whose logits are needed together.

    Args:
        texts: the members.
        answers: what they are written for.
    """

    def __init__(self, texts: Sequence[Text], answers: Sequence[Text]) -> None:
        self.texts, self.answers = list(texts), answers
        self.leader = self.texts[0]
        # (V,) of the members that have been read to their ends.
        self.logits: dict[Text, Tensor] = {}

    def note(self, text: Text, logits: Tensor) -> bool:
        """A member's logits (V,); whether those of all are there now."""
        self.logits[text] = logits
        return len(self.logits) == len(self.texts)

    def read(self, text: Text, vectors: Tensor) -> None:
        """A member's newest tokens went through the model: their last vectors (T, D)."""

    def skips(self, text: Text) -> int | None:
        """How many of a member's first tokens need not be read if the cache has them; None: all."""
        return None

    def gave_way(self) -> None:
        """A member has lost its memory, and will be read again."""

    def forget(self) -> None:
        """Nobody needs the members any more."""
        self.logits.clear()

    @property
    def kept_bytes(self) -> int:
        """Bytes that are kept for the team beside the cache, the members' logits aside."""
        return 0


@dataclass(eq=False)
class Text:
    """One answer while it grows: a row of the batch when it runs."""

    request: Request
    index: int
    output: Output
    pages: TextPages  # `pages.ids` is the prompt and the answer so far
    digests: Digests
    prompt_length: int  # tokens of the prompt
    rank: int = 0  # among the texts of one answer
    team: Team | None = None  # who it goes through the model with
    named: int = 0  # blocks that others can find
    cached: int = 0  # tokens of the prompt found in the cache at the first start
    started: bool = False
    drafted: int = 0  # guesses in the step being prepared
    reason: EndReason | None = None

    @property
    def ids(self) -> list[int]:
        """Prompt and answer so far."""
        return self.pages.ids

    @property
    def unread(self) -> int:
        """Tokens that have not gone through the model: 1 while an answer is being written."""
        return len(self.pages.ids) - self.pages.length

    @property
    def order(self) -> tuple[int, int, int, int]:
        """Who comes first: by priority, then by arrival."""
        return (-self.request.priority, self.request.id, self.index, self.rank)

    @property
    def answers(self) -> Sequence[Text]:
        """The answers that it is written for: itself, where it has no team."""
        return [self] if self.team is None else self.team.answers

    @property
    def over(self) -> bool:
        """Whether nobody needs the text any more."""
        return all(answer.reason is not None for answer in self.answers)

    @property
    def leads(self) -> bool:
        """Whether it takes one of the places of `max_running`: of a team one member does."""
        return self.team is None or self.team.leader is self

    @property
    def held(self) -> bool:
        """Whether its logits are known and wait for those of its team."""
        return self.team is not None and self in self.team.logits

    def take(self, piece: Piece) -> Event:
        """Note what was drawn; tell it as an event."""
        self.pages.ids.append(piece.id)
        self.reason = piece.finish_reason
        return Event(
            self.request.id,
            self.index,
            piece.id,
            piece.text,
            piece.logprob,
            piece.top,
            piece.finish_reason,
        )


@dataclass(eq=False)
class Request:
    """What was asked. Made by `Engine.submit`; all fields are the engine's to change."""

    id: int
    params: SamplingParams
    prompt_tokens: int
    priority: int = 0
    deadline: float | None = None  # on the clock of `time.monotonic`, seconds
    on_token: Callable[[Event], None] | None = None
    texts: list[Text] = field(default_factory=list)
    error: str | None = None
    failure: Exception | None = None  # what `error` tells of, where the model or a draw raised
    arrived: float = field(default_factory=time.monotonic)
    first_token: float | None = None  # when it was drawn
    ended: float | None = None
    _done: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def members(self) -> list[Text]:
        """The texts that go through the model from the start on."""
        found: dict[Text, None] = {}
        for text in self.texts:
            found.update(dict.fromkeys([text] if text.team is None else text.team.texts))
        return list(found)

    @property
    def kept_bytes(self) -> int:
        """Bytes that its teams keep beside the cache."""
        return sum(team.kept_bytes for team in {text.team for text in self.texts} if team)

    @property
    def finished(self) -> bool:
        """Whether every answer has ended."""
        return self._done.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the request has finished; whether it has. Another thread must be stepping."""
        return self._done.wait(seconds)

    def close(self) -> None:
        """Every answer has ended."""
        self.ended = time.monotonic()
        self._done.set()

    def result(self) -> RequestOutput:
        """The answers so far, those asked for (`n` of `best_of`)."""
        done = [text.output.completion for text in self.texts]
        chosen = choose_best(done, self.params.n)
        reasons = {id(one.output.completion): one.reason or "length" for one in self.texts}
        return RequestOutput(
            answers=chosen,
            finish_reasons=[reasons[id(one)] for one in chosen],
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.texts[0].cached if self.texts else 0,
            drawn_tokens=sum(len(text.output.decoding.ids) for text in self.texts),
            error=self.error,
        )
