"""Random orders that are functions, not sequences.

A row's place in the shuffled order is computed from (seed, epoch, index) alone: nothing is drawn
in turn and no permutation is stored. So any row can be asked for first, by any reader, and the
answer does not depend on the version of numpy's generators.
"""

from __future__ import annotations

import numpy as np

from langwright.base import seed_for

_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def hash64(key: int, counters: np.ndarray) -> np.ndarray:
    """64 random-looking bits for each counter: uint64, the shape of `counters` (1-D or more).

    The output function of SplitMix64 (Steele, Lea and Flood 2014), used as a counter-based
    generator: element i is the generator's output number counters[i] for the seed `key`.
    """
    value = np.uint64(key) + (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


def permuted(indices: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a random permutation of 0..size-1, chosen by `key`, sends each of `indices`.

    A Feistel network permutes the smallest square domain 4**h that holds `size`; a value that
    falls outside is sent through again until it falls inside (cycle walking; Black and Rogaway
    2002). Memory and time do not depend on `size`.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    round_keys = [int(k) for k in hash64(key, np.arange(_ROUNDS))]
    result = indices.astype(np.uint64)
    outside = np.arange(len(result))
    while len(outside):
        left, right = result[outside] >> half, result[outside] & mask
        for round_key in round_keys:
            left, right = right, left ^ (hash64(round_key, right) & mask)
        walked = (left << half) | right
        result[outside] = walked
        outside = outside[walked >= size]
    return result.astype(np.int64)


def epoch_order(indices: np.ndarray, size: int, seed: int, *, shuffle: bool = True) -> np.ndarray:
    """The item (0..size-1) that stands at each index of an endless run of epochs.

    Every epoch of `size` indices holds each item once. With `shuffle` each epoch has an order
    of its own, decided by (seed, epoch); otherwise the items stand in their natural order.
    """
    if len(indices) and int(indices.min()) < 0:
        raise IndexError(f"rows are numbered from 0, not {int(indices.min())}")
    epochs, inside = np.divmod(indices, size)
    if not shuffle:
        return inside
    result = np.empty_like(inside)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        result[here] = permuted(inside[here], size, seed_for(seed, "order", int(epoch)))
    return result
