"""How often each token stands in a text: only those that do, since a vocabulary is large."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


class TokenCounts:
    """The distinct tokens of a prompt and its answer, with how often each is in the answer."""

    def __init__(self, prompt: Iterable[int], answer: Iterable[int]) -> None:
        self._places: dict[int, int] = {}
        self._ids = np.zeros(64, dtype=np.int64)
        self._counts = np.zeros(64, dtype=np.int64)
        for token in prompt:
            self._place(token)
        for token in answer:
            self.take(token)

    def __len__(self) -> int:
        return len(self._places)

    def take(self, token: int) -> None:
        """One more token of the answer."""
        self._counts[self._place(token)] += 1

    def write(self, ids: np.ndarray, counts: np.ndarray) -> None:
        """Fill two arrays (L,), L at least one and at least `len(self)`.

        The first token fills the rest: whoever writes its value twice writes the same one.
        """
        size = len(self)
        ids[:size], counts[:size] = self._ids[:size], self._counts[:size]
        ids[size:], counts[size:] = self._ids[0], self._counts[0]

    def _place(self, token: int) -> int:
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        self._ids[place] = token
        return place


def stack_counts(rows: Sequence[TokenCounts], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """ids and counts of several texts, each (P, L) int64, L the most distinct tokens of a text.

    Texts need one token at least (a prompt is never empty).
    """
    longest = max(len(row) for row in rows)
    ids = np.empty((len(rows), longest), dtype=np.int64)
    counts = np.empty_like(ids)
    for index, row in enumerate(rows):
        row.write(ids[index], counts[index])
    return torch.from_numpy(ids).to(device), torch.from_numpy(counts).to(device)
