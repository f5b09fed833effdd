"""Guessing what a constraint leaves no choice about (the keys of a JSON object, its brackets)."""

from __future__ import annotations

from collections.abc import Sequence

from langwright.generate.decoding.proposals import Proposal, Proposer
from langwright.generate.decoding.row import DecodingRow


class ForcedProposer:
    """The tokens that a row's constraint forces; where there are none, another proposer's.

    The model still has its say on how the forced text is cut into tokens, so the answer is the
    same as without.
    """

    def __init__(self, otherwise: Proposer | None = None) -> None:
        self._otherwise = otherwise

    def propose(self, rows: Sequence[DecodingRow], most: Sequence[int]) -> list[Proposal]:
        """As of `Proposer`."""
        found = [
            Proposal([] if row.matcher is None else row.matcher.forced()).cut(limit)
            for row, limit in zip(rows, most, strict=True)
        ]
        left = [index for index, one in enumerate(found) if not one.ids]
        if self._otherwise is not None and left:
            others = self._otherwise.propose([rows[i] for i in left], [most[i] for i in left])
            for index, other in zip(left, others, strict=True):
                found[index] = other
        return found
