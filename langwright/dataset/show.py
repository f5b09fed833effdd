"""Views of training data for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from langwright.dataset.batch import IGNORE, PADDING, Batch


@dataclass(frozen=True)
class Prediction:
    """One thing a row teaches: after `context` comes `target`."""

    context: list[int]
    target: int
    context_text: str | None = None
    target_text: str | None = None

    def __str__(self) -> str:
        ids = f"{self.context} ----> {self.target}"
        if self.context_text is None:
            return ids
        return f"{ids}\n{self.context_text!r} ----> {self.target_text!r}"


def growing_context(ids: Sequence[int], tokenizer: Any = None) -> Iterator[Prediction]:
    """Each prefix of a window with the token that follows it: what one row trains at once.

    Args:
        ids: a window of n ids; n - 1 predictions come out.
        tokenizer: if given, each is shown as text too.
    """
    window = [int(one) for one in ids]
    for end in range(1, len(window)):
        context, target = window[:end], window[end]
        if tokenizer is None:
            yield Prediction(context, target)
        else:
            text, following = tokenizer.decode(context), tokenizer.decode([target])
            yield Prediction(context, target, text, following)


def show_row(batch: Batch, row: int, tokenizer: Any) -> str:
    """A row of a batch as text, a line for each document in it, with its counted targets."""
    inputs, targets = batch.inputs[row].tolist(), batch.targets[row].tolist()
    segments = [0] * len(inputs) if batch.segments is None else batch.segments[row].tolist()
    lines = []
    for number in sorted(set(segments) - {PADDING}):
        places = [at for at, segment in enumerate(segments) if segment == number]
        counted = sum(targets[at] != IGNORE for at in places)
        text = tokenizer.decode([inputs[at] for at in places])
        lines.append(f"[{number}] {len(places)} tokens, {counted} targets: {text!r}")
    if padding := segments.count(PADDING):
        lines.append(f"padding: {padding} places")
    return "\n".join(lines)
