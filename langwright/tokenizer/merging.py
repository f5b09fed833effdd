"""The inner step of byte-pair encoding: join the parts of one piece by rank."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from langwright.base import UserError

LONGEST_TOKEN = 1024  # bytes; longer tokens appear in no real vocabulary


def merge_piece(piece: bytes, ranks: Mapping[bytes, int], below: int | None = None) -> list[bytes]:
    """Cut `piece` into tokens: again and again, join the neighbours whose union ranks lowest.

    Args:
        piece: the UTF-8 bytes of one piece.
        ranks: token to rank; all single bytes are in it.
        below: use only tokens of a lower rank.
    """
    # A linked list over byte positions, with a heap of candidate joins: n log n for long pieces.
    size = len(piece)
    ends = list(range(1, size + 1))  # ends[start of a part] = its end
    starts = list(range(-1, size))  # starts[position] = start of the part that ends there
    alive = [True] * size
    limit = float("inf") if below is None else below
    heap: list[tuple[int, int, int]] = []

    def offer(start: int) -> None:
        middle = ends[start]
        if middle < size:
            rank = ranks.get(piece[start : ends[middle]])
            if rank is not None and rank < limit:
                heapq.heappush(heap, (rank, start, ends[middle]))

    for start in range(size - 1):
        offer(start)
    while heap:
        _, start, end = heapq.heappop(heap)
        if not alive[start] or ends[start] >= size or ends[ends[start]] != end:
            continue  # one of its two parts has been joined to another since
        alive[ends[start]] = False
        ends[start] = end
        if end < size:
            starts[end] = start
        offer(start)
        if start > 0:
            offer(starts[start])
    return [piece[start : ends[start]] for start in range(size) if alive[start]]


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merge behind each token of several bytes, in the order of rank.

    A trained vocabulary needs only its tokens and their ranks: the two parts of a token are what
    the tokens of lower rank make of its bytes. A vocabulary for which that is not so (it was not
    made by byte-pair training) is a `UserError`.
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        if len(token) > LONGEST_TOKEN:
            raise UserError(
                "a token is too long", found=f"{len(token)} bytes", expected=LONGEST_TOKEN
            )
        parts = merge_piece(token, ranks, below=rank)
        if len(parts) != 2:
            raise UserError(
                "this is not a byte-pair vocabulary: a token is not the union of two earlier ones",
                found=f"{token!r} = {parts!r}",
            )
        merges.append((parts[0], parts[1]))
    return merges
