"""One answer of the engine, shown while it grows, and how fast it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from langwright.base import UserError
from langwright.cli.terminal import interrupts
from langwright.generate import Engine, SamplingParams


@dataclass(frozen=True)
class Answer:
    """What came of one request."""

    text: str
    reason: str  # stop, length, cancelled
    tokens: int  # drawn, the end token included
    prompt_tokens: int
    known_tokens: int  # of the prompt, found in the cache
    first_seconds: float | None  # from the question to the first token
    seconds: float  # from the question to the end

    @property
    def tokens_per_second(self) -> float | None:
        """Of the tokens after the first one: the prompt's time is not in it."""
        if self.first_seconds is None or self.tokens < 2 or self.seconds <= self.first_seconds:
            return None
        return (self.tokens - 1) / (self.seconds - self.first_seconds)

    def told(self, max_tokens: int) -> str:
        """Its figures in a line."""
        parts = [f"{self.tokens:,} token" + ("s" if self.tokens != 1 else "")]
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:,.1f} tokens/s")
        if self.first_seconds is not None:
            parts.append(f"first after {self.first_seconds:.2f} s")
        prompt = f"prompt of {self.prompt_tokens:,}"
        if self.known_tokens:
            prompt += f", {self.known_tokens:,} of them known"
        parts.append(prompt)
        if self.reason == "cancelled":
            parts.append("interrupted")
        elif self.reason == "length":
            full = self.tokens < max_tokens
            parts.append("the context is full" if full else f"cut at max_tokens = {max_tokens:,}")
        return f"({'; '.join(parts)})"


def draw_answer(
    engine: Engine, prompt: Sequence[int], params: SamplingParams, show: Callable[[str], None]
) -> Answer:
    """Step the engine until the request ends; Ctrl-C ends it early, between two steps.

    Args:
        engine: nobody else may be stepping it.
        prompt: token ids.
        params: of one answer.
        show: gets the text piece by piece.

    Raises:
        UserError: the prompt or the settings do not fit, or the model failed.
    """
    parts: list[str] = []
    request = engine.submit(prompt, params)
    try:
        with interrupts() as interrupted:
            while not request.finished:
                if interrupted():
                    engine.cancel(request)
                for event in engine.step():
                    if event.text:
                        parts.append(event.text)
                        show(event.text)
    finally:
        if not request.finished:  # `show` raised, or Ctrl-C was pressed again and again
            engine.cancel(request)
    result = request.result()
    reason = result.finish_reasons[0]
    if reason == "error":
        raise UserError(
            "the model could not answer", found=result.error, fix="ask again, or ask otherwise"
        )
    begun, first, ended = request.arrived, request.first_token, request.ended
    return Answer(
        text="".join(parts),
        reason=reason,
        tokens=result.drawn_tokens,
        prompt_tokens=result.prompt_tokens,
        known_tokens=result.cached_tokens,
        first_seconds=None if first is None else first - begun,
        seconds=(ended or begun) - begun,
    )
