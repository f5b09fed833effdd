"""A byte n-gram model: the simplest language model that deserves the name.

Interpolated modified Kneser-Ney (Chen & Goodman 1998, section 3): the highest order counts
occurrences, each lower one counts how many different bytes stood before, and three discounts per
order move mass to the shorter context. The recursion ends in 1/256. Everything is vectorised: an
n-gram is an integer key (its first byte highest), a table is a sorted array of keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHUNK = 1 << 20  # positions evaluated at a time


@dataclass(frozen=True)
class _Order:
    """The table of one n: n-grams with their discounted counts, contexts with their totals."""

    grams: np.ndarray  # sorted keys of the n-grams seen
    mass: np.ndarray  # count of each, less its discount
    contexts: np.ndarray  # sorted keys of the (n-1)-byte contexts seen
    totals: np.ndarray  # count of each context
    backoff: np.ndarray  # share of each context's mass that goes to the shorter context


class ByteNgram:
    """Probability of the next byte after the `order` - 1 bytes before it.

    Args:
        text: what it learns from.
        order: 1 to 7 (the key must fit 64 bits with room); 5 looks at 4 bytes.
    """

    def __init__(self, text: bytes, order: int = 5) -> None:
        if not 1 <= order <= 7:
            raise ValueError(f"order {order} is not in 1..7")
        self.order = order
        data = np.frombuffer(text, dtype=np.uint8)
        self._orders: list[_Order] = []
        if len(data) < order:
            return  # nothing seen: 1/256 everywhere
        grams, counts = np.unique(_keys(data, order), return_counts=True)
        for size in range(order, 0, -1):
            self._orders.insert(0, _table(grams, counts))
            if size > 1:  # continuation counts: different bytes before each shorter n-gram
                shorter = grams & np.uint64((1 << (8 * (size - 1))) - 1)
                grams, counts = np.unique(shorter, return_counts=True)

    def probabilities(self, contexts: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """P(symbol | context): float64 (N,).

        Args:
            contexts: uint64 (N,), the order - 1 bytes before as a key, the oldest byte highest.
            symbols: (N,) bytes.
        """
        contexts = np.asarray(contexts, dtype=np.uint64)
        symbols = np.asarray(symbols, dtype=np.uint64)
        result = np.full(len(contexts), 1.0 / 256)
        for size, table in enumerate(self._orders, start=1):
            context = contexts & np.uint64((1 << (8 * (size - 1))) - 1)
            row, known = _find(table.contexts, context)
            gram, seen = _find(table.grams, (context << np.uint64(8)) | symbols)
            direct = np.where(seen, table.mass[gram], 0.0) / table.totals[row]
            result = np.where(known, direct + table.backoff[row] * result, result)
        return result

    def bits(self, text: bytes, before: bytes = b"") -> float:
        """Bits needed for `text` when `before` stands before it. The model stays as it is."""
        if not text:
            return 0.0
        reach = self.order - 1
        lead = (bytes(reach) + before)[-reach:] if reach else b""
        data = np.frombuffer(lead + text, dtype=np.uint8)
        keys = _keys(data, self.order)
        total = 0.0
        for start in range(0, len(keys), CHUNK):
            part = keys[start : start + CHUNK]
            chances = self.probabilities(part >> np.uint64(8), part & np.uint64(255))
            total -= float(np.log2(chances).sum())
        return total


def _keys(data: np.ndarray, size: int) -> np.ndarray:
    """Key of the n-gram of `size` bytes that ends at each position: uint64 (N - size + 1,)."""
    count = len(data) - size + 1
    keys = np.zeros(count, dtype=np.uint64)
    for offset in range(size):
        keys <<= np.uint64(8)
        keys |= data[offset : offset + count]
    return keys


def _table(grams: np.ndarray, counts: np.ndarray) -> _Order:
    """Discount the counts of one order."""
    contexts, starts = np.unique(grams >> np.uint64(8), return_index=True)
    discounts = _discounts(counts)
    taken = discounts[np.minimum(counts, 3)]
    totals = np.add.reduceat(counts, starts).astype(np.float64)
    backoff = np.add.reduceat(taken, starts) / totals
    return _Order(grams, counts - taken, contexts, totals, backoff)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What to take from counts of 0, 1, 2, 3 and more: (4,).

    Chen & Goodman's estimates from the numbers of n-grams seen 1 to 4 times. Where a table is too
    small or too regular for them to mean anything, half of the count's step is taken.
    """
    n1, n2, n3, n4 = (int((counts == value).sum()) for value in (1, 2, 3, 4))
    fallback = np.array([0.0, 0.5, 0.75, 0.75])
    if min(n1, n2, n3, n4) == 0:
        return fallback
    y = n1 / (n1 + 2 * n2)
    estimate = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    sane = (estimate > 0) & (estimate < [1, 1, 2, 3])
    return np.where(sane, estimate, fallback)


def _find(table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of each key in a sorted table (any, where it is absent), and whether it is there."""
    index = np.searchsorted(table, keys)
    index[index == len(table)] = 0
    return index, table[index] == keys
