"""One answer while it grows: its ids, its text, and whether it is at its end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from langwright.generate.sampling import Sampling
from langwright.generate.stops import StopFinder
from langwright.tokenizer import StreamDecoder, Tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """What one step gave to one row."""

    row: int  # number of the prompt in the call
    id: int
    text: str  # text that became certain; whole characters, no part of a stop string
    logprob: float | None
    finish_reason: FinishReason | None  # set on the row's last piece


@dataclass
class Completion:
    """A finished answer.

    `ids` ends before the end token (`stop_id`, None if it ended otherwise). With a stop string,
    `ids` holds all tokens that were drawn and `text` ends before the string. `logprobs` are natural
    logarithms of the model's own probabilities, before penalty, temperature and filters: one per id
    and one more for `stop_id` if there is one; None if they were not asked for.
    """

    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason = "length"
    stop_id: int | None = None
    logprobs: list[float] | None = None
    prompt_tokens: int = 0
    cropped: int = 0  # tokens of the prompt's beginning that did not fit the context


class Output:
    """Takes a row's tokens one by one and says when to stop."""

    def __init__(
        self,
        row: int,
        prompt: list[int],
        sampling: Sampling,
        *,
        stop_ids: Collection[int],
        limit: int,
        seed: int,
        tokenizer: Tokenizer | None = None,
        logprobs: bool = False,
        cropped: int = 0,
    ) -> None:
        """`limit` is the most tokens it may have; the others are as in `generate_tokens`."""
        self.row = row
        self.prompt = prompt
        self.sampling = sampling
        self.seed = seed
        self.finished = False
        self.limit = limit
        self._stop_ids = frozenset() if sampling.ignore_eos else frozenset(stop_ids)
        self._decoder = StreamDecoder(tokenizer, skip_special=True) if tokenizer else None
        self._stops = StopFinder(sampling.stop)
        self.completion = Completion(
            logprobs=[] if logprobs else None, prompt_tokens=len(prompt), cropped=cropped
        )

    def take(self, token: int, logprob: float | None = None) -> Piece:
        """The next token of this row."""
        done = self.completion
        if done.logprobs is not None and logprob is not None:
            done.logprobs.append(logprob)
        text = ""
        if token in self._stop_ids:
            done.stop_id = token
            self._finish("stop")
        else:
            done.ids.append(token)
            text = self._push(token)
            if self._stops.stopped:
                self._finish("stop")
            elif len(done.ids) >= self.limit:
                self._finish("length")
        if self.finished and not self._stops.stopped:
            text += self._rest()
        done.text += text
        return Piece(self.row, token, text, logprob, done.finish_reason if self.finished else None)

    def _push(self, token: int) -> str:
        """Text of one more token; control tokens have none."""
        if self._decoder is None:
            return ""
        return self._stops.push(self._decoder.push(token))

    def _rest(self) -> str:
        """What the decoder and the stop finder still held back."""
        if self._decoder is None:
            return ""
        text = self._stops.push(self._decoder.finish())
        return text if self._stops.stopped else text + self._stops.finish()

    def _finish(self, reason: FinishReason) -> None:
        self.finished = True
        self.completion.finish_reason = reason
