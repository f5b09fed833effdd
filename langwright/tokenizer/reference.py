"""Byte-pair encoding in the plainest form: the specification that the fast code must equal.

Training (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; over bytes as in GPT-2): cut the
text into pieces with the split pattern and write each piece as single bytes. Again and again, find
the pair of neighbours that occurs most often and join it everywhere, until there are enough
merges. Of pairs that occur equally often, the one with the smaller ids wins (left id first), so
the result depends on nothing but the text. Encoding replays the merges in the order of training.

This recounts everything after each merge: use it on small texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

Merge = tuple[bytes, bytes]


def train_reference(texts: Iterable[str], merges: int, pattern: str) -> list[Merge]:
    """Learn up to `merges` merges; fewer if the text has no more pairs.

    Ids while training: a byte is its value 0..255, the token of merge number i is 256 + i.
    """
    import regex

    finder = regex.compile(pattern)
    pieces = Counter(match.group() for text in texts for match in finder.finditer(text))
    words = [(list(piece.encode("utf-8")), count) for piece, count in pieces.items()]
    token_bytes = [bytes([value]) for value in range(256)]
    learned: list[Merge] = []
    for _ in range(merges):
        pairs: Counter[tuple[int, int]] = Counter()
        for ids, count in words:
            for pair in pairwise(ids):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        left, right = token_bytes[best[0]], token_bytes[best[1]]
        learned.append((left, right))
        new_id = len(token_bytes)
        token_bytes.append(left + right)
        words = [(join_pair(ids, best, new_id), count) for ids, count in words]
    return learned


def join_pair(ids: Sequence[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """`ids` with each occurrence of `pair`, from the left, replaced by `new_id`."""
    joined: list[int] = []
    at = 0
    while at < len(ids):
        if tuple(ids[at : at + 2]) == pair:
            joined.append(new_id)
            at += 2
        else:
            joined.append(ids[at])
            at += 1
    return joined


def encode_reference(text: str, merges: Sequence[Merge], pattern: str) -> list[bytes]:
    """The tokens of `text`, as bytes: each merge in turn, over every piece."""
    import regex

    tokens: list[bytes] = []
    for match in regex.finditer(pattern, text):
        parts = [bytes([value]) for value in match.group().encode("utf-8")]
        for left, right in merges:
            at = 0
            while at < len(parts) - 1:
                if parts[at] == left and parts[at + 1] == right:
                    parts[at : at + 2] = [left + right]
                at += 1
        tokens.extend(parts)
    return tokens
