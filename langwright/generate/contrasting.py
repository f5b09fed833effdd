"""Contrastive search in the batch: each candidate for the next token is a fork of the text.

    text ──▶ k likeliest tokens ──▶ k forks, one token each ──▶ the least repetitive of the likely
      ▲                                                                     │
      └─────────────────────────────────────────────────────────────────────┘

The search compares a candidate's last hidden vector with those of all tokens so far, which no cache
keeps: the team remembers them, 4 D bytes a token. They are made by reading, so the first member
reads what an earlier request left in the cache once more; the others share what it has read. Where
all members give way, so do the vectors, and the first that is read again brings them back: no more
searches remember anything than have texts in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from langwright.generate.decoding.contrastive import choose, likeliest, unit
from langwright.generate.requests import Team, Text


class Said:
    """Vectors of unit length of a text's first tokens, in memory that grows by doubling.

    Args:
        most: tokens that the text may have.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._space: Tensor | None = None  # (room, D)
        self.length = 0

    @property
    def vectors(self) -> Tensor:
        """(S, D) fp32."""
        assert self._space is not None
        return self._space[: self.length]

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return 0 if self._space is None else self._space.nbytes

    def take(self, start: int, vectors: Tensor) -> None:
        """Vectors (T, D) of the tokens from `start` on; those that are known stay."""
        vectors = vectors[self.length - start :]
        end = self.length + len(vectors)
        space = self._space
        if space is None or end > len(space):
            room = end if space is None else max(end, min(2 * len(space), self._most))
            self._space = vectors.new_empty(room, vectors.shape[1])
            if space is not None:
                self._space[: self.length] = space[: self.length]
        assert self._space is not None
        self._space[self.length : end] = vectors
        self.length = end

    def drop(self) -> None:
        """Know nothing."""
        self._space, self.length = None, 0


class Contrasting(Team):
    """The candidates of a contrastive search, equation 5 of Su et al. 2022 (arXiv:2202.06417).

    Args:
        candidates: the texts, k; until the prompt is read the first stands for all.
        answer: grows by one candidate's token at each step.
        alpha: weight of the likeness to what was said, 0 ... 1.
        vocab_size: the tokenizer's; tokens behind it never come. None: all are real.
    """

    def __init__(
        self, candidates: Sequence[Text], answer: Text, alpha: float, vocab_size: int | None
    ) -> None:
        super().__init__([candidates[0]], [answer])
        self.answer = answer
        self._candidates, self._alpha, self._vocab = list(candidates), alpha, vocab_size
        self._said = Said(answer.prompt_length + answer.output.limit)
        self._chances: Tensor | None = None  # (k,) of the candidates' tokens
        self._vectors: dict[Text, Tensor] = {}  # (D,) of the candidates' tokens, as they are read

    def read(self, text: Text, vectors: Tensor) -> None:
        """Remember vectors (T, D). A candidate's own token, its last, is not said yet."""
        found, start = unit(vectors), text.pages.length - len(vectors)
        said = len(text.ids) if self._chances is None else len(text.ids) - 1
        if text.pages.length > said:
            self._vectors[text] = found[-1]
        if start <= self._said.length:
            self._said.take(start, found[: max(0, said - start)])

    def skips(self, text: Text) -> int | None:
        """Of the first member that is still to be read: the tokens whose vectors are known, so that
        it brings the others. The members behind it may skip what they find."""
        first = next((one for one in self.texts if one not in self.logits), None)
        return self._said.length if text is first else None

    def gave_way(self) -> None:
        """The vectors stay as long as any member holds memory."""
        if not any(text.pages.length for text in self.texts):
            self._said.drop()

    def forget(self) -> None:
        """The end: nothing is kept."""
        super().forget()
        self._said.drop()
        self._vectors.clear()

    @property
    def kept_bytes(self) -> int:
        """Of the vectors."""
        return self._said.bytes

    def best(self) -> Text | None:
        """The candidate that the answer goes on with, all having been read; None: there are none
        yet, as the prompt has just been read."""
        if self._chances is None:
            return None
        vectors = torch.stack([self._vectors[text] for text in self.texts])  # (k, D)
        row = choose(self._chances, vectors, self._said.vectors, self._alpha)
        self._said.take(self._said.length, vectors[row : row + 1])
        return self.texts[row]

    def propose(self, source: Text | None) -> list[tuple[Text, Text, int]]:
        """The next candidates, behind the best of the last ones (None: behind the prompt): who goes
        on from whom, by which token."""
        source = source or self.texts[0]
        logits = self.logits[source].float()  # (V,)
        if self._vocab is not None:
            logits = logits[: self._vocab]
        self._chances, tokens = likeliest(logits, len(self._candidates))
        self.logits.clear()
        self._vectors.clear()
        self.texts = self._candidates
        return [(text, source, token) for text, token in zip(self.texts, tokens.tolist())]
