"""One answer while it grows: its ids, its text, and whether it is at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from langwright.generate.decoding.logprobs import TokenLogprobs
from langwright.generate.decoding.row import DecodingRow
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
    top: list[tuple[int, float]] | None = None  # the likeliest tokens, where asked for


@dataclass
class Completion:
    """A finished answer.

    `ids` ends before the end token (`stop_id`, None if it ended otherwise). With a stop string,
    `ids` holds all tokens that were drawn and `text` ends before the string. `logprobs` are natural
    logarithms of probabilities, of the model or as drawn from (`SamplingParams.logprobs_mode`): one
    per id and one more for `stop_id` if there is one; None if they were not asked for.
    `top_logprobs` holds the likeliest tokens at the same places.
    """

    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason = "length"
    stop_id: int | None = None
    logprobs: list[float] | None = None
    top_logprobs: list[list[tuple[int, float]]] | None = None
    prompt_tokens: int = 0
    cropped: int = 0  # tokens of the prompt's beginning that did not fit the context
    score: float | None = None  # what a beam search compares answers by


class Output:
    """Takes a row's tokens one by one and says when to stop."""

    def __init__(
        self,
        row: int,
        decoding: DecodingRow,
        *,
        limit: int,
        tokenizer: Tokenizer | None = None,
        cropped: int = 0,
    ) -> None:
        """`limit` is the most tokens it may have; the others are as in `generate_tokens`."""
        self.row = row
        self.decoding = decoding
        self.finished = False
        self.limit = limit
        self._decoder = StreamDecoder(tokenizer, skip_special=True) if tokenizer else None
        self._stops = StopFinder(decoding.params.stop)
        wanted = decoding.params.logprobs
        self.completion = Completion(
            logprobs=None if wanted is None else [],
            top_logprobs=[] if wanted else None,
            prompt_tokens=len(decoding.prompt),
            cropped=cropped,
        )

    @property
    def prompt(self) -> list[int]:
        """The prompt's ids, as cropped."""
        return self.decoding.prompt

    def take(self, token: int, logprobs: TokenLogprobs | None = None) -> Piece:
        """The next token, of which `decoding` has been told already."""
        done = self.completion
        if done.logprobs is not None and logprobs is not None:
            done.logprobs.append(logprobs.logprob)
        if done.top_logprobs is not None and logprobs is not None:
            done.top_logprobs.append(logprobs.top)
        text = ""
        if token in self.decoding.stop_ids:
            done.stop_id = token
            self._finish("stop")
        else:
            done.ids.append(token)
            text = self._push(token)
            # With accepted guesses `decoding` is already ahead of this token.
            last = len(done.ids) == len(self.decoding.ids)
            if self._stops.stopped or (last and self.decoding.complete):
                self._finish("stop")
            elif len(done.ids) >= self.limit:
                self._finish("length")
        if self.finished and not self._stops.stopped:
            text += self._rest()
        done.text += text
        return Piece(
            self.row,
            token,
            text,
            None if logprobs is None else logprobs.logprob,
            done.finish_reason if self.finished else None,
            logprobs.top if logprobs is not None and logprobs.top else None,
        )

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
