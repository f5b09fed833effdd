"""Guesses at the next tokens, which the model then checks all in one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from langwright.generate.decoding.row import DecodingRow


@dataclass(frozen=True)
class Proposal:
    """Guessed next tokens of one row; none is a valid guess.

    `probabilities` (k, V): the distribution that each id was drawn from, each drawn by
    `uniform_for(seed, position, "draft")`; None where they were not drawn but chosen.
    """

    ids: list[int] = field(default_factory=list)
    probabilities: Tensor | None = None

    def cut(self, most: int) -> Proposal:
        """At most the first `most` guesses."""
        some = None if self.probabilities is None else self.probabilities[:most]
        return Proposal(self.ids[:most], some)


class Proposer(Protocol):
    """Whatever guesses: a look-up in the text, a small model, the forced parts of a grammar."""

    def propose(self, rows: Sequence[DecodingRow], most: Sequence[int]) -> list[Proposal]:
        """At most `most[i]` tokens to follow row i's prompt and answer so far."""
        ...
