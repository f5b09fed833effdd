"""Guessing that a text goes on as it did before: no second model, useful where texts repeat
themselves (code, summaries, answers that quote the question)."""

from __future__ import annotations

from collections.abc import Sequence

from langwright.base import UserError
from langwright.generate.decoding.proposals import Proposal
from langwright.generate.decoding.row import DecodingRow


def find_continuation(ids: Sequence[int], longest: int, shortest: int, most: int) -> list[int]:
    """What followed the last earlier occurrence of the text's end.

    The longest end that occurred before counts, of `longest` down to `shortest` tokens.
    """
    text = list(ids)
    for size in range(min(longest, len(text) - 1), shortest - 1, -1):
        end = text[-size:]
        for start in range(len(text) - size - 1, -1, -1):
            if text[start : start + size] == end:
                return text[start + size : start + size + most]
    return []


class NgramProposer:
    """Prompt look-up: an index of every n-gram of each row, kept as the row grows.

    Args:
        tokens: most guesses at a time.
        longest, shortest: sizes of the ends that are looked up.

    Source: "prompt lookup decoding" (Saxena 2023); the same as `find_continuation`, in constant
    time per token.
    """

    def __init__(self, tokens: int = 8, longest: int = 4, shortest: int = 2) -> None:
        if not 1 <= shortest <= longest:
            raise UserError(
                "n-gram sizes must be 1 <= shortest <= longest", found=f"{shortest}, {longest}"
            )
        self._tokens, self._sizes = tokens, range(longest, shortest - 1, -1)

    def propose(self, rows: Sequence[DecodingRow], most: Sequence[int]) -> list[Proposal]:
        """As of `Proposer`."""
        found = []
        for row, limit in zip(rows, most, strict=True):
            index = row.notes.get("ngrams")
            if index is None:
                index = row.notes["ngrams"] = _Index(self._sizes)
            index.update(row)
            found.append(Proposal(index.following(min(limit, self._tokens))))
        return found


class _Index:
    """Where each n-gram of one text last ended, the text's very end aside."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._text: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}

    def update(self, row: DecodingRow) -> None:
        """Take in what the row's text gained; drop all if it is another text."""
        for token in (row.prompt + row.ids)[len(self._text) :]:
            for size in self._sizes:  # those that end before the new token
                if len(self._text) >= size:
                    self._ends[tuple(self._text[-size:])] = len(self._text)
            self._text.append(token)

    def following(self, most: int) -> list[int]:
        """At most `most` tokens."""
        for size in self._sizes:
            if len(self._text) > size:
                end = self._ends.get(tuple(self._text[-size:]))
                if end is not None:
                    return self._text[end : end + most]
        return []
