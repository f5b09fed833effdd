"""Texts that go through the model together for one answer, or for the answers of one search.

Each member is a row of the batch like any other: it is read in pieces, shares blocks, gives way
when memory is short. Its logits are kept until those of all members are there; then the team
decides what comes next for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from langwright.generate.decoding.beam import BeamSearch
from langwright.generate.decoding.guided import guide_logits
from langwright.generate.params import Guidance
from langwright.generate.requests import Team, Text


class Guided(Team):
    """An answer, and the same answer behind another prompt.

    Args:
        answer: what is drawn.
        other: reads along behind the prompt that the answer is guided away from.
        guidance: how far.
    """

    def __init__(self, answer: Text, other: Text, guidance: Guidance) -> None:
        super().__init__([answer, other], [answer])
        self._answer, self._other, self._guidance = answer, other, guidance

    def mixed(self) -> Tensor:
        """What is drawn from: logits (V,) fp32."""
        own, other = (self.logits[text].float() for text in (self._answer, self._other))
        return guide_logits(own, other, self._guidance.scale)

    def take(self, token: int) -> None:
        """The token was drawn, and stands in the answer already."""
        self._other.ids.append(token)
        self.logits.clear()


class Searching(Team):
    """The texts of a beam search; the answers get theirs at its end.

    Args:
        beams: the texts; until the prompt is read the first stands for all.
        answers: the likeliest texts become these, the best first.
        search: says which texts are continued.
        vocab_size: the tokenizer's; tokens behind it never come. None: all are real.
    """

    def __init__(
        self,
        beams: Sequence[Text],
        answers: Sequence[Text],
        search: BeamSearch,
        vocab_size: int | None,
    ) -> None:
        super().__init__([beams[0]], answers)
        self.beams, self.search, self._vocab = list(beams), search, vocab_size
        self._begun = False

    def advance(self) -> list[tuple[Text, Text, int]] | None:
        """The next step, from the logits of all members: who continues whose text, by which token.
        These are the members from now on. None: the search is at its end."""
        sources = self.beams
        if not self._begun:  # all texts are the prompt, which the first has read
            sources = [self.beams[0]] * len(self.beams)
            self._begun = True
        some = next(iter(self.logits.values()))
        rows = torch.stack([self.logits.get(text, some) for text in self.beams])  # (B, V)
        rows = rows.cpu().double()
        if self._vocab is not None:
            rows[:, self._vocab :] = -torch.inf
        found = self.search.advance(rows.log_softmax(-1))
        self.logits.clear()
        if found is None:
            return None
        moves = [
            (self.beams[row], sources[move[0]], move[1])
            for row, move in enumerate(found)
            if move is not None
        ]
        self.texts = [text for text, _, _ in moves]
        return moves
