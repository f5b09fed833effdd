"""Learning byte-pair merges from a stream of texts, in memory that the text's length does not set.

Only the different pieces (words) and their counts are kept. rustbpe is used where it is
installed; the plain Python form learns the same merges (see `reference` for what they are), so a
vocabulary does not depend on the machine it was made on.
"""

from __future__ import annotations

import heapq
import importlib.util
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

from langwright.base import UserError
from langwright.tokenizer.merging import merges_of
from langwright.tokenizer.reference import Merge, join_pair

Trainer = Literal["auto", "rustbpe", "python"]
Pair = tuple[int, int]


def train_merges(
    texts: Iterable[str], merges: int, pattern: str, trainer: Trainer = "auto"
) -> list[Merge]:
    """Up to `merges` merges in the order they were learned; fewer if the text has no more pairs.

    Args:
        texts: free of lone surrogates.
        merges: how many.
        pattern: the split pattern.
        trainer: ``"auto"`` takes rustbpe if it is installed.
    """
    installed = importlib.util.find_spec("rustbpe") is not None
    if trainer == "rustbpe" and not installed:
        raise UserError(
            "the trainer rustbpe is not installed",
            fix='pip install rustbpe, or trainer = "python" (same result, slower)',
        )
    if trainer != "python" and installed:
        return _train_rustbpe(texts, merges, pattern)
    return _train_python(texts, merges, pattern)


def _train_rustbpe(texts: Iterable[str], merges: int, pattern: str) -> list[Merge]:
    import rustbpe

    learner = rustbpe.Tokenizer()
    learner.train_from_iterator(iter(texts), vocab_size=256 + merges, pattern=pattern)
    return merges_of({bytes(token): rank for token, rank in learner.get_mergeable_ranks()})


def _train_python(texts: Iterable[str], merges: int, pattern: str) -> list[Merge]:
    pieces = count_pieces(texts, pattern)
    words = [list(piece.encode("utf-8")) for piece in pieces]
    token_bytes = [bytes([value]) for value in range(256)]
    learned = []
    for left, right in merge_words(words, list(pieces.values()), 256, merges):
        learned.append((token_bytes[left], token_bytes[right]))
        token_bytes.append(token_bytes[left] + token_bytes[right])
    return learned


def count_pieces(texts: Iterable[str], pattern: str) -> Counter[str]:
    """How often each piece that the pattern cuts occurs."""
    import regex

    finder = regex.compile(pattern)
    pieces: Counter[str] = Counter()
    for text in texts:
        pieces.update(match.group() for match in finder.finditer(text))
    return pieces


def merge_words(
    words: Sequence[list[int]], counts: Sequence[int], symbols: int, merges: int
) -> list[Pair]:
    """The pairs to join, in order: each time the most frequent, of equals the smaller one.

    Pairs are counted once; then only the counts around each merge are mended.

    Args:
        words: the pieces as ids below `symbols`.
        counts: how often each piece occurs.
        symbols: merge number i makes the id ``symbols + i``.
        merges: how many at most.
    """
    state = _Words(words, counts)
    # Largest count first. An entry grows old when its count changes; it is put back with the
    # true count when it comes up.
    heap = [(-count, pair) for pair, count in state.pairs.items()]
    heapq.heapify(heap)
    learned: list[Pair] = []
    while heap and len(learned) < merges:
        claimed, pair = heapq.heappop(heap)
        count = state.pairs[pair]
        if count <= 0:
            continue
        if count != -claimed:
            heapq.heappush(heap, (-count, pair))
            continue
        new_id = symbols + len(learned)
        learned.append(pair)
        for new_pair in state.join(pair, new_id):
            heapq.heappush(heap, (-state.pairs[new_pair], new_pair))
    return learned


class _Words:
    """The words as they are now, the count of each pair, and which words hold it."""

    def __init__(self, words: Sequence[list[int]], counts: Sequence[int]) -> None:
        self.words = list(words)
        self.counts = counts
        self.pairs: Counter[Pair] = Counter()
        self.homes: defaultdict[Pair, set[int]] = defaultdict(set)
        for index, ids in enumerate(self.words):
            self._count(index, ids)

    def _count(self, index: int, ids: list[int]) -> None:
        for pair in pairwise(ids):
            self.pairs[pair] += self.counts[index]
            self.homes[pair].add(index)

    def join(self, pair: Pair, new_id: int) -> set[Pair]:
        """Join `pair` wherever it stands; returns the pairs that hold the new id."""
        made: set[Pair] = set()
        for index in self.homes.pop(pair):
            old = self.words[index]
            new = join_pair(old, pair, new_id)
            if len(new) == len(old):
                continue  # an earlier merge has taken the pair apart here
            for gone in pairwise(old):
                self.pairs[gone] -= self.counts[index]
            self._count(index, new)
            self.words[index] = new
            made.update(found for found in pairwise(new) if new_id in found)
        return made
