"""Packing pieces of documents into rows, with as little padding as possible."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pieces:
    """Runs of targets, each within one document.

    Piece i predicts the tokens at start[i] .. start[i]+length[i]-1; the first `skip[i]` of these
    targets are context only (not counted). `fresh[i]`: it begins a document, so its first input
    is the head token; otherwise its first input is the token before `start[i]`.
    """

    start: np.ndarray  # int64 (P,)
    length: np.ndarray  # int64 (P,), 1 to T
    skip: np.ndarray  # int64 (P,)
    fresh: np.ndarray  # bool (P,)

    def __len__(self) -> int:
        return len(self.start)

    @property
    def counted(self) -> int:
        """Targets that are counted, over all pieces."""
        return int(self.length.sum() - self.skip.sum())

    def take(self, order: np.ndarray) -> Pieces:
        """These pieces, in this order."""
        return Pieces(self.start[order], self.length[order], self.skip[order], self.fresh[order])


def cut_documents(
    starts: np.ndarray,
    ends: np.ndarray,
    capacity: int,
    *,
    headed: bool,
    stride: int | None = None,
    long: str = "cut",
) -> Pieces:
    """Pieces of at most `capacity` targets that count every target of every document once.

    Args:
        starts, ends: int64 (documents,), where each document lies in the line of tokens.
        capacity: T, targets in a row.
        headed: a head token is put before each document, so its first token is a target too.
        stride: targets that a further piece of a long document counts; the capacity - stride
            tokens before them are repeated as context. None: capacity, nothing is repeated.
        long: what happens to a document longer than a row: "cut", "truncate" or "drop".
    """
    stride = capacity if stride is None else stride
    if not 1 <= stride <= capacity:
        raise ValueError(f"stride must be between 1 and {capacity}, not {stride}")
    first = starts if headed else starts + 1
    targets = ends - first
    keep = targets > 0
    if long == "drop":
        keep &= targets <= capacity
    first, targets = first[keep], targets[keep]
    if long == "truncate":
        targets = np.minimum(targets, capacity)
    further = np.maximum(0, -(-(targets - capacity) // stride))  # pieces after the first
    count = further + 1
    document = np.repeat(np.arange(len(first)), count)
    number = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)
    # Piece 0 counts targets 0..T-1; piece k counts T+(k-1)*stride .. T+k*stride-1.
    counted_from = np.where(number == 0, 0, capacity + (number - 1) * stride)
    end = np.minimum(capacity + number * stride, targets[document])
    skip = np.where(number == 0, 0, capacity - stride)
    begin = counted_from - skip
    return Pieces(
        start=first[document] + begin,
        length=end - begin,
        skip=skip,
        fresh=(begin == 0) & headed,
    )


def best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Best-fit decreasing bin packing.

    Pieces are placed from the longest to the shortest, each into the fullest bin that still has
    room. Bins with equal room are interchangeable, so all pieces of one length are placed
    together: the work is O(P log P) for sorting and about `capacity` bulk steps.

    Args:
        lengths: int64 (P,), each between 1 and `capacity`.
        capacity: room of a bin.

    Returns:
        the bin of each piece, int64 (P,), and the number of bins.
    """
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= capacity:
        raise ValueError(f"lengths must be between 1 and {capacity}")
    order = np.argsort(-lengths, kind="stable")
    values, counts = np.unique(lengths, return_counts=True)
    placed = np.empty(len(lengths), dtype=np.int64)  # bins, in the order of `order`
    bins = _Bins(capacity)
    at = 0
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist()):
        end = at + count
        while at < end:
            room, taken, each = bins.take(length, end - at)
            some = np.repeat(taken, each)[: end - at]
            placed[at : at + len(some)] = some
            at += len(some)
            full, rest = divmod(len(some), each)
            bins.put(room - each * length, taken[:full])
            if rest:
                bins.put(room - rest * length, taken[full:])
    result = np.empty_like(placed)
    result[order] = placed
    return result, bins.count


class _Bins:
    """Open bins, kept by the room that is left in them."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self._rooms: list[int] = []  # rooms that some open bin has, rising
        self._open: dict[int, list[np.ndarray]] = {}

    def take(self, length: int, pieces: int) -> tuple[int, np.ndarray, int]:
        """Bins for up to `pieces` pieces of `length`: their room, the bins, pieces for each.

        They are the fullest that fit. A bin keeps taking pieces of this length until none fits,
        since after each it is the fullest that fits.
        """
        at = bisect_left(self._rooms, length)
        if at == len(self._rooms):
            each = self.capacity // length
            new = -(-pieces // each)
            self.count += new
            return self.capacity, np.arange(self.count - new, self.count), each
        room = self._rooms[at]
        each = room // length
        need = -(-pieces // each)
        chunks = self._open[room]
        taken: list[np.ndarray] = []
        while need and chunks:
            chunk = chunks.pop()
            if len(chunk) > need:
                chunks.append(chunk[need:])
                chunk = chunk[:need]
            taken.append(chunk)
            need -= len(chunk)
        if not chunks:
            del self._open[room]
            self._rooms.pop(at)
        return room, np.concatenate(taken), each

    def put(self, room: int, bins: np.ndarray) -> None:
        """Give back bins that now have this room; full ones are closed."""
        if room == 0 or len(bins) == 0:
            return
        if room not in self._open:
            self._open[room] = []
            insort(self._rooms, room)
        self._open[room].append(bins)
